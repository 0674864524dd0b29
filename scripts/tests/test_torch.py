"""Capturing plain PyTorch: one's own modules, nn.MultiheadAttention, decorated functions, masks, formats, plans."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from helpers import assert_explains, read  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402  (imported by name on purpose)

import sage2_capture  # noqa: E402
from sage2_capture import Plan, capture  # noqa: E402
from sage2_capture.errors import DataError, UsageError  # noqa: E402
from sage2_capture.selfcheck import choose  # noqa: E402


class Attention(nn.Module):
    """Self- or cross-attention with grouped key/value heads, which it repeats itself if told to."""

    def __init__(self, dim: int = 32, heads: int = 4, kv_heads: int = 4, repeat: bool = False, scale=None) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.repeat, self.scale = heads, kv_heads, repeat, scale
        self.q = nn.Linear(dim, heads * 16)
        self.kv = nn.Linear(dim, 2 * kv_heads * 16)

    def forward(self, x, context=None, mask=None, is_causal=False):
        context = x if context is None else context
        q = self.q(x).unflatten(-1, (self.heads, 16)).transpose(1, 2)
        k, v = self.kv(context).unflatten(-1, (2, self.kv_heads, 16)).permute(2, 0, 3, 1, 4)
        if self.repeat:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        gqa = k.shape[1] != self.heads
        return scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, scale=self.scale, enable_gqa=gqa
        )


class Blocks(nn.Module):
    def __init__(self, count: int = 3, **options) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention(**options) for _ in range(count))

    def forward(self, x, timestep=None, **kwargs):
        for block in self.blocks:
            x = x + block(x, **kwargs).transpose(1, 2).flatten(2)[..., : x.shape[-1]]
        return x


OUT = Plan(output=True)


def run(tmp_path, model, *args, plan=OUT, **kwargs):
    with capture(tmp_path / "run.h5", plan, model, quiet=True) as session, torch.no_grad():
        model(*args, **kwargs)
    return read(tmp_path / "run.h5"), session


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("is_causal", [False, True])
def test_output_is_reproduced(tmp_path, dtype, is_causal: bool) -> None:
    cells, _ = run(tmp_path, Blocks().to(dtype), torch.randn(2, 150, 32, dtype=dtype), is_causal=is_causal)
    assert list(cells) == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    for number, cell in enumerate(cells.values()):
        assert cell.attrs["layer_name"] == f"blocks.{number}"
        assert cell.dtype == str(dtype).removeprefix("torch.")
        assert cell.attrs["sm_scale"] == 0.25
        assert bool(cell.attrs["is_causal"]) == is_causal
        assert cell.q.shape == (2, 4, 150, 16)
        assert_explains(cell)


def test_unequal_lengths_keep_pytorch_alignment(tmp_path) -> None:
    model = Attention()
    cells, _ = run(tmp_path, model, torch.randn(1, 40, 32), torch.randn(1, 70, 32), is_causal=True)
    (cell,) = cells.values()
    assert cell.attrs["causal_align"] == "top_left"
    assert_explains(cell)
    cell.attrs["causal_align"] = "bottom_right"  # what a reader would get wrong without the attribute
    with pytest.raises(AssertionError):
        assert_explains(cell)


@pytest.mark.parametrize("repeat", [False, True])
def test_grouped_heads_are_stored_once(tmp_path, repeat: bool) -> None:
    cells, _ = run(tmp_path, Blocks(1, heads=6, kv_heads=2, repeat=repeat), torch.randn(1, 33, 32))
    assert cells[0, 0, 0].k.shape == (1, 2, 33, 16)
    assert_explains(cells[0, 0, 0])


def test_own_scale_and_cross_attention(tmp_path) -> None:
    cells, _ = run(tmp_path, Attention(scale=0.7), torch.randn(2, 40, 32), torch.randn(2, 11, 32))
    assert cells[0, 0, 0].attrs["sm_scale"] == pytest.approx(0.7)
    assert cells[0, 0, 0].k.shape[2] == 11
    assert_explains(cells[0, 0, 0])


def test_padding_becomes_one_sample_an_entry(tmp_path) -> None:
    mask = torch.ones(2, 1, 1, 20, dtype=torch.bool)
    mask[1, ..., 13:] = False
    cells, _ = run(tmp_path, Attention(), torch.randn(2, 20, 32), mask=mask)
    assert [c.q.shape[2] for c in cells.values()] == [20, 13]
    assert [c.attrs["batch_entry"] for c in cells.values()] == [0, 1]
    for cell in cells.values():
        assert_explains(cell)


def test_unsupported_masks_are_left_out_and_said(tmp_path) -> None:
    model = Blocks(2)
    window = torch.ones(20, 20, dtype=torch.bool).tril().triu(-3)
    with pytest.raises(DataError, match="neither causal nor padding"):
        run(tmp_path, model, torch.randn(1, 20, 32), mask=window)
    assert not (tmp_path / "run.h5").exists()
    with capture(tmp_path / "run.h5", model=model, quiet=True) as session, torch.no_grad():
        model(torch.randn(1, 20, 32), mask=window)
        model(torch.randn(1, 20, 32))
    assert "neither causal nor padding (2 calls)" in session.report()
    assert len(read(tmp_path / "run.h5")) == 2


def test_multihead_attention_and_transformer_layers(tmp_path) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 21, 32)
    with torch.no_grad():
        expected = model(x)
    cells, _ = run(tmp_path, model, x)
    assert [c.attrs["layer_name"] for c in cells.values()] == ["layers.0.self_attn", "layers.1.self_attn"]
    for cell in cells.values():
        assert_explains(cell)
    with torch.no_grad():
        assert torch.equal(model(x), expected)  # and the fused path is back
    assert torch.backends.mha.get_fastpath_enabled()


def test_multihead_attention_with_weights(tmp_path) -> None:
    model = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.randn(2, 21, 32)
    with torch.no_grad():
        expected = model(x, x, x)
        with capture(tmp_path / "run.h5", OUT, model, quiet=True):
            out, weights = model(x, x, x, need_weights=True)
    torch.testing.assert_close((out, weights), expected)
    (cell,) = read(tmp_path / "run.h5").values()
    assert_explains(cell)


def test_decorated_function_in_its_own_layout(tmp_path) -> None:
    @sage2_capture.attention(layout="NHD")
    def mine(query, keys, values, softmax_scale=None, causal=False):
        assert not causal
        scores = torch.einsum("bqhd,bkhd->bhqk", query, keys) * softmax_scale
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), values)

    class Model(nn.Module):
        def forward(self, x):
            return mine(x, x.roll(1), x.roll(2), softmax_scale=0.3)

    x = torch.randn(2, 37, 3, 16)
    cells, _ = run(tmp_path, Model(), x)
    assert cells[0, 0, 0].q.shape == (2, 3, 37, 16)
    assert cells[0, 0, 0].attrs["sm_scale"] == pytest.approx(0.3)
    assert_explains(cells[0, 0, 0], Model()(x).transpose(1, 2))
    with pytest.raises(UsageError, match="no argument for v"):
        sage2_capture.attention()(lambda q, k: q)


def test_without_a_model_calls_are_numbered(tmp_path) -> None:
    q = torch.randn(1, 2, 19, 16)
    with capture(tmp_path / "run.h5", quiet=True) as session:
        for step in range(2):
            session.step(step, 1000.0 - step)
            for _ in range(3):
                scaled_dot_product_attention(q, q, q)
    cells = read(tmp_path / "run.h5")
    assert list(cells) == [(layer, step, 0) for layer in range(3) for step in range(2)]
    assert cells[2, 1, 0].attrs["timestep_value"] == 999.0


def test_steps_follow_the_timestep_argument(tmp_path) -> None:
    model = Blocks(1)
    x = torch.randn(1, 16, 32)
    with capture(tmp_path / "run.h5", Plan(timesteps="::2"), model, quiet=True), torch.no_grad():
        for _prompt in range(2):
            for t in (998.4, 800.25, 600.0, 400.5):
                for _branch in range(2):
                    model(x, timestep=torch.tensor([t]))
    cells = read(tmp_path / "run.h5")
    assert list(cells) == [(0, step, sample) for step in (0, 2) for sample in range(4)]
    assert cells[0, 0, 0].attrs["timestep_value"] == pytest.approx(998.4, rel=1e-7)


def test_heads_and_tokens_of_the_plan(tmp_path) -> None:
    model = Attention(heads=4, kv_heads=2)
    x = torch.randn(1, 700, 32)
    cells, _ = run(tmp_path, model, x, plan=Plan(heads="0,1,3", max_tokens=300, output=True))
    (cell,) = cells.values()
    assert list(cell.attrs["q_head_numbers"]) == [0, 1, 3]
    assert cell.q.shape == (1, 3, 256, 16)  # two whole blocks of 128 rows fit into 300
    assert cell.k.shape == (1, 3, 700, 16)  # heads 0, 0, 1 no longer share evenly
    assert list(cell.attrs["q_row_blocks"]) == [0, 512]
    assert_explains(cell)
    (tmp_path / "run.h5").unlink()
    cells, _ = run(tmp_path, model, x, plan=Plan(heads="0,2", max_tokens=300, output=True), is_causal=True)
    (cell,) = cells.values()
    assert cell.q.shape == (1, 2, 300, 16) and cell.k.shape == (1, 2, 300, 16)
    assert_explains(cell)


def test_byte_cap_leaves_out_what_does_not_fit(tmp_path) -> None:
    size = 3 * 4 * 20 * 16 * 4
    cells, session = run(tmp_path, Blocks(5), torch.randn(1, 20, 32), plan=Plan(max_bytes=2 * size))
    assert len(cells) == 2
    assert "beyond max_bytes (3 calls)" in session.report()


def test_dry_run_writes_nothing_and_stops_early(tmp_path, capsys) -> None:
    model = Blocks(2)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(1, 20, 32)
    with capture(tmp_path / "run.h5", model=model, dry_run=True) as session, torch.no_grad():
        for t in range(10, 0, -1):
            model(x, timestep=t)
            model(x, timestep=t)
    assert len(calls) == 2  # both calls of the first step, then no more
    assert session.summary.cells == 4
    assert session.summary.bytes == 4 * 3 * 4 * 20 * 16 * 4
    assert "would be written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_nan_is_stored_and_named(tmp_path) -> None:
    x = torch.randn(1, 20, 32)
    x[0, 3, 5] = torch.nan
    cells, session = run(tmp_path, Attention(), x)
    assert cells[0, 0, 0].attrs["nonfinite"] > 0
    assert "not finite: layer 0, timestep 0, sample 0: 64 in q" in session.report()


def test_vae_and_text_encoder_inside_a_model_are_left_out(tmp_path) -> None:
    class Latent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae, self.text_encoder, self.unet = Attention(), Attention(), Attention()

        def forward(self, x):
            return self.vae(x) + self.unet(x) + self.text_encoder(x)

    cells, _ = run(tmp_path, Latent(), torch.randn(1, 20, 32))
    assert [c.attrs["layer_name"] for c in cells.values()] == ["unet"]


def test_a_hidden_bias_is_found_out(tmp_path) -> None:
    """Recorded tensors that do not explain the output must not reach the file unnoticed."""

    class Capped(nn.Module):
        @staticmethod
        @sage2_capture.attention()
        def core(q, k, v):
            scores = q @ k.transpose(-1, -2) * 0.25
            return (3 * torch.tanh(scores / 3)).softmax(-1) @ v

        def forward(self, x):
            return self.core(x, x, x)

    x = 2 * torch.randn(1, 2, 40, 16)
    with pytest.raises(DataError, match="output is not softmax"):
        run(tmp_path, Capped(), x)
    cells, _ = run(tmp_path, Capped(), x, plan=Plan(verify=False))
    assert len(cells) == 1


def test_dropout_and_odd_head_dims_are_left_out(tmp_path) -> None:
    class Odd(nn.Module):
        def forward(self, x):
            scaled_dot_product_attention(x, x, x, dropout_p=0.5)
            scaled_dot_product_attention(x, x, x[..., :8])
            scaled_dot_product_attention(x.double(), x.double(), x.double())
            wide = x.repeat(1, 1, 1, 20)
            scaled_dot_product_attention(wide, wide, wide)
            return scaled_dot_product_attention(x, x, x)

    cells, session = run(tmp_path, Odd(), torch.randn(1, 2, 40, 16))
    assert list(cells) == [(4, 0, 0)]
    for reason in ("dropout", "head dim of v (8) is not that of k (16)", "format float64", "head dim 320"):
        assert reason in session.report()


def test_five_and_three_axes(tmp_path) -> None:
    class Video(nn.Module):
        def forward(self, x):
            assert scaled_dot_product_attention(x, x, x).shape == x.shape
            y = x.flatten(0, 2)
            assert scaled_dot_product_attention(y, y, y).shape == y.shape

    cells, _ = run(tmp_path, Video(), torch.randn(2, 3, 4, 20, 16))
    assert cells[0, 0, 0].q.shape == (6, 4, 20, 16)
    assert cells[1, 0, 0].q.shape == (24, 1, 20, 16)
    for cell in cells.values():
        assert_explains(cell)


def test_nothing_to_hook_and_nothing_selected(tmp_path) -> None:
    class ByHand(nn.Module):
        def forward(self, x):
            return (x @ x.transpose(-1, -2)).softmax(-1) @ x

    x = torch.randn(1, 20, 32)
    with pytest.raises(DataError, match="no attention was seen in ByHand"):
        run(tmp_path, ByHand(), x)
    with pytest.raises(UsageError, match=r"plan selects nothing.*layers 0 to 2.*asks for layers=7"):
        run(tmp_path, Blocks(3), x, plan=Plan(layers=7))
    with pytest.raises(UsageError, match="expected a torch module or a pipeline, found int"):
        capture(tmp_path / "run.h5", model=3)
    with pytest.raises(UsageError, match=r"folder .* does not exist"), capture(tmp_path / "no/run.h5", model=Blocks(1)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_left_as_it_was(tmp_path) -> None:
    model = Blocks(2)
    x = torch.randn(1, 20, 32)
    before = model(x)
    run(tmp_path, model, x)
    assert torch.equal(model(x), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.nn.functional.scaled_dot_product_attention is scaled_dot_product_attention


def test_a_compiled_model_is_captured_eagerly(tmp_path) -> None:
    model = Blocks(1)
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(1, 20, 32)
    with torch.no_grad():
        compiled(x)  # compiled before the capture begins
        with capture(tmp_path / "run.h5", OUT, compiled, quiet=True):
            compiled(x)
    cells = read(tmp_path / "run.h5")
    assert [c.attrs["layer_name"] for c in cells.values()] == ["blocks.0"]


def test_choose_includes_both_ends() -> None:
    assert list(choose(10, 3)) == [0, 4, 9]
    assert list(choose(2, 8)) == [0, 1]
