"""Capturing transformers models: grouped heads, masks from the registry, every implementation on the CPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers import assert_explains, read  # noqa: E402

from sage2_capture import Plan, capture  # noqa: E402
from sage2_capture.errors import DataError  # noqa: E402

SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
OUT = Plan(output=True)


def llama(dtype=torch.float32, implementation: str = "sdpa", **changes):
    config = transformers.LlamaConfig(
        **SMALL, num_key_value_heads=2, vocab_size=97, attn_implementation=implementation, **changes
    )
    return transformers.LlamaForCausalLM(config).to(dtype).eval()


def tokens(*lengths: int, left: bool = False) -> dict:
    longest = max(lengths)
    mask = torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in zip(mask, lengths, strict=True):
        row[longest - length :] = 1 if left else row[longest - length :]
        row[:length] = row[:length] if left else 1
    return {"input_ids": torch.randint(1, 97, (len(lengths), longest)), "attention_mask": mask}


def run(tmp_path, model, plan=OUT, **inputs):
    with capture(tmp_path / "run.h5", plan, model, quiet=True) as session, torch.no_grad():
        model(**inputs)
    return read(tmp_path / "run.h5"), session


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_llama_with_grouped_heads(tmp_path, dtype, implementation: str) -> None:
    cells, _ = run(tmp_path, llama(dtype, implementation), **tokens(45))
    assert [c.attrs["layer_name"] for c in cells.values()] == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    for cell in cells.values():
        assert cell.q.shape == (1, 4, 45, 16) and cell.k.shape == (1, 2, 45, 16)
        assert cell.attrs["is_causal"] == 1
        assert cell.attrs["source"] == f"transformers.{implementation}"
        assert cell.dtype == str(dtype).removeprefix("torch.")
        assert_explains(cell)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("left", [False, True])
def test_padded_batches_become_entries_without_padding(tmp_path, implementation: str, left: bool) -> None:
    cells, _ = run(tmp_path, llama(implementation=implementation), **tokens(30, 17, left=left))
    assert [(key, c.q.shape[2]) for key, c in cells.items()] == [
        ((0, 0, 0), 30),
        ((0, 0, 1), 17),
        ((1, 0, 0), 30),
        ((1, 0, 1), 17),
    ]
    for cell in cells.values():
        assert cell.attrs["is_causal"] == 1
        assert_explains(cell)


def test_captured_values_are_those_after_rope(tmp_path) -> None:
    """Independent of our hooks: Q and K rebuilt from the layer's own projections and rotary embedding."""
    model = llama()
    inputs = tokens(23)
    cells, _ = run(tmp_path, model, **inputs)
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        x = model.model.layers[0].input_layernorm(model.model.embed_tokens(inputs["input_ids"]))
        q = attention.q_proj(x).unflatten(-1, (4, 16)).transpose(1, 2)
        k = attention.k_proj(x).unflatten(-1, (2, 16)).transpose(1, 2)
        cos, sin = model.model.rotary_emb(x, torch.arange(23)[None])
        q, k = transformers.models.llama.modeling_llama.apply_rotary_pos_emb(q, k, cos, sin)
    assert torch.equal(cells[0, 0, 0].q, q.double())
    assert torch.equal(cells[0, 0, 0].k, k.double())


def test_generation_records_the_prefill_and_decoding_on_request(tmp_path) -> None:
    model = llama()
    inputs = tokens(20)
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with capture(tmp_path / "run.h5", OUT, model, quiet=True):
        model.generate(**inputs, **options)
    assert list(read(tmp_path / "run.h5")) == [(0, 0, 0), (1, 0, 0)]
    with capture(tmp_path / "all.h5", Plan(output=True, decode=True), model, quiet=True):
        model.generate(**inputs, **options)
    cells = read(tmp_path / "all.h5")
    assert [(step, cells[0, step, 0].k.shape[2]) for step in range(4)] == [(0, 20), (1, 21), (2, 22), (3, 23)]
    for cell in cells.values():
        assert_explains(cell)


def test_chunked_prefill_is_causal_at_the_bottom_right(tmp_path) -> None:
    model = llama()
    ids = tokens(40)["input_ids"]
    with capture(tmp_path / "run.h5", OUT, model, quiet=True), torch.no_grad():
        cache = model(ids[:, :25], use_cache=True).past_key_values
        model(ids[:, 25:], past_key_values=cache)
    cell = read(tmp_path / "run.h5")[0, 0, 1]
    assert cell.q.shape[2] == 15 and cell.k.shape[2] == 40
    assert (cell.attrs["is_causal"], cell.attrs["causal_align"]) == (1, "bottom_right")
    assert_explains(cell)


def test_sliding_windows_are_left_out(tmp_path) -> None:
    config = transformers.MistralConfig(**SMALL, num_key_value_heads=2, vocab_size=97, sliding_window=8)
    model = transformers.MistralForCausalLM(config).eval()
    with pytest.raises(DataError, match="neither causal nor padding"):
        run(tmp_path, model, **tokens(40))
    cells, _ = run(tmp_path, model, **tokens(7))  # shorter than the window, so plainly causal
    assert_explains(cells[0, 0, 0])


def test_soft_caps_are_left_out(tmp_path) -> None:
    config = transformers.Gemma2Config(
        **SMALL, num_key_value_heads=2, head_dim=16, vocab_size=97, attn_implementation="eager"
    )
    with pytest.raises(DataError, match="softcap"):
        run(tmp_path, transformers.Gemma2ForCausalLM(config).eval(), **tokens(20))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_bert_with_padding(tmp_path, implementation: str) -> None:
    config = transformers.BertConfig(**SMALL, vocab_size=97, attn_implementation=implementation)
    model = transformers.BertModel(config).eval()
    cells, _ = run(tmp_path, model, **tokens(26, 11))
    assert [c.q.shape[2] for c in cells.values()] == [26, 11, 26, 11]
    for cell in cells.values():
        assert cell.attrs["is_causal"] == 0
        assert_explains(cell)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_vit(tmp_path, implementation: str) -> None:
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, attn_implementation=implementation)
    model = transformers.ViTModel(config).eval()
    cells, _ = run(tmp_path, model, pixel_values=torch.randn(2, 3, 32, 32))
    for cell in cells.values():
        assert cell.q.shape == (2, 4, 17, 16)
        assert_explains(cell)


def test_encoder_decoder_with_cross_attention(tmp_path) -> None:
    config = transformers.BartConfig(
        d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=97, attn_implementation="sdpa",
    )  # fmt: skip
    model = transformers.BartModel(config).eval()
    cells, _ = run(tmp_path, model, **tokens(20, 12), decoder_input_ids=torch.randint(1, 97, (2, 9)))
    shapes = {(c.attrs["layer_name"].split(".")[-1], c.q.shape[2], c.k.shape[2]) for c in cells.values()}
    assert shapes == {("self_attn", 20, 20), ("self_attn", 12, 12), ("self_attn", 9, 9),
                      ("encoder_attn", 9, 20), ("encoder_attn", 9, 12)}  # fmt: skip
    for cell in cells.values():
        assert_explains(cell)


def test_the_registry_is_left_as_it_was(tmp_path) -> None:
    from transformers.modeling_utils import AttentionInterface

    before = AttentionInterface.get_interface
    run(tmp_path, llama(), **tokens(20))
    assert AttentionInterface.get_interface is before
