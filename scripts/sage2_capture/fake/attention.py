"""The attention loop of a variant in PyTorch: key tile by key tile, with the running maximum of the kernels.

What agrees with sage2-eval's emulation: every code, scale and mean, the tile order, P rounded against the running
maximum, the denominator of unrounded P. What differs: products are summed in FP32 instead of the tensor core's
accumulator (so results match `pv_accum=exact` closely and truncating accumulators to about their own error), and
exponentials are PyTorch's. tests/test_fake.py measures both.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch

from ..errors import UsageError
from .formats import round_to
from .prepare import SMOOTH_Q_BLOCK, Prepared, prepare
from .variant import FP8, Variant, parse_variant

_NO_SCORE = -1e30
_OFFSETS = {"e4m3": 8.807, "e5m2": 15.807}  # log2 of the format's top, rounded down


def quantized_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    variant: Variant | str,
    *,
    sm_scale: float | None = None,
    is_causal: bool = False,
    causal_align: str = "bottom_right",
    mask: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Attention of `variant`, in the format of q unless `out_dtype` is another.

    q [batch, q_heads, q_len, head_dim]; k, v [batch, kv_heads, kv_len, head_dim], q_heads a multiple of kv_heads.
    `mask` is boolean (True = attend) or additive, broadcastable to [batch, q_heads, q_len, kv_len]. Rows that see no
    key give zeros. Raises UsageError where shapes do not fit or the variant is unknown.
    """
    variant = parse_variant(variant) if isinstance(variant, str) else variant
    if q.ndim != 4 or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        shapes = ", ".join(str(list(t.shape)) for t in (q, k, v))
        raise UsageError(f"quantized_attention: expected [batch, heads, length, head_dim] that fit, found {shapes}")
    if q.shape[1] % k.shape[1]:
        raise UsageError(f"quantized_attention: {q.shape[1]} query heads for {k.shape[1]} key/value heads")
    sm_scale = 1 / math.sqrt(q.shape[-1]) if sm_scale is None else sm_scale
    with _full_precision(), torch.autocast(q.device.type, enabled=False):
        prepared = prepare(q.float(), k.float(), v.float(), sm_scale, variant, q.dtype)
        out = _loop(prepared, variant, sm_scale, is_causal, causal_align, mask)
    form = {"exact": None, "fp16": "fp16", "bf16": "bf16"}[variant.o]
    return (out if form is None else round_to(form, out)).to(out_dtype or q.dtype)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products in FP32 rather than TF32, so that products of codes are exact."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def p_offset(variant: Variant) -> float:
    """What is added to the exponent so that P fills its format: P' = 2^(s - m + offset)."""
    if variant.p == "exact":
        return _OFFSETS["e4m3"] if variant.v in FP8 else 0.0
    return _OFFSETS.get(variant.p, 0.0)


def _loop(
    prepared: Prepared,
    variant: Variant,
    sm_scale: float,
    is_causal: bool,
    causal_align: str,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    batch, q_heads, q_len, _ = prepared.q.shape
    kv_heads, kv_len, dim = prepared.v.shape[1:]
    groups = q_heads // kv_heads
    grouped = (batch, kv_heads, groups, q_len)
    q = prepared.q.view(*grouped, -1)
    factor = (prepared.q_scale * (sm_scale * math.log2(math.e))).view(*grouped, 1)
    if is_causal:
        shift = kv_len - q_len if causal_align == "bottom_right" else 0
        visible = (torch.arange(q_len, device=q.device) + shift + 1)[:, None]
    offset = p_offset(variant)
    m = torch.full((*grouped, 1), _NO_SCORE, device=q.device)
    total = torch.zeros((*grouped, 1), device=q.device)
    o = torch.zeros((*grouped, dim), device=q.device)
    tile = variant.k_tile
    for number, first in enumerate(range(0, kv_len, tile)):
        keys = slice(first, min(first + tile, kv_len))
        seen = None
        if is_causal:
            seen = torch.arange(keys.start, keys.stop, device=q.device) < visible
        scores = q @ prepared.k[:, :, None, keys].transpose(-1, -2)
        scores = scores * (factor * prepared.k_scale[:, :, None, keys].transpose(-1, -2))
        if prepared.delta_s is not None:
            delta = prepared.delta_s[..., keys].repeat_interleave(SMOOTH_Q_BLOCK, dim=-2)[..., :q_len, :]
            scores = scores + delta.view(*grouped, -1)
        if mask is not None:
            scores, seen = _apply_mask(scores, seen, mask, keys, grouped)
        if seen is not None:
            scores = scores.masked_fill(~seen, _NO_SCORE)
        new_m = torch.maximum(m, scores.amax(dim=-1, keepdim=True) - offset)
        alpha = torch.exp2(m - new_m)
        p = torch.exp2(scores - new_m)
        if seen is not None:
            p = p.masked_fill(~seen, 0.0)
        m = new_m
        total = total * alpha + p.sum(dim=-1, keepdim=True)
        p = torch.round(p * 127) if variant.p == "int8" else round_to(variant.p, p)
        product = p @ prepared.v[:, :, None, keys]
        if prepared.v_scale.shape[-2] > 1:
            product = product * prepared.v_scale[:, :, None, number : number + 1]
        o = o * alpha + product
    if variant.p == "int8":
        total = total * 127
    o = torch.where(total > 0, o / total, torch.zeros_like(o))
    if prepared.v_scale.shape[-2] == 1:
        o = o * prepared.v_scale[:, :, None]
    if prepared.v_mean is not None:
        o = torch.where(total > 0, o + prepared.v_mean[:, :, None], o)
    return o.view(batch, q_heads, q_len, dim)


def _apply_mask(
    scores: torch.Tensor, seen: torch.Tensor | None, mask: torch.Tensor, keys: slice, grouped: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    while mask.ndim < 4:
        mask = mask.unsqueeze(1 if mask.ndim == 3 else 0)
    part = mask if mask.shape[-1] == 1 else mask[..., keys]
    heads = grouped[1:3] if part.shape[1] > 1 else (1, 1)
    part = part.unflatten(1, heads)
    if part.dtype == torch.bool:
        return scores, part if seen is None else seen & part
    # An additive mask hides with a large negative number; exp2 makes 0 of it unless it hides every key of a row.
    return scores + (part.float() * math.log2(math.e)).clamp_min(_NO_SCORE / 2), seen
