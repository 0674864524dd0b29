"""`apply_map(...)`: makes a model's attention run the variants of an adaptive map."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .backends import Backend, choose
from .call import AttentionCall, unrepeat_heads
from .clock import Clock
from .errors import DataError, UsageError
from .fake.variant import parse_variant
from .intercept import Interceptor, eager
from .maps import AdaptiveMap
from .roots import EXCLUDED, find_roots

UNMAPPED = ("original", "base", "fallback")


class AppliedMap:
    """What `apply_map` returns: undo it with `remove()` or by leaving its with-block.

    `ran` counts calls by (variant, backend); calls left to the model are under ("original", reason).
    """

    def __init__(
        self,
        adaptive: AdaptiveMap,
        model: Any,
        components: Iterable[str] | None,
        scheduler: Any,
        backends: list[Backend],
        unmapped: str,
    ) -> None:
        self.ran: Counter[tuple[str, str]] = Counter()
        self._map = adaptive
        self._backends = backends
        self._unmapped = unmapped
        self._layers: dict[str, int] = {}
        self._parsed = {text: parse_variant(text) for text in adaptive.variants()}
        self._told: set[str] = set()
        roots = find_roots(model, components)
        _require_known_layers(adaptive, roots)
        self._clock = Clock(getattr(model, "scheduler", None) if scheduler is None else scheduler)
        self._context = contextlib.ExitStack()
        self._context.enter_context(eager())
        self._context.enter_context(self._clock.follow(roots))
        self._interceptor = Interceptor(roots, self._replace, self._clock.on_open)
        self._interceptor.install()

    def __enter__(self) -> AppliedMap:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Gives the model its own attention back."""
        self._interceptor.remove()
        self._context.close()

    def step(self, index: int, value: float = 0.0) -> None:
        """Says which denoising step comes next, for loops of one's own."""
        self._clock.set(index, value)

    def _replace(self, call: AttentionCall, original: Callable[[], torch.Tensor]) -> torch.Tensor:
        if EXCLUDED.search(call.site):
            return original()
        if call.q_len == 1 and call.kv_len > 1 and not self._clock.has_timesteps:
            return self._leave(original, "decoding")
        layer = self._layers.setdefault(call.site, len(self._layers))
        found = self._map.look_up(call.site, layer, self._clock.step)
        if found is None:
            text = None if self._unmapped == "original" else getattr(self._map, self._unmapped)
            if text is None:
                return self._leave(original, "not in the map")
        else:
            text, captured = found
            if not captured:
                self._tell(f"{self._map.where}: timestep {self._clock.step} was not captured, the nearest one is used")
        if call.unsupported is not None:
            self._tell(f"{call.site}: keeps the model's own attention ({call.unsupported})")
            return self._leave(original, call.unsupported)
        return self._run(text, call)

    def _run(self, text: str, call: AttentionCall) -> torch.Tensor:
        variant = self._parsed.get(text) or self._parsed.setdefault(text, parse_variant(text))
        call.k, call.v = unrepeat_heads(call)
        backend = next((b for b in self._backends if b.supports(variant, call)), None)
        if backend is None:
            names = ", ".join(b.name for b in self._backends)
            raise UsageError(f"{call.site}: backend {names} cannot run '{text}' on q {list(call.q.shape)}")
        self.ran[text, backend.name] += 1
        return backend.run(variant, call)

    def _leave(self, original: Callable[[], torch.Tensor], reason: str) -> torch.Tensor:
        self.ran["original", reason] += 1
        return original()

    def _tell(self, sentence: str) -> None:
        """Once for each kind of surprise, not for each call."""
        kind = "timestep" if "timestep" in sentence else sentence
        if kind not in self._told:
            self._told.add(kind)
            warnings.warn(sentence, stacklevel=2)


def _require_known_layers(adaptive: AdaptiveMap, roots: dict[str, nn.Module]) -> None:
    """A map of another model would silently leave everything as it is."""
    modules = {
        ".".join(part for part in (prefix, name) if part) or type(root).__name__
        for prefix, root in roots.items()
        for name, _ in root.named_modules()
    }
    names = {name.partition("#")[0] for name in adaptive.names.values()}
    if names and not names & modules:
        raise DataError(f"{adaptive.where}: the model has none of its layers (the first is '{min(names)}')")


def apply_map(
    model: Any,
    adaptive_map: AdaptiveMap | dict[str, Any] | str | Path,
    base: str | None = None,
    fallback: str | None = None,
    *,
    components: Iterable[str] | None = None,
    scheduler: Any = None,
    backend: str = "auto",
    unmapped: str = "original",
) -> AppliedMap:
    """Makes every attention call of `model` run the variant that the map has for its (layer, timestep).

        apply_map(pipe, "map.json")                  # for good
        with apply_map(model, "map.json") as applied:  # for a while
            ...
        print(applied.ran)

    model         a torch module, or a pipeline of diffusers (its denoisers) or transformers, as in `capture`
    adaptive_map  map.json of `sage2-eval rank`, its content, or `AdaptiveMap.uniform("sage2-4b")`
    base, fallback  variants to run instead of those the map names
    components, scheduler  as in `capture`
    backend       "auto" (the fastest that computes exactly the variant), or one by name ("fake", "sageattention")
    unmapped      what layers run that the map does not know: "original", "base" or "fallback"

    Calls that go beyond softmax(QK^T + mask)V, single-row decoding, VAE and text encoders keep the model's own
    attention. Raises UsageError or DataError where the map is malformed or knows none of the model's layers.
    """
    if unmapped not in UNMAPPED:
        raise UsageError(f"unmapped: expected one of {', '.join(UNMAPPED)}, found {unmapped!r}")
    adaptive = AdaptiveMap.load(adaptive_map).overridden(base, fallback)
    return AppliedMap(adaptive, model, components, scheduler, choose(backend), unmapped)
