"""A decorator for attention functions that none of the libraries know."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from .. import intercept
from ..call import make_call
from ..errors import UsageError

_Function = TypeVar("_Function", bound=Callable[..., Any])
_NAMES = {
    "q": ("q", "query", "queries", "q_states", "query_states"),
    "k": ("k", "key", "keys", "key_states"),
    "v": ("v", "value", "values", "value_states"),
    "mask": ("mask", "attn_mask", "attention_mask", "attn_bias"),
    "causal": ("is_causal", "causal"),
    "scale": ("scale", "sm_scale", "softmax_scale", "scaling"),
    "dropout": ("dropout_p", "dropout"),
}


def attention(
    layout: str = "HND", *, causal: bool = False, causal_align: str = "bottom_right", name: str = ""
) -> Callable[[_Function], _Function]:
    """Marks a function of (q, k, v, ...) as attention, so that captures see it and maps apply to it.

    q, k, v are [..., heads, length, dim] (layout "HND") or [..., length, heads, dim] ("NHD"), and so is what it
    returns. Arguments are found by their usual names: q/query, k/key, v/value, mask,
    is_causal or causal (else `causal` here), scale or softmax_scale (else 1/sqrt(dim)), dropout_p. `name` replaces the
    module's name where the function runs outside of any module. Without an open capture the function runs untouched.
    """
    if layout not in ("HND", "NHD"):
        raise UsageError(f"attention: expected layout HND or NHD, found {layout!r}")

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        roles = {role: next((n for n in names if n in signature.parameters), None) for role, names in _NAMES.items()}
        for role in ("q", "k", "v"):
            if roles[role] is None:
                raise UsageError(
                    f"attention: {function.__name__}{signature} has no argument for {role} "
                    f"(expected one of {', '.join(_NAMES[role])})"
                )

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            interceptor = intercept.current()
            if interceptor is None:
                return function(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = {role: bound.arguments.get(n) for role, n in roles.items() if n is not None}
            call = make_call(
                given["q"],
                given["k"],
                given["v"],
                scale=given.get("scale"),
                layout=layout,
                mask=given.get("mask"),
                is_causal=bool(given.get("causal", causal)),
                causal_align=causal_align,
                dropout=given.get("dropout") or 0.0,
                source=f"function.{function.__qualname__}",
            )
            shape = given["q"].shape[:-1] + given["v"].shape[-1:]

            def original() -> torch.Tensor:
                # Through the wrapper again, which asks the next interceptor, or runs the function when there is none.
                out = wrapper(*args, **kwargs)
                if not isinstance(out, torch.Tensor):
                    raise UsageError(f"attention: {function.__name__} must return a tensor, not {type(out).__name__}")
                out = out.transpose(-2, -3) if layout == "NHD" else out
                return out.reshape(call.q.shape[0], -1, call.q_len, out.shape[-1])

            out = interceptor.see(call, original, name)
            return (out.transpose(1, 2) if layout == "NHD" else out).reshape(shape)

        return wrapper  # type: ignore[return-value]

    return decorate
