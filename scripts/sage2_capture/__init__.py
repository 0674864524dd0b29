"""From a PyTorch model to a capture for sage2-eval, and from an adaptive map back into the model.

    with capture("run.h5", "layers=25% timesteps=::10", model=pipe): pipe(prompt)
    apply_map(pipe, "map.json")

Names are imported when they are used, so that converting files needs no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Plan": "plan",
    "capture": "recorder",
    "attention": "ways.custom",
    "apply_map": "apply",
    "register_backend": "backends",
    "quantized_attention": "fake.attention",
    "Sage2Error": "errors",
    "UsageError": "errors",
    "DataError": "errors",
    "DeviceError": "errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
