"""Proof that recorded tensors mean what the file says: a few rows of attention against the model's own output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Unit roundoff 2^-p of p significand bits. FP32 counts as TF32, which PyTorch may use for it on GPUs.
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-11}
_FP16_SUBNORMAL_ROUNDING = 2.0**-25
CHECKED_ROWS = 8
CHECKED_HEADS = 4


@dataclass
class OutputRows:
    """The model's own output at `rows` of `heads` of one batch entry: o [len(heads), len(rows), dim]."""

    batch: int
    heads: np.ndarray
    rows: np.ndarray
    o: np.ndarray


def choose(count: int, most: int) -> np.ndarray:
    """At most `most` of 0 .. count-1, evenly spaced, first and last included."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def widen(tensor: np.ndarray, dtype: str) -> np.ndarray:
    """FP32 values of a stored tensor; exact, since every stored format is a subset of FP32."""
    if dtype == "bfloat16":
        return (tensor.astype(np.uint32) << 16).view(np.float32)
    return tensor.astype(np.float32)


def count_nonfinite(tensor: np.ndarray, dtype: str) -> int:
    """Number of NaN and infinities."""
    if dtype == "bfloat16":
        return int(np.count_nonzero((tensor & 0x7F80) == 0x7F80))
    return int(tensor.size - np.count_nonzero(np.isfinite(tensor)))


def visible_keys(rows: np.ndarray, q_len: int, kv_len: int, causal: bool, align: str) -> np.ndarray:
    """Number of keys that each of the query rows sees."""
    if not causal:
        return np.full(len(rows), kv_len)
    shift = kv_len - q_len if align == "bottom_right" else 0
    return np.clip(rows + shift + 1, 0, kv_len)


def explains_output(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    visible: np.ndarray,
    sm_scale: float,
    dtype: str,
    check: OutputRows,
) -> bool:
    """True where attention of the stored q, k, v [batch, heads, length, dim] reproduces the model's own rows.

    `visible` [len(check.rows)] is the number of keys each of the rows sees. With u the format's unit roundoff, an
    implementation may round scores and P (relative errors of u in each p, and of u |s| from s), and O once. These are
    independent from key to key, so that the squared error of a row should stay near
        u^2 (sum_j p_j^2 (1 + s_j^2) |v_j - o|^2 + |o|^2)
    and is accepted up to 16 times that, four standard deviations. A forgotten mask, bias or soft cap exceeds it by
    orders of magnitude. Rows without finite expectation are not judged; rows without any key may hold anything.
    """
    u2 = ROUNDOFF[dtype] ** 2
    groups = q.shape[1] // k.shape[1]
    for i, head in enumerate(check.heads):
        keys = widen(k[check.batch, head // groups], dtype).astype(np.float64)
        values = widen(v[check.batch, head // groups], dtype).astype(np.float64)
        queries = widen(q[check.batch, head][check.rows], dtype).astype(np.float64)
        for j in range(len(check.rows)):
            seen = int(visible[j])
            if seen == 0:
                continue
            with np.errstate(invalid="ignore", over="ignore"):
                s = keys[:seen] @ queries[j] * sm_scale
                p = np.exp(s - s.max())
                p /= p.sum()
                o = p @ values[:seen]
                found = widen(check.o[i, j], dtype).astype(np.float64)
                weights = p**2 * (1 + s**2)
                spread = weights @ ((values[:seen] - o) ** 2).sum(axis=1)
                noise = u2 * (spread + (o**2).sum())
                if dtype == "float16":
                    noise += _FP16_SUBNORMAL_ROUNDING**2 * (values[:seen] ** 2).sum()
                error = ((found - o) ** 2).sum()
            if np.isfinite(o).all() and not error <= 16 * noise + 1e-24:
                return False
    return True
