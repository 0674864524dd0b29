"""The adaptive map: which variant each (layer, timestep) runs."""

from __future__ import annotations

import bisect
import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import DataError, UsageError

SCHEMA = "sage2-map/1"


class AdaptiveMap:
    """Looks up variants by the layer's qualified name, or by its number where the map has no such name.

    A timestep that was not captured gets the nearest captured one's variant (the earlier one of two as near).
    """

    def __init__(self, content: Mapping[str, Any], where: str = "map") -> None:
        if content.get("schema") != SCHEMA:
            raise DataError(f"{where}: expected schema {SCHEMA}, found {content.get('schema')!r}")
        cells = content.get("cells")
        if not isinstance(cells, list) or not cells:
            raise DataError(f"{where}: expected a list 'cells' with at least one cell")
        self.where = where
        self.model = str(content.get("model", ""))
        self.base = content.get("base")
        self.fallback = content.get("fallback")
        self._by_name: dict[str, dict[int, str]] = {}
        self._by_layer: dict[int, dict[int, str]] = {}
        self.names: dict[int, str] = {}
        for number, cell in enumerate(cells):
            try:
                layer, step, variant = int(cell["layer"]), int(cell["timestep"]), str(cell["variant"])
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{where}: cell {number} needs layer, timestep and variant ({error!r})") from None
            name = str(cell.get("layer_name", ""))
            self._by_layer.setdefault(layer, {})[step] = variant
            if name:
                self.names[layer] = name
                self._by_name.setdefault(name, {})[step] = variant

    @staticmethod
    def load(source: AdaptiveMap | Mapping[str, Any] | str | Path) -> AdaptiveMap:
        """Raises DataError where the file is missing, not JSON or not a map."""
        if isinstance(source, AdaptiveMap):
            return source
        if isinstance(source, Mapping):
            return AdaptiveMap(source)
        path = Path(source)
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error})") from None
        if not isinstance(content, dict):
            raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
        return AdaptiveMap(content, str(path))

    @staticmethod
    def uniform(variant: str) -> AdaptiveMap:
        """A map that runs one variant everywhere."""
        return _Uniform(variant)

    def variants(self) -> set[str]:
        """Every variant that the map may ask for."""
        return {variant for steps in self._by_layer.values() for variant in steps.values()}

    def look_up(self, name: str, layer: int, timestep: int) -> tuple[str, bool] | None:
        """The variant, and whether its timestep was captured; None where the layer is not in the map.

        Numbers count only for layers whose name the map does not tell: a number is right only in the same model.
        """
        steps = self._by_name.get(name)
        if steps is None and layer not in self.names:
            steps = self._by_layer.get(layer)
        if steps is None:
            return None
        if timestep in steps:
            return steps[timestep], True
        captured = sorted(steps)
        at = bisect.bisect(captured, timestep)
        near = min(captured[max(0, at - 1) : at + 1], key=lambda step: abs(step - timestep))
        return steps[near], False

    def overridden(self, base: str | None, fallback: str | None) -> AdaptiveMap:
        """The same map with other variants in place of its own base and fallback."""
        if base is None and fallback is None:
            return self
        replace = {}
        for own, other, role in ((self.base, base, "base"), (self.fallback, fallback, "fallback")):
            if other is not None:
                if own is None:
                    raise UsageError(f"{self.where}: names no {role}, so it cannot be replaced by '{other}'")
                replace[own] = other
        other_map = copy.deepcopy(self)
        for steps in (*other_map._by_layer.values(), *other_map._by_name.values()):
            for step, variant in steps.items():
                steps[step] = replace.get(variant, variant)
        other_map.base, other_map.fallback = base or self.base, fallback or self.fallback
        return other_map


class _Uniform(AdaptiveMap):
    def __init__(self, variant: str) -> None:
        super().__init__(
            {"schema": SCHEMA, "base": variant, "cells": [{"layer": 0, "timestep": 0, "variant": variant}]}
        )
        self._variant = variant

    def look_up(self, name: str, layer: int, timestep: int) -> tuple[str, bool] | None:
        return self._variant, True
