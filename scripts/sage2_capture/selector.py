"""Which of a numbered series (layers, timesteps, heads, samples) a plan asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from .errors import UsageError

SYNTAX = "all, a list 0,4,8-11, a slice start:stop:step, a fraction 25%, or /regular expression/ on the name"


@dataclass(frozen=True)
class Selector:
    """A predicate on index and name that needs no knowledge of how many there will be.

    A fraction picks evenly from the start: 25% picks 0, 4, 8, ...; 30% picks 0, 4, 7, 10, 14, ...
    """

    text: str = "all"
    indices: frozenset[int] | None = None
    slices: tuple[slice, ...] = field(default=())
    fraction: float | None = None
    pattern: re.Pattern[str] | None = None

    @staticmethod
    def parse(value: Selector | str | int | float | Iterable[int] | None, what: str = "selection") -> Selector:
        """Reads a selection; raises UsageError naming `what` (for example "layers") where it is malformed."""
        if isinstance(value, Selector):
            return value
        if value is None:
            return Selector()
        if isinstance(value, bool):
            raise UsageError(f"{what}: expected {SYNTAX}, found {value!r}")
        if isinstance(value, int):
            return Selector(str(value), indices=frozenset([_natural(value, what)]))
        if isinstance(value, float):
            return _fraction(value, f"{value:.6g}", what)
        if isinstance(value, str):
            return _parse_text(value.strip(), what)
        items = list(value)
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in items):
            raise UsageError(f"{what}: expected a list of integers, found {items!r}")
        return Selector(",".join(map(str, items)), indices=frozenset(_natural(i, what) for i in items))

    def __call__(self, index: int, name: str = "") -> bool:
        """True where number `index` (called `name`) is selected."""
        if self.pattern is not None:
            return self.pattern.search(name) is not None
        if self.fraction is not None:
            # floor(index f) counts the ones picked before; one more is picked whenever that count steps up.
            return index == 0 or math.floor(index * self.fraction + 1e-9) > math.floor(
                (index - 1) * self.fraction + 1e-9
            )
        if self.indices is None and not self.slices:
            return True
        if self.indices is not None and index in self.indices:
            return True
        return any(_in_slice(index, s) for s in self.slices)

    def __str__(self) -> str:
        return self.text


def _in_slice(index: int, s: slice) -> bool:
    return index >= s.start and (s.stop is None or index < s.stop) and (index - s.start) % s.step == 0


def _natural(value: int, what: str) -> int:
    if value < 0:
        raise UsageError(f"{what}: expected numbers from 0, found {value}")
    return value


def _fraction(value: float, text: str, what: str) -> Selector:
    if not 0 < value <= 1:
        raise UsageError(f"{what}: expected a fraction above 0 and at most 1 (100%), found {text}")
    return Selector(text, fraction=value)


def _parse_text(text: str, what: str) -> Selector:
    if text in ("", "all", "*"):
        return Selector()
    if len(text) > 1 and text[0] == "/" and text[-1] == "/":
        try:
            return Selector(text, pattern=re.compile(text[1:-1]))
        except re.error as error:
            raise UsageError(f"{what}: {text} is no regular expression ({error})") from None
    if re.fullmatch(r"\d+(\.\d+)?%", text):
        return _fraction(float(text[:-1]) / 100, text, what)
    if re.fullmatch(r"\d*\.\d+|1\.0*", text):
        return _fraction(float(text), text, what)
    indices: set[int] = set()
    slices: list[slice] = []
    for part in text.split(","):
        part = part.strip()
        if match := re.fullmatch(r"(\d+)-(\d+)", part):
            first, last = int(match[1]), int(match[2])
            if last < first:
                raise UsageError(f"{what}: the range {part} ends before it starts")
            indices.update(range(first, last + 1))
        elif match := re.fullmatch(r"(\d*):(\d*)(?::(\d*))?", part):
            step = int(match[3] or 1)
            if step == 0:
                raise UsageError(f"{what}: the slice {part} has step 0")
            slices.append(slice(int(match[1] or 0), int(match[2]) if match[2] else None, step))
        elif part.isdigit():
            indices.add(int(part))
        else:
            raise UsageError(f"{what}: expected {SYNTAX}, found '{text}'")
    return Selector(text, indices=frozenset(indices) if indices else None, slices=tuple(slices))
