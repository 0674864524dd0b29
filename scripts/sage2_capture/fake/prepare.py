"""Everything before the attention loop: smoothing, rival transforms, quantisation of Q, K and V.

Tensors are FP32 [batch, heads, length, head_dim]. Orders, epsilons and roundings are those of sage2-eval's engines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .formats import is_scaled, round_half_away, round_to, top_of
from .variant import FP8, INTEGERS, Variant

_EPSILON = 1e-7  # of both official quantisers
SMOOTH_Q_BLOCK = 128  # b_q of the paper


@dataclass
class Prepared:
    """Codes with one scale a row for Q and K, codes with one scale a (tile, channel) for V."""

    q: torch.Tensor
    q_scale: torch.Tensor  # [batch, q_heads, q_len, 1]
    k: torch.Tensor
    k_scale: torch.Tensor  # [batch, kv_heads, kv_len, 1]
    delta_s: torch.Tensor | None  # dS sm_scale log2(e), [batch, q_heads, blocks of 128 rows, kv_len]
    v: torch.Tensor
    v_scale: torch.Tensor  # [batch, kv_heads, tiles or 1, head_dim]
    v_mean: torch.Tensor | None  # [batch, kv_heads, 1, head_dim]


def column_mean(x: torch.Tensor) -> torch.Tensor:
    """Mean over the rows: FP64 sums, one rounding to FP32."""
    return (x.double().sum(dim=-2, keepdim=True) / x.shape[-2]).float()


def prepare(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sm_scale: float, variant: Variant, dtype: torch.dtype
) -> Prepared:
    """Quantises one call. The mean of K is rounded to `dtype`, the input's format, as the official kernels store it."""
    if variant.smooth_k == "on":
        k = k - column_mean(k).to(dtype).float()
    delta_s = None
    if variant.smooth_q == "on":
        q, delta_s = _smooth_q(q, k, sm_scale)
    if variant.transform == "hadamard":
        q, k = hadamard(q), hadamard(k)
    elif variant.transform == "smoothattn":
        q, k = _smooth_attn(q, k)
    q_groups = _row_groups(q.shape[-2], variant, of_q=True, device=q.device)
    k_groups = _row_groups(k.shape[-2], variant, of_q=False, device=k.device)
    half_away = variant.qk_gran == "per_thread"
    q, q_scale = _quantize_rows(q, variant.q, q_groups, half_away)
    k, k_scale = _quantize_rows(k, variant.k, k_groups, half_away)
    v_mean = None
    if variant.smooth_v == "on":
        v_mean = column_mean(v)
        v = v - v_mean
    v, v_scale = _quantize_v(v, variant)
    return Prepared(q, q_scale, k, k_scale, delta_s, v, v_scale, v_mean)


def _smooth_q(q: torch.Tensor, k: torch.Tensor, sm_scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = q.split(SMOOTH_Q_BLOCK, dim=-2)
    means = torch.cat([column_mean(block) for block in blocks], dim=-2)
    smoothed = torch.cat([block - means[..., i : i + 1, :] for i, block in enumerate(blocks)], dim=-2)
    heads = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    delta = (means.double() * (sm_scale * math.log2(math.e))) @ heads.double().transpose(-1, -2)
    return smoothed, delta.float()


def hadamard(x: torch.Tensor) -> torch.Tensor:
    """Rows times D H / sqrt(n): fixed random signs, then the Walsh-Hadamard transform of the next power of two."""
    n = 1 << (x.shape[-1] - 1).bit_length()
    x = x * torch.tensor([_sign(c) for c in range(x.shape[-1])], device=x.device)
    x = torch.nn.functional.pad(x, (0, n - x.shape[-1]))
    half = 1
    while half < n:
        pairs = x.unflatten(-1, (-1, 2, half))
        x = torch.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], dim=-2).flatten(-3)
        half *= 2
    return x * (1 / math.sqrt(n))


def _sign(channel: int) -> float:
    """Low bit of a SplitMix64 step, the same signs as in sage2-eval."""
    mask = 2**64 - 1
    x = (channel + 1) * 0x9E3779B97F4A7C15 & mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return -1.0 if (x ^ x >> 31) & 1 else 1.0


def _smooth_attn(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    largest = k.abs().amax(dim=-2, keepdim=True)
    factor = torch.where(largest > 0, largest.sqrt(), torch.ones_like(largest))
    return q * factor.repeat_interleave(q.shape[1] // k.shape[1], dim=1), k / factor


def _row_groups(rows: int, variant: Variant, of_q: bool, device: torch.device) -> torch.Tensor:
    """Number of the scale group of each row."""
    i = torch.arange(rows, device=device)
    block = variant.q_tile if of_q else variant.k_tile
    warp = variant.warp_q if of_q else variant.k_tile  # all warps share the key tile
    match variant.qk_gran:
        case "per_tensor":
            return torch.zeros_like(i)
        case "per_block":
            return i // block
        case "per_warp":
            return i // warp
        case "per_thread":
            return i // warp * 8 + i % 8 if of_q else i // warp * 4 + i % 8 // 2
        case _:
            return i


def _quantize_rows(
    x: torch.Tensor, form: str, groups: torch.Tensor, half_away: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    if not is_scaled(form):
        return round_to(form, x), torch.ones_like(x[..., :1])
    row_amax = x.abs().amax(dim=-1)
    index = groups.expand_as(row_amax)
    group_amax = torch.zeros_like(row_amax[..., : int(groups.max()) + 1])
    amax = group_amax.scatter_reduce(-1, index, row_amax, "amax").gather(-1, index).unsqueeze(-1)
    top = top_of(form)
    scale = amax / top + _EPSILON if half_away else amax.clamp_min(_EPSILON) / top
    return _codes(x / scale, form, half_away), scale


def _codes(y: torch.Tensor, form: str, half_away: bool) -> torch.Tensor:
    if form not in INTEGERS:
        return round_to(form, y)
    top = top_of(form)
    return (round_half_away(y) if half_away else torch.round(y)).clamp(-top, top)


def _quantize_v(v: torch.Tensor, variant: Variant) -> tuple[torch.Tensor, torch.Tensor]:
    if not is_scaled(variant.v):
        return round_to(variant.v, v), torch.ones_like(v[..., :1, :])
    if variant.v_outliers in ("clip", "median"):
        v = _tame(v, variant.v_outliers)
    apart = _outlier_channels(v) if variant.v_outliers == "split" else None
    tile = variant.k_tile if variant.v_gran == "per_block" else v.shape[-2]
    ordinary = v if apart is None else torch.where(apart, torch.zeros_like(v), v)
    amax = torch.stack([part.abs().amax(dim=-2) for part in ordinary.split(tile, dim=-2)], dim=-2)
    if variant.v_gran != "per_channel":
        amax = amax.amax(dim=-1, keepdim=True).expand_as(amax)
    half = variant.pv_accum in ("fp32+fp16", "fp16")
    limit = 2.25 if variant.v in FP8 and half else top_of(variant.v)
    least = torch.finfo(torch.float32).tiny
    scale = torch.where(amax > 0, (amax / limit).clamp_min(least), torch.ones_like(amax))
    rows = scale.repeat_interleave(tile, dim=-2)[..., : v.shape[-2], :]
    codes = _codes(v / rows, variant.v, half_away=False)
    if apart is not None:
        codes = torch.where(apart, round_to("fp16", v), codes)
        scale = torch.where(apart, torch.ones_like(scale), scale)
    return codes, scale


def _tame(v: torch.Tensor, how: str) -> torch.Tensor:
    wide = v.double()
    mean = wide.mean(dim=-2, keepdim=True)
    reach = 3 * (wide - mean).square().mean(dim=-2, keepdim=True).sqrt()
    if how == "clip":
        return torch.minimum(torch.maximum(wide, mean - reach), mean + reach).float()
    median = v.median(dim=-2, keepdim=True).values  # the lower one
    return torch.where((wide - mean).abs() > reach, median, v)


def _outlier_channels(v: torch.Tensor) -> torch.Tensor:
    """Boolean [batch, heads, 1, dim]: a sixteenth of the channels, at least one, with the largest magnitudes."""
    largest = v.abs().amax(dim=-2, keepdim=True)
    order = largest.sort(dim=-1, descending=True, stable=True).indices[..., : max(1, v.shape[-1] // 16)]
    return torch.zeros_like(largest, dtype=torch.bool).scatter(-1, order, True)
