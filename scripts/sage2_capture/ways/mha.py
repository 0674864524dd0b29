"""torch.nn.MultiheadAttention and the torch.nn.Transformer layers on top of it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .. import intercept


@contextlib.contextmanager
def install() -> Iterator[None]:
    """Keeps the modules on the path through scaled_dot_product_attention.

    The fused inference path of torch.nn is switched off, since it calls no attention function. A module that is asked
    for attention weights computes them by hand: it runs twice, once without weights for the output, which is seen, and
    once as asked for the weights, which are returned with it.
    """
    signature = inspect.signature(nn.MultiheadAttention.forward)
    original = nn.MultiheadAttention.forward

    def forward(self: nn.MultiheadAttention, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        if intercept.current() is None or not bound.arguments["need_weights"]:
            return original(self, *args, **kwargs)
        with intercept.all_blind():
            _, weights = original(*bound.args, **bound.kwargs)
        bound.arguments["need_weights"] = False
        out, _ = original(*bound.args, **bound.kwargs)
        return out, weights

    fast_path = torch.backends.mha.get_fastpath_enabled()
    nn.MultiheadAttention.forward = forward  # type: ignore[method-assign]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        nn.MultiheadAttention.forward = original  # type: ignore[method-assign]
        torch.backends.mha.set_fastpath_enabled(fast_path)
