"""Which parts of a model or pipeline are watched: the denoiser or language model, not the VAE or the text encoders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .errors import UsageError

# Components of diffusers pipelines that denoise.
_DENOISERS = re.compile(r"(transformer|unet|prior|decoder|dit|denoiser|model)(_\w+)?$")
# Submodules left out by default wherever they sit in a module of one's own.
EXCLUDED = re.compile(r"(^|\.)(vae|autoencoder|first_stage_model|cond_stage_model|text_encoder(_\d+)?)(\.|$)")


def find_roots(model: Any, components: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """Prefix of the layer names -> module to watch. One root has the prefix "" so that names do not depend on it.

    `model` is a module, a pipeline of diffusers or transformers, or a mapping of names to modules; `components` names
    those of a pipeline's components to watch instead of its denoisers.
    """
    if isinstance(model, nn.Module):
        return {"": _eager(model)}
    if isinstance(model, Mapping):
        available = dict(model)
        wanted = list(components) if components else list(available)
    elif isinstance(getattr(model, "components", None), Mapping):
        available = dict(model.components)
        wanted = list(components) if components else [name for name in available if _DENOISERS.match(name)]
    elif isinstance(getattr(model, "model", None), nn.Module):
        return {"": _eager(model.model)}
    else:
        raise UsageError(f"expected a torch module or a pipeline, found {type(model).__name__}")
    missing = [name for name in wanted if name not in available]
    if missing:
        raise UsageError(f"{type(model).__name__} has no component '{missing[0]}' (it has {', '.join(available)})")
    roots = {name: _eager(available[name]) for name in wanted if isinstance(available[name], nn.Module)}
    if not roots:
        raise UsageError(
            f"{type(model).__name__} has no denoiser among its components ({', '.join(available) or 'none'}); "
            "name the ones to watch"
        )
    return {"": next(iter(roots.values()))} if len(roots) == 1 else roots


def _eager(module: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper, whose names are the model's own."""
    inner = getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, nn.Module) else module


def describe(model: Any) -> str:
    """Name of a model for the file's attribute: where it was loaded from, or its class."""
    config = getattr(model, "config", None)
    for holder, attribute in ((config, "_name_or_path"), (model, "name_or_path"), (config, "name_or_path")):
        name = getattr(holder, attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(model).__name__ if model is not None else ""
