"""Where in the denoising schedule a call happens: step, value of the timestep, branch of the guidance."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

_ARGUMENTS = ("timestep", "timesteps", "time", "t")


class Clock:
    """Follows the steps of a pipeline's scheduler where there is one, else the timestep that the model is given.

    `step` is 0 for a model without timesteps. Values come from the scheduler, in its own precision, since models are
    given rounded ones (bfloat16 makes 1000 of 998.4).
    """

    def __init__(self, scheduler: Any = None) -> None:
        self.step = 0
        self.value = 0.0
        self.branch: str | None = None
        self.has_timesteps = False
        self._scheduler = scheduler
        self._scheduled = False
        self._fixed = False
        self._first: float | None = None
        self._last: float | None = None

    @property
    def total(self) -> int | None:
        """Number of steps of the schedule, where it is known."""
        timesteps = getattr(self._scheduler, "timesteps", None)
        return len(timesteps) if self._scheduled and timesteps is not None else None

    def restart(self) -> None:
        """A new sample begins: the next timestep is step 0."""
        self.step, self._first, self._last = 0, None, None

    def set(self, step: int, value: float) -> None:
        """The caller knows better; holds until the next `set`."""
        self.step, self.value, self._fixed, self.has_timesteps = step, float(value), True, True

    def on_open(self, _prefix: str, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Reads the timestep among the arguments of the model's forward."""
        if self._fixed:
            return
        value = _timestep_argument(root, args, kwargs)
        if value is None:
            return
        self.has_timesteps = True
        if self._scheduled:
            self.value = self._from_schedule(value)
            return
        if self._first is None or value == self._first:
            self.step, self._first = 0, value
        elif value != self._last:
            self.step += 1
        self._last = self.value = value

    def _from_schedule(self, given: float) -> float:
        """The scheduler's value that the model was given in lower precision, or divided by 1000, or the given one."""
        schedule = [float(t) for t in self._scheduler.timesteps]
        own = schedule[self.step : self.step + 1]
        for value in own + sorted(schedule, key=lambda t: abs(t - given)):
            if any(abs(value * scale - given) <= 2**-8 * abs(value * scale) for scale in (1, 1e-3)):
                return value
        return given

    @contextlib.contextmanager
    def follow(self, roots: dict[str, nn.Module]) -> Iterator[None]:
        """Listens to the scheduler and to the models' cache contexts."""
        with contextlib.ExitStack() as undo:
            if self._scheduler is not None:
                # On the class, for this one object: pipelines copy schedulers, and a copy must not be listened to.
                for name, listener in (("set_timesteps", self._on_schedule), ("step", self._on_step)):
                    if hasattr(type(self._scheduler), name):
                        undo.enter_context(_after(type(self._scheduler), name, self._scheduler, listener))
            for root in roots.values():
                if hasattr(type(root), "cache_context"):
                    undo.enter_context(_around(type(root), "cache_context", root, self._on_branch))
            yield

    def _on_schedule(self) -> None:
        self._scheduled = True
        self.step = 0

    def _on_step(self) -> None:
        if self._scheduled and not self._fixed:
            self.step += 1

    def _on_branch(self, name: str | None) -> None:
        self.branch = name


def _timestep_argument(root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    value = next((kwargs[name] for name in _ARGUMENTS if kwargs.get(name) is not None), None)
    if value is None and args:
        try:
            names = list(inspect.signature(root.forward).parameters)
        except (TypeError, ValueError):
            return None
        value = next((arg for name, arg in zip(names, args, strict=False) if name in _ARGUMENTS), None)
    if isinstance(value, torch.Tensor):
        # One value a token in some video models, 0 where a frame is given: the largest is the step's own.
        return float(value.detach().float().max()) if value.numel() else None
    return float(value) if isinstance(value, (int, float)) else None


@contextlib.contextmanager
def _patched(owner: type, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    own = name in owner.__dict__
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(make(original)))
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


def _after(owner: type, name: str, target: Any, listener: Callable[[], None]) -> Any:
    def make(original: Any) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            if self is target:
                listener()
            return result

        return method

    return _patched(owner, name, make)


def _around(owner: type, name: str, target: Any, listener: Callable[[str | None], None]) -> Any:
    def make(original: Any) -> Any:
        @contextlib.contextmanager
        def method(self: Any, branch: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
            with original(self, branch, *args, **kwargs) as value:
                if self is target:
                    listener(branch)
                try:
                    yield value
                finally:
                    if self is target:
                        listener(None)

        return method

    return _patched(owner, name, make)
