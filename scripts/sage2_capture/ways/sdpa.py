"""PyTorch's scaled_dot_product_attention, under whatever name it was imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..call import AttentionCall, make_call

if TYPE_CHECKING:
    from ..intercept import Interceptor


def mode(interceptor: Interceptor) -> TorchFunctionMode:
    """Context in which PyTorch tells us of each call; seen even where code imported the function by name."""
    return _Mode(interceptor)


class _Mode(TorchFunctionMode):
    def __init__(self, interceptor: Interceptor) -> None:
        super().__init__()
        self._interceptor = interceptor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or not self._interceptor.active:
            return func(*args, **kwargs)
        call, shape = read_arguments(*args, **kwargs)
        out = self._interceptor.see(call, lambda: _as_call(func(*args, **kwargs), call))
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
