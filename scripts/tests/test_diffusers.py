"""Capturing diffusers models and pipelines: dispatch, processors, steps, guidance, what is left alone."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from helpers import assert_explains, read  # noqa: E402

from sage2_capture import Plan, capture  # noqa: E402
from sage2_capture.errors import DataError, UsageError  # noqa: E402

OUT = Plan(output=True)


def dit():
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=1000, out_channels=8, norm_num_groups=8,
    ).eval()  # fmt: skip


def unet():
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=16, cross_attention_dim=24, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=16,
    ).eval()  # fmt: skip


def wan():
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=32, ffn_dim=32, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32,
    ).eval()  # fmt: skip


def vae():
    return diffusers.AutoencoderKL(
        block_out_channels=(32,), latent_channels=4, norm_num_groups=8, down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",), sample_size=16,
    ).eval()  # fmt: skip


def dit_pipeline(**scheduler):
    pipe = diffusers.DiTPipeline(dit(), vae(), diffusers.DDIMScheduler(**scheduler))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_unet_self_and_cross_attention(tmp_path) -> None:
    model = unet()
    with capture(tmp_path / "run.h5", OUT, model, quiet=True), torch.no_grad():
        model(torch.randn(2, 4, 16, 16), 500, torch.randn(2, 7, 24))
    cells = read(tmp_path / "run.h5")
    names = [c.attrs["layer_name"] for c in cells.values()]
    assert names[:2] == [f"down_blocks.0.attentions.0.transformer_blocks.0.attn{i}" for i in (1, 2)]
    assert {c.k.shape[2] for c in cells.values()} >= {7, 256}
    assert all(c.attrs["timestep_value"] == 500 for c in cells.values())
    for cell in cells.values():
        assert_explains(cell)


def test_old_processors_are_seen_and_given_back(tmp_path) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    model = unet()
    model.set_attn_processor(AttnProcessor())
    x = (torch.randn(1, 4, 16, 16), 500, torch.randn(1, 7, 24))
    with torch.no_grad():
        expected = model(*x).sample
        with capture(tmp_path / "run.h5", OUT, model, quiet=True):
            out = model(*x).sample
    # The same attention in another order of sums, FP32, through a few layers.
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert {type(p).__name__ for p in model.attn_processors.values()} == {"AttnProcessor"}
    for cell in read(tmp_path / "run.h5").values():
        assert_explains(cell)


def test_dispatched_attention_with_its_layout(tmp_path) -> None:
    model = wan()
    with capture(tmp_path / "run.h5", OUT, model, quiet=True), torch.no_grad():
        for branch in ("cond", "uncond"):
            with model.cache_context(branch):
                model(torch.randn(1, 4, 2, 8, 8), torch.tensor([937.5]), torch.randn(1, 9, 16))
    cells = read(tmp_path / "run.h5")
    assert [c.attrs["layer_name"] for c in cells.values()][::2] == [
        "blocks.0.attn1", "blocks.0.attn2", "blocks.1.attn1", "blocks.1.attn2",
    ]  # fmt: skip
    assert cells[0, 0, 0].q.shape == (1, 2, 32, 12) and cells[1, 0, 0].k.shape == (1, 2, 9, 12)
    assert [cells[0, 0, sample].attrs["cfg_branch"] for sample in (0, 1)] == ["cond", "uncond"]
    assert cells[0, 0, 0].attrs["timestep_value"] == 937.5
    assert cells[0, 0, 0].attrs["source"].startswith("diffusers.")
    for cell in cells.values():
        assert_explains(cell)
    with capture(tmp_path / "cond.h5", Plan(cfg="cond"), model, quiet=True), torch.no_grad():
        for branch in ("cond", "uncond"):
            with model.cache_context(branch):
                model(torch.randn(1, 4, 2, 8, 8), torch.tensor([937.5]), torch.randn(1, 9, 16))
    assert {c.attrs["cfg_branch"] for c in read(tmp_path / "cond.h5").values()} == {"cond"}


@pytest.mark.parametrize("cfg", ["keep", "split", "cond"])
def test_pipeline_steps_seeds_and_batched_guidance(tmp_path, cfg: str) -> None:
    pipe = dit_pipeline()
    plan = Plan(output=True, cfg=cfg, timesteps="0,2")
    with capture(tmp_path / "run.h5", plan, pipe, quiet=True) as session:
        for label in (3, 5):
            with session.sample(f"class {label}", seed=label):
                pipe(class_labels=[label], num_inference_steps=4, generator=torch.Generator().manual_seed(label))
    cells = read(tmp_path / "run.h5")
    per_step = 4 if cfg == "split" else 2
    assert list(cells) == [(layer, step, n) for layer in (0, 1) for step in (0, 2) for n in range(per_step)]
    assert [cells[0, step, 0].attrs["timestep_value"] for step in (0, 2)] == [
        float(pipe.scheduler.timesteps[step]) for step in (0, 2)
    ]
    first, last = cells[0, 0, 0], cells[1, 2, per_step - 1]
    assert (first.attrs["sample_name"], first.attrs["seed"]) == ("class 3", 3)
    assert (last.attrs["sample_name"], last.attrs["seed"]) == ("class 5", 5)
    branches = [cells[0, 0, n].attrs.get("cfg_branch") for n in range(per_step)]
    assert branches == {"keep": [None] * 2, "split": ["uncond", "cond"] * 2, "cond": ["cond"] * 2}[cfg]
    assert first.q.shape[0] == (2 if cfg == "keep" else 1)
    for cell in cells.values():
        assert "attn1" in cell.attrs["layer_name"] and "vae" not in cell.attrs["layer_name"]
        assert_explains(cell)


def test_timesteps_are_not_the_rounded_ones_the_model_gets(tmp_path) -> None:
    """bfloat16 turns 998.4 into 1000; the file holds the scheduler's value."""
    model = dit()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    with capture(tmp_path / "run.h5", model=model, scheduler=scheduler, quiet=True), torch.no_grad():
        scheduler.set_timesteps(5)
        for t in scheduler.timesteps:
            assert t != t.bfloat16() or t == 1000
            model(torch.randn(1, 4, 8, 8), t.bfloat16()[None], torch.tensor([1]))
            scheduler.step(torch.zeros(1), t, torch.zeros(1))
    values = [c.attrs["timestep_value"] for key, c in read(tmp_path / "run.h5").items() if key[0] == 0]
    assert values == pytest.approx([float(t) for t in scheduler.timesteps], rel=1e-7)


def test_dry_run_of_a_pipeline_counts_all_steps(tmp_path, capsys) -> None:
    pipe = dit_pipeline()
    with capture(tmp_path / "run.h5", Plan(timesteps="::5", output=True), pipe, dry_run=True):
        pipe(class_labels=[3], num_inference_steps=20)
    text = capsys.readouterr().out
    size = 2 * 4 * 2 * 2 * 16 * 16 * 4  # 2 layers, 4 tensors, 2 entries, 2 heads, 16 tokens, dim 16, FP32
    assert f"8 cells, {4 * size / 1024:.1f} KiB would be written\nfor each sample (4 of 20 timesteps)" in text
    assert all(len(line) <= 80 for line in text.splitlines()[:-2])  # but for the name of the file
    with capture(tmp_path / "run.h5", Plan(timesteps="::5", output=True), pipe, quiet=True) as session:
        pipe(class_labels=[3], num_inference_steps=20)
    assert (session.summary.cells, session.summary.bytes) == (8, 4 * size)


def test_components_can_be_named(tmp_path) -> None:
    pipe = dit_pipeline()
    with capture(tmp_path / "run.h5", OUT, pipe, components=["vae"], quiet=True):
        pipe(class_labels=[3], num_inference_steps=1)
    assert all("mid_block.attentions" in c.attrs["layer_name"] for c in read(tmp_path / "run.h5").values())
    with pytest.raises(UsageError, match="no component 'text'"):
        capture(tmp_path / "x.h5", model=pipe, components=["text"])
    with pytest.raises(UsageError, match="no denoiser"):
        capture(tmp_path / "x.h5", model={"vae": None})


def test_models_without_attention(tmp_path) -> None:
    with pytest.raises(DataError, match="no attention was seen"), capture(tmp_path / "x.h5", model=unet(), quiet=True):
        pass


def test_the_dispatcher_is_left_as_it_was(tmp_path) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    before = dict(_AttentionBackendRegistry._backends)
    test_dispatched_attention_with_its_layout(tmp_path)
    assert dict(_AttentionBackendRegistry._backends) == before
