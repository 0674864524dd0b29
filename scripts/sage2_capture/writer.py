"""Streams finished cells to disk in a background thread, with a bounded amount of memory between model and disk."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from .schema import Cell, cell_path, write_cell
from .selfcheck import OutputRows

Check = OutputRows | None


class BackgroundWriter:
    """Writes cells in the order they come.

    `inspect(cell, check)` runs in the thread before a cell is written and returns a reason to leave it out, or None.
    A failure (a full disk) is raised by the next `put` or by `close`; cells already written stay.
    """

    def __init__(self, folder: Path, inspect: Callable[[Cell, Check], str | None], memory: int) -> None:
        self._folder = folder
        self._inspect = inspect
        self._memory = memory
        self._held = 0
        self._room = threading.Condition()
        self._queue: queue.SimpleQueue[tuple[Cell, Check] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self.cells = 0
        self.bytes = 0
        self._thread = threading.Thread(target=self._run, name="sage2-capture-writer", daemon=True)
        self._thread.start()

    def reserve(self, size: int) -> None:
        """Waits until `size` bytes fit into the memory bound (a larger cell goes through alone)."""
        with self._room:
            while self._failure is None and self._held and self._held + size > self._memory:
                self._room.wait()
            self._held += size
        self._raise_failure()

    def put(self, cell: Cell, check: Check) -> None:
        """Hands over a cell whose bytes were reserved."""
        self._raise_failure()
        self._queue.put((cell, check))

    def drain(self) -> None:
        """Waits until everything handed over is on disk."""
        with self._room:
            while self._failure is None and self._held:
                self._room.wait()
        self._raise_failure()

    def close(self) -> None:
        """Waits until everything handed over is on disk; raises the failure if there was one."""
        self._queue.put(None)
        # A second Ctrl-C while waiting must not lose the cells that the thread still writes.
        while self._thread.is_alive():
            with contextlib.suppress(KeyboardInterrupt):
                self._thread.join()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            cell, check = item
            size = cell.nbytes()
            try:
                if self._failure is None and self._inspect(cell, check) is None:
                    write_cell(cell_path(self._folder, cell.key), cell)
                    self.cells += 1
                    self.bytes += size
            except BaseException as error:  # whatever it is, the model's thread must hear of it
                self._failure = error
            with self._room:
                self._held -= size
                self._room.notify_all()
