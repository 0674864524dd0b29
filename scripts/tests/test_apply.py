"""From a map back into the model: which variant runs where, and who computes it."""

from __future__ import annotations

import json
import sys
import types
import warnings

import pytest

torch = pytest.importorskip("torch")

from helpers import attention, read  # noqa: E402
from test_torch import Attention, Blocks  # noqa: E402

from sage2_capture import apply_map, backends, capture, quantized_attention, register_backend  # noqa: E402
from sage2_capture.call import make_call  # noqa: E402
from sage2_capture.errors import DataError, DeviceError, UsageError  # noqa: E402
from sage2_capture.fake.variant import parse_variant  # noqa: E402
from sage2_capture.maps import AdaptiveMap  # noqa: E402


def adaptive(cells: list[tuple[int, str, int, str]], **extra) -> dict:
    entries = [
        {"layer": layer, "layer_name": name, "timestep": step, "score": 0.5, "variant": variant}
        for layer, name, step, variant in cells
    ]
    return {"schema": "sage2-map/1", "base": "sage2-4b", "fallback": "sage2-8b", "cells": entries} | extra


TWO = adaptive([(0, "blocks.0", 0, "sage2-4b"), (1, "blocks.1", 0, "sage2-8b")])


def test_each_layer_runs_its_variant(tmp_path) -> None:
    """The outputs recorded under the map are those of the variants on the recorded inputs."""
    model = Blocks(3)
    x = torch.randn(2, 150, 32)
    with torch.no_grad():
        before = model(x)
        with (
            apply_map(model, TWO) as applied,
            capture(tmp_path / "run.h5", "output=on verify=off", model, quiet=True),
        ):
            model(x)
        assert torch.equal(model(x), before)
    assert applied.ran == {("sage2-4b", "fake"): 1, ("sage2-8b", "fake"): 1, ("original", "not in the map"): 1}
    cells = read(tmp_path / "run.h5")
    for layer, variant in ((0, "sage2-4b"), (1, "sage2-8b")):
        cell = cells[layer, 0, 0]
        expected = quantized_attention(cell.q.float(), cell.k.float(), cell.v.float(), variant, sm_scale=0.25)
        assert torch.equal(cell.o, expected.double())
        error = float((cell.o - attention(cell)).abs().sum() / attention(cell).abs().sum())
        assert 1e-4 < error < (0.2 if variant == "sage2-4b" else 0.05)
    torch.testing.assert_close(cells[2, 0, 0].o, attention(cells[2, 0, 0]), rtol=1e-5, atol=1e-6)


def test_timesteps_use_their_own_or_the_nearest_captured_variant() -> None:
    model = Blocks(1)
    x = torch.randn(1, 40, 32)
    content = adaptive([(0, "blocks.0", 0, "sage2-8b"), (0, "blocks.0", 4, "sage2-4b")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with apply_map(model, content) as applied, torch.no_grad():
            for t in range(7, 0, -1):
                model(x, timestep=t)
    # steps 0, 1, 2 (as near to 0 as to 4: the earlier) and 3, 4, 5, 6
    assert applied.ran == {("sage2-8b", "fake"): 3, ("sage2-4b", "fake"): 4}
    assert [str(w.message) for w in caught] == ["map: timestep 1 was not captured, the nearest one is used"]


def test_base_and_fallback_can_be_replaced_and_unmapped_layers_chosen() -> None:
    model = Blocks(3)
    x = torch.randn(1, 40, 32)
    with apply_map(model, TWO, base="int4", fallback="sage1", unmapped="base") as applied, torch.no_grad():
        model(x)
    assert applied.ran == {("int4", "fake"): 2, ("sage1", "fake"): 1}
    assert AdaptiveMap.load(TWO).variants() == {"sage2-4b", "sage2-8b"}
    with apply_map(model, AdaptiveMap.uniform("sage2-8b")) as applied, torch.no_grad():
        model(x)
    assert applied.ran == {("sage2-8b", "fake"): 3}


def test_grouped_heads_masks_and_decoding() -> None:
    model = Attention(heads=6, kv_heads=2, repeat=True)
    x = torch.randn(2, 40, 32)
    window = torch.ones(40, 40, dtype=torch.bool).tril().triu(-9)
    with torch.no_grad():
        exact = model(x, mask=window)
        with apply_map(model, AdaptiveMap.uniform("sage2-8b")) as applied:
            near = model(x, mask=window)
            step = model(x[:, :1], context=x)
        assert torch.equal(step, model(x[:, :1], context=x))
    assert applied.ran == {("sage2-8b", "fake"): 1, ("original", "decoding"): 1}
    error = float((near - exact).abs().sum() / exact.abs().sum())
    assert 1e-4 < error < 0.05


def test_two_models_at_once_in_any_order() -> None:
    first, second = Blocks(1), Blocks(1)
    x = torch.randn(1, 40, 32)
    with torch.no_grad():
        a = apply_map(first, AdaptiveMap.uniform("sage2-4b"))
        b = apply_map(second, AdaptiveMap.uniform("sage2-8b"))
        first(x), second(x)
        a.remove()
        first(x), second(x)
        b.remove()
        second(x)
    assert a.ran == {("sage2-4b", "fake"): 1}
    assert b.ran == {("sage2-8b", "fake"): 2}


def test_transformers_and_diffusers_models() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from test_diffusers import dit_pipeline
    from test_transformers import llama, tokens

    for implementation in ("sdpa", "eager"):
        model = llama(implementation=implementation)
        inputs = tokens(50)
        names = [f"model.layers.{i}.self_attn" for i in range(2)]
        content = adaptive([(0, names[0], 0, "sage2-4b"), (1, names[1], 0, "sage2-8b")])
        with torch.no_grad():
            exact = model(**inputs).logits
            with apply_map(model, content) as applied:
                near = model(**inputs).logits
            assert torch.equal(model(**inputs).logits, exact)
        assert applied.ran == {("sage2-4b", "fake"): 1, ("sage2-8b", "fake"): 1}
        assert 0 < float((near - exact).abs().max()) < 0.1
    pipe = dit_pipeline()
    layers = [f"transformer_blocks.{i}.attn1" for i in range(2)]
    cells = [(i, n, s, "sage2-8b" if s == 1 else "sage2-4b") for i, n in enumerate(layers) for s in range(3)]
    with apply_map(pipe, adaptive(cells)) as applied:
        for _ in range(2):
            pipe(class_labels=[3], num_inference_steps=3)
    assert applied.ran == {("sage2-4b", "fake"): 8, ("sage2-8b", "fake"): 4}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"schema": "other"}, "expected schema sage2-map/1"),
        ({"schema": "sage2-map/1", "cells": []}, "at least one cell"),
        ({"schema": "sage2-map/1", "cells": [{"layer": 0, "timestep": 0}]}, "cell 0 needs layer, timestep and variant"),
        (adaptive([(0, "transformer.h.0", 0, "sage2-4b")]), "the model has none of its layers"),
    ],
)
def test_maps_that_do_not_fit(tmp_path, content: dict, sentence: str) -> None:
    (tmp_path / "map.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"map\.json: .*{sentence}"):
        apply_map(Blocks(1), tmp_path / "map.json")


def test_other_bad_input(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        apply_map(Blocks(1), tmp_path / "none.json")
    (tmp_path / "map.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        apply_map(Blocks(1), tmp_path / "map.json")
    with pytest.raises(UsageError, match="no preset 'sage3'"):
        apply_map(Blocks(1), TWO, base="sage3")
    with pytest.raises(UsageError, match="unmapped"):
        apply_map(Blocks(1), TWO, unmapped="never")
    with pytest.raises(UsageError, match="no backend 'cuda'"):
        apply_map(Blocks(1), TWO, backend="cuda")
    if not backends.OfficialSageAttention().available():
        with pytest.raises(DeviceError, match="not available"):
            apply_map(Blocks(1), TWO, backend="sageattention")


def test_a_further_backend_is_asked_first() -> None:
    class Mine:
        name = "mine"

        def available(self) -> bool:
            return True

        def supports(self, variant, call) -> bool:
            return variant == parse_variant("sage2-8b")

        def run(self, variant, call):
            return torch.zeros_like(call.q)

    mine = Mine()
    register_backend(mine)
    try:
        with apply_map(Blocks(3), TWO) as applied, torch.no_grad():
            applied._interceptor.roots[""](torch.randn(1, 20, 32))
    finally:
        backends._REGISTRY.remove(mine)
    assert ("sage2-8b", "mine") in applied.ran and ("sage2-4b", "fake") in applied.ran


def test_official_kernels_are_called_for_exactly_their_variants(monkeypatch) -> None:
    """Which function and options stand for which variant; the package itself needs a GPU and is not tested here."""
    official = backends.OfficialSageAttention()
    ada, hopper, ampere = (8, 9), (9, 0), (8, 0)
    fp8 = "sageattn_qk_int8_pv_fp8_cuda"
    per_thread = {"qk_quant_gran": "per_thread"}
    expected = {
        ("sage2-8b", ada): (fp8, per_thread | {"pv_accum_dtype": "fp32+fp32"}),
        ("sage2pp-8b", ada): (fp8, per_thread | {"pv_accum_dtype": "fp32+fp16"}),
        ("sage2-8b@hopper", hopper): (f"{fp8}_sm90", per_thread | {"pv_accum_dtype": "fp32+fp32"}),
        ("sage2-8b@ampere", ampere): ("sageattn_qk_int8_pv_fp16_cuda", per_thread | {"pv_accum_dtype": "fp32"}),
        ("sage1", ada): ("sageattn_qk_int8_pv_fp16_triton", {"quantization_backend": "triton"}),
        ("sage2-8b", hopper): None,
        ("sage2-4b", ada): None,
        ("sage2-8b:smooth_k=off", ada): None,
    }
    for (text, capability), kernel in expected.items():
        assert official._kernel(parse_variant(text), capability) == kernel, text

    calls = []
    package = types.ModuleType("sageattention")
    setattr(package, fp8, lambda q, k, v, **options: calls.append(options) or q)
    monkeypatch.setitem(sys.modules, "sageattention", package)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: ada)
    call = make_call(*(torch.randn(1, 2, 20, 64),) * 3, scale=0.3, is_causal=True)
    official.run(parse_variant("sage2-8b"), call)
    assert calls == [
        per_thread
        | {"pv_accum_dtype": "fp32+fp32", "tensor_layout": "HND", "is_causal": True, "sm_scale": 0.3, "smooth_k": True}
    ]
    assert not official.supports(parse_variant("sage2-8b"), call)  # not on a GPU
