"""diffusers' attention dispatch, and the old processors that compute attention by hand."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..call import AttentionCall, make_call

if TYPE_CHECKING:
    from ..intercept import Interceptor

# Processors by hand -> the same computation through scaled_dot_product_attention.
_EQUIVALENT = {
    "AttnProcessor": "AttnProcessor2_0",
    "SlicedAttnProcessor": "AttnProcessor2_0",
    "XFormersAttnProcessor": "AttnProcessor2_0",
    "AttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
    "SlicedAttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
    "XFormersAttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
}


@contextlib.contextmanager
def install(interceptor: Interceptor) -> Iterator[None]:
    """Wraps every backend of the dispatcher and replaces processors; nothing to do where diffusers is not imported."""
    with contextlib.ExitStack() as undo:
        dispatch = sys.modules.get("diffusers.models.attention_dispatch")
        registry = getattr(dispatch, "_AttentionBackendRegistry", None)
        if registry is not None:
            originals = dict(registry._backends)
            undo.callback(lambda: registry._backends.update(originals))
            for name, backend in originals.items():
                registry._backends[name] = _wrap(interceptor, backend, str(getattr(name, "value", name)))
        processors = sys.modules.get("diffusers.models.attention_processor")
        if processors is not None:
            for root in interceptor.roots.values():
                for module in root.modules():
                    _replace_processor(module, processors, undo)
        yield


def _replace_processor(module: torch.nn.Module, processors: Any, undo: contextlib.ExitStack) -> None:
    processor = getattr(module, "processor", None)
    equivalent = _EQUIVALENT.get(type(processor).__name__)
    if equivalent is not None and hasattr(module, "set_processor"):
        undo.callback(module.set_processor, processor)
        module.set_processor(getattr(processors, equivalent)())


def _wrap(interceptor: Interceptor, backend: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(backend)
    def attention(**kwargs: Any) -> Any:
        if not interceptor.active:
            return backend(**kwargs)
        call = read_arguments(name, **kwargs)
        out = interceptor.see(call, lambda: backend(**kwargs).transpose(1, 2))
        return out.transpose(1, 2)

    return attention


def read_arguments(
    backend: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **kwargs: Any,
) -> AttentionCall:
    """The call in the dispatcher's layout [batch, length, heads, dim]; 2-D masks are padding, 3-D ones per entry."""
    mask = attn_mask
    if mask is not None and mask.ndim == 2:
        mask = mask[:, None, None, :]
    flash = "flash" in backend or "sage" in backend
    return make_call(
        query,
        key,
        value,
        scale=scale,
        layout="NHD",
        mask=mask,
        is_causal=is_causal,
        causal_align="bottom_right" if flash else "top_left",
        dropout=dropout_p,
        source=f"diffusers.{backend}",
        unsupported="log-sum-exp output" if kwargs.get("return_lse") else None,
    )
