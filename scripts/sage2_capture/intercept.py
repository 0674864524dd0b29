"""Sees every attention call of a model, whichever library makes it, and knows which module makes it.

The scope opens when a module of the model is entered from outside and closes when that module returns. Only inside it
are calls seen, so that a VAE or a text encoder that runs between two steps is left alone. One call is seen once, by the
outermost way in (transformers' registry hands on to scaled_dot_product_attention, for instance).
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .call import AttentionCall, Handler

# Leaves of torch.nn that never call attention; everything else may, and gets a hook.
_CONTAINERS = (nn.MultiheadAttention, nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Interceptor:
    """Hands the attention calls made inside `roots` (qualified prefix -> module) to `handler`.

    Without roots every call inside `open()` counts, and sites are numbered in the order of the calls.
    `on_open(prefix, root, args, kwargs)` is told when a scope opens, `on_close(prefix)` when it has closed.
    """

    def __init__(
        self,
        roots: dict[str, nn.Module],
        handler: Handler,
        on_open: Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], None] | None = None,
        on_close: Callable[[str], None] | None = None,
    ) -> None:
        self.roots = roots
        self._handler = handler
        self._on_open = on_open
        self._on_close = on_close
        self._stack: list[str] = []
        self._ordinals: Counter[str] = Counter()
        self._busy = False
        self._thread = 0
        self._scope: contextlib.ExitStack | None = None
        self._installed = contextlib.ExitStack()

    def install(self) -> None:
        """Puts the hooks in place; `remove` takes all of them away again."""
        for prefix, root in self.roots.items():
            for name, module in root.named_modules():
                if _may_attend(module):
                    self._hook(module, name, prefix, root)
        from .ways import diffusers

        self._installed.enter_context(diffusers.replaced_processors(self.roots.values()))
        _ACTIVE.append(self)
        self._installed.callback(_forget, self)
        _install_ways()
        if not self.roots:
            self._open()

    def remove(self) -> None:
        """Leaves the model as it was."""
        self._close()
        self._installed.close()

    @property
    def active(self) -> bool:
        """True where a call made now, by this thread, should be seen."""
        return self._scope is not None and not self._busy and threading.get_ident() == self._thread

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """Calls made inside are not seen."""
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def reset_sites(self) -> None:
        """Numbers calls outside modules from 0 again (a new step or sample begins)."""
        self._ordinals.clear()

    def see(self, call: AttentionCall, original: Callable[[], torch.Tensor], name: str = "") -> torch.Tensor:
        """Runs the handler on one call; calls that it or the original make in turn are not seen."""
        base = name or (self._stack[-1] if self._stack else "attention")
        ordinal = self._ordinals[base]
        self._ordinals[base] += 1
        call.site = f"{base}#{ordinal}" if ordinal or not (self._stack or name) else base
        with self.blind():
            return self._handler(call, original)

    def _hook(self, module: nn.Module, name: str, prefix: str, root: nn.Module) -> None:
        qualified = ".".join(part for part in (prefix, name) if part) or type(root).__name__

        def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._stack:
                self._open()
                if self._on_open is not None:
                    try:
                        self._on_open(prefix, root, args, kwargs)
                    except BaseException:
                        self._close()
                        raise
            self._stack.append(qualified)

        def leave(_module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
            # An exception may have skipped inner modules: go back to this one.
            while self._stack and self._stack.pop() != qualified:
                pass
            if not self._stack and self._scope is not None:
                self._close()
                if self._on_close is not None:
                    self._on_close(prefix)

        for handle in (
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, always_call=True),
        ):
            self._installed.callback(handle.remove)

    def _open(self) -> None:
        from .ways import sdpa

        self._close()
        self._ordinals.clear()
        self._thread = threading.get_ident()
        self._scope = contextlib.ExitStack()
        self._scope.enter_context(sdpa.Mode())

    def _close(self) -> None:
        self._stack.clear()
        if self._scope is not None:
            scope, self._scope = self._scope, None
            scope.close()


def _may_attend(module: nn.Module) -> bool:
    if isinstance(module, _CONTAINERS):
        return isinstance(module, nn.MultiheadAttention)
    return not (type(module).__module__.startswith("torch.nn.modules.") and not list(module.children()))


def eager() -> contextlib.AbstractContextManager[Any]:
    """Compiled code calls no Python: runs compiled models eagerly. The compiler is not imported for it."""
    stance = getattr(torch.compiler, "set_stance", None)
    return stance("force_eager") if stance is not None and "torch._dynamo" in sys.modules else contextlib.nullcontext()


_ACTIVE: list[Interceptor] = []  # innermost last
_WAYS: dict[str, contextlib.AbstractContextManager[None]] = {}


def current() -> Interceptor | None:
    """The innermost interceptor that should see a call made now; while that one handles it, the next outer one."""
    return next((interceptor for interceptor in reversed(_ACTIVE) if interceptor.active), None)


@contextlib.contextmanager
def all_blind() -> Iterator[None]:
    """Calls made inside are seen by nobody."""
    with contextlib.ExitStack() as stack:
        for interceptor in _ACTIVE:
            stack.enter_context(interceptor.blind())
        yield


def _install_ways() -> None:
    """The libraries are patched once for all interceptors, so that these may come and go in any order."""
    from .ways import diffusers, mha, sdpa, transformers

    ways = {"sdpa": sdpa.install, "mha": mha.install}
    ways |= {"transformers": transformers.install} if transformers.loaded() else {}
    ways |= {"diffusers": diffusers.install} if diffusers.loaded() else {}
    for name, install in ways.items():
        if name not in _WAYS:
            _WAYS[name] = install()
            _WAYS[name].__enter__()


def _forget(interceptor: Interceptor) -> None:
    _ACTIVE.remove(interceptor)
    while not _ACTIVE and _WAYS:
        _WAYS.popitem()[1].__exit__(None, None, None)
