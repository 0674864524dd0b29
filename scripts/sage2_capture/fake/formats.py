"""Rounding to number formats, FP32 to FP32."""

from __future__ import annotations

import torch

from .variant import FP8, INTEGERS

_FLOATS = {
    "e4m3": (torch.float8_e4m3fn, 448.0),
    "e5m2": (torch.float8_e5m2, 57344.0),
    "fp16": (torch.float16, None),
    "bf16": (torch.bfloat16, None),
}


def top_of(form: str) -> float:
    """Largest magnitude of a scaled format: what the largest element of a scale group is mapped to."""
    if form in INTEGERS:
        return float(2 ** (int(form[3:]) - 1) - 1)
    return 448.0 if form == "e4m3" else 57344.0


def is_scaled(form: str) -> bool:
    """Integers and FP8 need a scale; 16-bit floats and exact values stand for themselves."""
    return form in INTEGERS or form in FP8


def round_to(form: str, x: torch.Tensor) -> torch.Tensor:
    """Nearest value of a float format, ties to even; FP8 saturates, FP16 overflows to infinity."""
    if form == "exact":
        return x
    dtype, limit = _FLOATS[form]
    return (x if limit is None else x.clamp(-limit, limit)).to(dtype).float()


def round_half_away(x: torch.Tensor) -> torch.Tensor:
    """Nearest integer, ties away from zero: truncates x + 0.5 sign(x), as the official Triton quantiser."""
    return torch.trunc(x + torch.copysign(torch.full_like(x, 0.5), x))
