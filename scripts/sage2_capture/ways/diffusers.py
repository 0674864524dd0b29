"""diffusers' attention dispatch, and the old processors that compute attention by hand."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from .. import intercept
from ..call import AttentionCall, make_call

# Processors by hand -> the same computation through scaled_dot_product_attention.
_EQUIVALENT = {
    "AttnProcessor": "AttnProcessor2_0",
    "SlicedAttnProcessor": "AttnProcessor2_0",
    "XFormersAttnProcessor": "AttnProcessor2_0",
    "AttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
    "SlicedAttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
    "XFormersAttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
}


def loaded() -> bool:
    """True where the library is imported and has a dispatcher."""
    return hasattr(sys.modules.get("diffusers.models.attention_dispatch"), "_AttentionBackendRegistry")


@contextlib.contextmanager
def install() -> Iterator[None]:
    """Wraps every backend of the dispatcher."""
    backends = sys.modules["diffusers.models.attention_dispatch"]._AttentionBackendRegistry._backends
    originals = dict(backends)
    for name, backend in originals.items():
        backends[name] = _wrap(backend, str(getattr(name, "value", name)))
    try:
        yield
    finally:
        backends.update(originals)


@contextlib.contextmanager
def replaced_processors(roots: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Swaps processors that compute attention by hand for their equivalents."""
    with contextlib.ExitStack() as undo:
        processors = sys.modules.get("diffusers.models.attention_processor")
        if processors is not None:
            for root in roots:
                for module in root.modules():
                    _replace_processor(module, processors, undo)
        yield


def _replace_processor(module: torch.nn.Module, processors: Any, undo: contextlib.ExitStack) -> None:
    processor = getattr(module, "processor", None)
    equivalent = _EQUIVALENT.get(type(processor).__name__)
    if equivalent is not None and hasattr(module, "set_processor"):
        undo.callback(module.set_processor, processor)
        module.set_processor(getattr(processors, equivalent)())


def _wrap(backend: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(backend)
    def attention(**kwargs: Any) -> Any:
        interceptor = intercept.current()
        if interceptor is None:
            return backend(**kwargs)
        call = read_arguments(name, **kwargs)
        out = interceptor.see(call, lambda: attention(**kwargs).transpose(1, 2))
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
