"""Fake quantisation against arithmetic written out by hand; against the C++ emulation in test_eval.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from sage2_capture import quantized_attention  # noqa: E402
from sage2_capture.errors import UsageError  # noqa: E402
from sage2_capture.fake.formats import round_half_away, round_to  # noqa: E402
from sage2_capture.fake.prepare import hadamard, prepare  # noqa: E402
from sage2_capture.fake.variant import PRESETS, Variant, parse_variant  # noqa: E402


def problem(q_len=200, kv_len=300, dim=64, heads=4, kv_heads=2, shift=2.0):
    q = torch.randn(2, heads, q_len, dim) + shift * torch.randn(2, heads, 1, dim)
    k = torch.randn(2, kv_heads, kv_len, dim) + shift * torch.randn(2, kv_heads, 1, dim)
    return q, k, torch.randn(2, kv_heads, kv_len, dim)


def exact(q, k, v, **options):
    return scaled_dot_product_attention(q.double(), k.double(), v.double(), enable_gqa=True, **options)


def rel_l1(o, reference) -> float:
    return float((o.double() - reference).abs().sum() / reference.abs().sum())


def test_fp8_rounding_over_all_codes_and_ties() -> None:
    """Code values from the formats' definitions; halfway between two codes goes to the even one."""
    for form, bits, bias, top in (("e4m3", 3, 7, 448.0), ("e5m2", 2, 15, 57344.0)):
        codes = [
            m * 2.0 ** (1 - bias - bits) if e == 0 else (1 + m / 2**bits) * 2.0 ** (e - bias)
            for e in range(2 ** (7 - bits))
            for m in range(2**bits)
        ]
        codes = [c for c in codes if c <= top]
        values = torch.tensor(codes)
        assert torch.equal(round_to(form, values), values)
        assert torch.equal(round_to(form, -values), -values)
        ties = (values[1:] + values[:-1]) / 2
        even = torch.where(torch.arange(len(ties)) % 2 == 0, values[:-1], values[1:])
        assert torch.equal(round_to(form, ties), even)
        assert round_to(form, torch.tensor([1e9, -torch.inf])).tolist() == [top, -top]


def test_half_away_rounding() -> None:
    x = torch.tensor([0.5, 1.5, -0.5, -2.5, 0.4999, 2.51])
    assert round_half_away(x).tolist() == [1.0, 2.0, -1.0, -3.0, 0.0, 3.0]


def groups(text: str, of_q: bool, length: int = 300) -> np.ndarray:
    """Scales of the rows, found by giving each row its own magnitude in turn: which rows share the largest one's?"""
    variant = parse_variant(text)
    shared = np.zeros((length, length), bool)
    for row in range(length):
        x = torch.ones(1, 1, length, 8)
        x[:, :, row] = 100.0
        prepared = prepare(x, x, x, 1.0, variant, torch.float32)
        scale = (prepared.q_scale if of_q else prepared.k_scale)[0, 0, :, 0]
        shared[row] = (scale > 2 * scale.min()).numpy() if bool((scale != scale[0]).any()) else True
    return shared


@pytest.mark.parametrize(
    ("granularity", "same_q", "same_k"),
    [
        ("per_tensor", lambda i, j: True, lambda i, j: True),
        ("per_block", lambda i, j: i // 128 == j // 128, lambda i, j: i // 64 == j // 64),
        ("per_warp", lambda i, j: i // 32 == j // 32, lambda i, j: i // 64 == j // 64),
        (
            "per_thread",
            lambda i, j: i // 32 == j // 32 and i % 8 == j % 8,
            lambda i, j: i // 64 == j // 64 and i % 8 // 2 == j % 8 // 2,
        ),
        ("per_token", lambda i, j: i == j, lambda i, j: i == j),
    ],
)
def test_rows_that_share_a_scale(granularity: str, same_q, same_k) -> None:
    for of_q, same in ((True, same_q), (False, same_k)):
        expected = np.array([[same(i, j) for j in range(150)] for i in range(150)])
        found = groups(f"int4:qk_gran={granularity}", of_q, length=150)
        assert np.array_equal(found, expected)


def test_scales_and_codes_of_one_group() -> None:
    x = torch.tensor([[1.0, -3.5, 0.25, 7.0]]).view(1, 1, 1, 4)
    per_token = prepare(x, x, x, 1.0, parse_variant("int4:qk_gran=per_token"), torch.float32)
    assert per_token.q_scale.item() == 1.0
    assert per_token.q.flatten().tolist() == [1.0, -4.0, 0.0, 7.0]  # half to even
    per_thread = prepare(x, x, x, 1.0, parse_variant("int4:qk_gran=per_thread"), torch.float32)
    assert per_thread.q_scale.item() == np.float32(1.0) + np.float32(1e-7)
    assert per_thread.q.flatten().tolist() == [1.0, -3.0, 0.0, 7.0]  # -3.5 / (1 + 1e-7) is not a tie any more
    v = prepare(x, x, x, 1.0, parse_variant("sage2pp-8b"), torch.float32)
    assert torch.allclose(v.v_scale.flatten() * 2.25, x.abs().flatten())


def test_exact_variant_is_attention() -> None:
    q, k, v = problem()
    # FP32 sums of 300 products, each within 2^-24: far below 1e-5 of the output's scale.
    torch.testing.assert_close(quantized_attention(q, k, v, "exact").double(), exact(q, k, v), rtol=1e-5, atol=1e-5)
    q, k, v = problem(300, 300)
    causal = quantized_attention(q, k, v, "exact", is_causal=True).double()
    torch.testing.assert_close(causal, exact(q, k, v, is_causal=True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("align", ["bottom_right", "top_left"])
@pytest.mark.parametrize("lengths", [(100, 230), (230, 100), (1, 70), (70, 1)])
def test_causal_alignment_and_rows_without_keys(align: str, lengths) -> None:
    q, k, v = problem(*lengths)
    q_len, kv_len = lengths
    shift = kv_len - q_len if align == "bottom_right" else 0
    mask = torch.arange(kv_len)[None] <= torch.arange(q_len)[:, None] + shift
    expected = torch.where(mask.any(1)[:, None], exact(q, k, v, attn_mask=mask), 0.0)
    for options in ({"is_causal": True, "causal_align": align}, {"mask": mask}):
        o = quantized_attention(q, k, v, "exact", **options)
        torch.testing.assert_close(o.double(), expected, rtol=1e-5, atol=1e-5)


def test_masks_of_every_shape() -> None:
    q, k, v = problem(60, 90)
    base = torch.rand(2, 4, 60, 90) > 0.3
    for mask in (base, base[:, :1], base[:1], base[0, 0], base[:, :, :1]):
        expected = exact(q, k, v, attn_mask=mask if mask.ndim == 4 else mask[None, None])
        torch.testing.assert_close(
            quantized_attention(q, k, v, "exact", mask=mask).double(), expected, rtol=1e-5, atol=1e-5
        )
        low = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        torch.testing.assert_close(
            quantized_attention(q, k, v, "exact", mask=low).double(), expected, rtol=1e-5, atol=1e-5
        )
    bias = torch.randn(1, 4, 60, 90)
    expected = exact(q, k, v, attn_mask=bias.double())
    torch.testing.assert_close(
        quantized_attention(q, k, v, "exact", mask=bias).double(), expected, rtol=1e-4, atol=1e-5
    )


def test_exact_formats_do_not_feel_smoothing_and_transforms() -> None:
    q, k, v = problem()
    for change in (
        "smooth_k=on",
        "smooth_q=on,smooth_k=on",
        "smooth_v=on",
        "transform=hadamard",
        "transform=smoothattn",
    ):
        o = quantized_attention(q, k, v, f"exact:{change}")
        # Means of size 6 cancel scores of size 100 in FP32: 100 x 2^-23 x a few.
        assert rel_l1(o, exact(q, k, v)) < 1e-4, change


def test_hadamard_is_orthonormal_and_matches_its_definition() -> None:
    x = torch.randn(1, 1, 5, 48, dtype=torch.float64)
    assert torch.allclose(hadamard(x) @ hadamard(x).transpose(-1, -2), x @ x.transpose(-1, -2))
    matrix = torch.tensor([[(-1.0) ** (i & j).bit_count() / math.sqrt(8) for j in range(8)] for i in range(8)])
    signs = hadamard(torch.eye(8)[None, None])[0, 0] @ matrix
    assert torch.allclose(signs.abs(), torch.eye(8), atol=1e-6)
    assert {-1.0, 1.0} == {round(float(s)) + 0.0 for s in signs.diagonal()}


def test_p_is_rounded_against_the_running_maximum() -> None:
    """Two key tiles whose scores rise: P of the first tile was rounded when its own maximum was the largest.

    One head, one channel, V = 1 on the key of interest and 0 elsewhere, so that O is P of that key over the sum.
    """
    scores = torch.zeros(128)
    scores[0], scores[1], scores[64] = 0.0, -2.3, 3.0
    q = torch.ones(1, 1, 1, 1) / math.log2(math.e)
    k = scores.view(1, 1, 128, 1)
    v = torch.zeros(1, 1, 128, 1)
    v[0, 0, 1] = 1.0
    o = quantized_attention(q, k, v, "exact:p=e4m3", sm_scale=1.0)
    first = 2.0 ** (8.807 - 2.3)  # against the first tile's maximum, 0
    steps = 2.0 ** (math.floor(math.log2(first)) - 3)
    rounded = round(first / steps) * steps * 2.0**-3
    total = sum(2.0 ** (float(s) - 3 + 8.807) for s in scores)
    assert o.item() == pytest.approx(rounded / total, rel=1e-5)
    at_once = 2.0 ** (8.807 - 2.3 - 3)
    other_step = 2.0 ** (math.floor(math.log2(at_once)) - 3)
    assert rounded == round(at_once / other_step) * other_step  # powers of two apart: the same code
    k[0, 0, 64] = 3.3
    o = quantized_attention(q, k, v, "exact:p=e4m3", sm_scale=1.0)
    total = sum(2.0 ** (float(s) - 3.3 + 8.807) for s in k.flatten())
    assert o.item() == pytest.approx(round(first / steps) * steps * 2.0**-3.3 / total, rel=1e-5)


def test_smoothing_helps_and_more_bits_help() -> None:
    q, k, v = problem(140, 140, shift=3.0)
    reference = exact(q, k, v)
    error = {name: rel_l1(quantized_attention(q, k, v, name), reference) for name in PRESETS}
    assert error["exact"] < 1e-5 < error["fp16"] < 0.01
    assert error["sage2-8b"] < 0.06 < error["sage2-4b"] < error["int4"]
    without = rel_l1(quantized_attention(q, k, v, "sage2-4b:smooth_q=off"), reference)
    assert error["sage2-4b"] < without < error["int4"]


def test_zeros_and_constants_give_no_nan() -> None:
    q, k, v = problem(40, 70, heads=2, kv_heads=1)
    for tensors in ((q * 0, k, v), (q, k * 0, v), (q, k, v * 0), (q, torch.ones_like(k), torch.ones_like(v))):
        for name in PRESETS:
            o = quantized_attention(*tensors, name)
            assert bool(torch.isfinite(o).all()), name
    v[..., 3] = 0
    assert bool((quantized_attention(q, k, v, "sage2-4b")[..., 3] == 0).all())


def test_variants_of_v() -> None:
    q, k, v = problem()
    v[:, :, 5, 7] = 60.0
    reference = exact(q, k, v)
    plain = rel_l1(quantized_attention(q, k, v, "exact:v=int8"), reference)
    assert rel_l1(quantized_attention(q, k, v, "exact:v=int8,v_outliers=split"), reference) < plain
    for change in (
        "v_outliers=clip",
        "v_outliers=median",
    ):  # these lose the outlier, and of normal data the 0.3% beyond 3 sigma
        o = quantized_attention(q, k, v, f"exact:v=int8,{change}")
        others = torch.arange(64) != 7
        assert rel_l1(o[..., others], reference[..., others]) < 0.05 < rel_l1(o[..., 7], reference[..., 7])
    # One scale for all channels suffers from the outlier; one a key tile only in the outlier's tile.
    tiles = rel_l1(quantized_attention(q, k, v, "exact:v=int8,v_gran=per_block"), reference)
    assert plain < tiles < rel_l1(quantized_attention(q, k, v, "exact:v=int8,v_gran=per_tensor"), reference)


def test_output_has_the_input_format() -> None:
    q, k, v = (t.bfloat16() for t in problem())
    assert quantized_attention(q, k, v, "sage2-4b").dtype == torch.bfloat16


def test_variant_grammar() -> None:
    assert parse_variant("sage2-4b:qk=int8,smooth_q=off") == PRESETS["sage2-8b"]
    assert parse_variant("sage2-8b@hopper").geometry == "64x128w16"
    assert parse_variant("sage2-8b@ampere").p == "fp16"
    assert parse_variant("exact:geometry=64x64w16") == Variant(geometry="64x64w16")
    for text in (
        "sage3",
        "sage2-4b:",
        "sage2-4b:qk",
        "sage2-4b:qk=int9",
        "sage2-4b:z=1",
        "fp16@volta",
        "exact:geometry=9",
    ):
        with pytest.raises(UsageError, match="variant"):
            parse_variant(text)


def test_shapes_that_do_not_fit() -> None:
    q, k, v = problem()
    with pytest.raises(UsageError, match="that fit"):
        quantized_attention(q[0], k[0], v[0], "exact")
    with pytest.raises(UsageError, match="4 query heads for 3"):
        quantized_attention(q, k[:, :1].expand(-1, 3, -1, -1), v[:, :1].expand(-1, 3, -1, -1), "exact")
