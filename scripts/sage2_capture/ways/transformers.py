"""transformers' attention registry, where key/value heads are not yet repeated and masks are what the model made.

The functions that the registry hands out are wrapped, whatever implementation the model uses. The model keeps its own
implementation and with it the mask that the mask registry makes for that implementation, so no mask is lost.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .. import intercept
from ..call import AttentionCall, make_call

# Arguments that change what is computed beyond Q, K, V, mask and scale.
_EXTRAS = ("softcap", "s_aux", "sinks", "position_bias", "cache", "block_mask", "score_mod", "alibi", "attention_bias")


def loaded() -> bool:
    """True where the library is imported and has a registry."""
    return hasattr(sys.modules.get("transformers.modeling_utils"), "AttentionInterface")


@contextlib.contextmanager
def install() -> Iterator[None]:
    """Wraps the registry's look-up."""
    registry = sys.modules["transformers.modeling_utils"].AttentionInterface
    name = "get_interface" if hasattr(registry, "get_interface") else "__getitem__"
    own = name in registry.__dict__
    original = getattr(registry, name)

    @functools.wraps(original)
    def look_up(self: Any, implementation: str, *args: Any) -> Any:
        return _wrap(original(self, implementation, *args), implementation or "eager")

    setattr(registry, name, look_up)
    try:
        yield
    finally:
        if own:
            setattr(registry, name, original)
        else:
            delattr(registry, name)


def _wrap(function: Callable[..., Any], implementation: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        interceptor = intercept.current()
        if interceptor is None:
            return function(module, query, key, value, attention_mask, *args, **kwargs)
        call = read_arguments(implementation, module, query, key, value, attention_mask, *args, **kwargs)
        rest: list[Any] = [None]

        def original() -> torch.Tensor:
            out, *rest[:] = attention(module, query, key, value, attention_mask, *args, **kwargs)
            return out.transpose(1, 2)

        out = interceptor.see(call, original)
        return (out.transpose(1, 2).contiguous(), *rest)

    return attention


def read_arguments(
    implementation: str,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    *args: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> AttentionCall:
    """The call as the implementation understands its arguments."""
    if args:  # eager functions take (scaling, dropout) by position in a few models
        scaling, dropout = args[0], args[1] if len(args) > 1 else dropout
    unsupported = next((f"argument '{name}'" for name in _EXTRAS if kwargs.get(name) is not None), None)
    q_len, kv_len = query.shape[2], key.shape[2]
    causal = bool(is_causal if is_causal is not None else getattr(module, "is_causal", True))
    align = "bottom_right"
    mask = attention_mask
    if "flash" in implementation:
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:  # padding, [batch, keys], 1 = real
            mask = mask.bool()[:, None, None, :]
        if sliding_window is not None and sliding_window < kv_len:
            unsupported = unsupported or "sliding window"
    elif "eager" in implementation:
        causal = False  # eager attention knows masks only
    else:
        causal = causal and mask is None and q_len > 1
        align = "top_left"
        if causal and kv_len > q_len:  # an empty static cache: the implementation cuts its unused end off
            key, value = key[:, :, :q_len], value[:, :, :q_len]
    return make_call(
        query,
        key,
        value,
        scale=scaling,
        mask=mask,
        is_causal=causal,
        causal_align=align,
        dropout=dropout,
        source=f"transformers.{implementation}",
        unsupported=unsupported,
    )
