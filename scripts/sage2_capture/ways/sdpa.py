"""PyTorch's scaled_dot_product_attention, under whatever name it was imported."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from .. import intercept
from ..call import AttentionCall, make_call

_FUNCTION = torch._C._nn.scaled_dot_product_attention  # what torch.nn.functional exports


class Mode(TorchFunctionMode):
    """Context in which PyTorch tells us of each call; seen even where code imported the function by name."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not _FUNCTION:
            return func(*args, **(kwargs or {}))
        return _see(func, args, kwargs or {})


@contextlib.contextmanager
def install() -> Iterator[None]:
    """Replaces the name in torch.nn.functional as well: the mode is off inside PyTorch's own composite functions."""
    before = F.scaled_dot_product_attention

    @functools.wraps(before)
    def wrapper(*args: Any, **kwargs: Any) -> torch.Tensor:
        return _see(before, args, kwargs)

    F.scaled_dot_product_attention = wrapper  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before  # type: ignore[assignment]


def _see(function: Callable[..., torch.Tensor], args: Any, kwargs: Any) -> torch.Tensor:
    interceptor = intercept.current()
    if interceptor is None:
        return function(*args, **kwargs)
    call, shape = read_arguments(*args, **kwargs)
    out = interceptor.see(call, lambda: _as_call(_see(function, args, kwargs), call))
    return out.reshape(shape)


def read_arguments(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[AttentionCall, tuple[int, ...]]:
    """The call, and the shape of what the function returns. PyTorch aligns is_causal with the upper left corner."""
    call = make_call(
        query,
        key,
        value,
        scale=scale,
        mask=attn_mask,
        is_causal=is_causal,
        causal_align="top_left",
        dropout=dropout_p,
        source="torch.scaled_dot_product_attention",
    )
    leading = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3])
    heads = query.shape[-3:-2] if enable_gqa else torch.broadcast_shapes(query.shape[-3:-2], key.shape[-3:-2])
    return call, (*leading, *heads, query.shape[-2], value.shape[-1])


def _as_call(out: torch.Tensor, call: AttentionCall) -> torch.Tensor:
    return out.reshape(call.q.shape[0], -1, call.q_len, out.shape[-1])
