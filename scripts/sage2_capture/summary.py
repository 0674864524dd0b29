"""What a capture saw, wrote and left out, as a table that fits 80 columns."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from .plan import Plan, format_bytes
from .schema import Cell

_NAME = 31  # columns of a layer's name


@dataclass
class Row:
    """One attention site."""

    layer: int
    name: str
    seen: int = 0
    cells: int = 0
    resumed: int = 0
    bytes: int = 0
    q_shape: list[int] = field(default_factory=list)
    k_shape: list[int] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


class Summary:
    """Filled by the model's thread and by the writer's, hence the lock."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.seen = 0
        self.selected = 0
        self.last_step = 0
        self._lock = threading.Lock()

    @property
    def cells(self) -> int:
        return sum(row.cells for row in self.rows.values())

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows.values())

    def see(self, layer: int, name: str, step: int) -> Row:
        """Counts one call and returns its site's row."""
        row = self.rows.get(layer)
        if row is None:
            row = self.rows[layer] = Row(layer, name)
        row.seen += 1
        self.seen += 1
        self.last_step = max(self.last_step, step)
        return row

    def add(self, row: Row, q_shape: list[int], k_shape: list[int], size: int, resumed: bool = False) -> None:
        """One cell (to be) written, or found finished from an earlier run."""
        with self._lock:
            row.cells += 1
            row.resumed += resumed
            row.bytes += size
            row.q_shape, row.k_shape = q_shape, k_shape

    def skip(self, row: Row, reason: str) -> None:
        """One selected call left out."""
        with self._lock:
            row.skipped[reason] += 1

    def retract(self, row: Row, cell: Cell, reason: str) -> None:
        """A cell counted by `add` that is left out after all."""
        with self._lock:
            row.cells -= 1
            row.bytes -= cell.nbytes()
            row.skipped[reason] += 1

    def note_nonfinite(self, row: Row, cell: Cell, counts: dict[str, int]) -> None:
        """Cells with NaN or infinity are stored as they are, and named here."""
        cell.extras["nonfinite"] = sum(counts.values())
        found = ", ".join(f"{count} in {name}" for name, count in counts.items())
        with self._lock:
            row.notes.append(f"layer {cell.layer}, timestep {cell.timestep}, sample {cell.sample}: {found}")

    def reasons(self) -> str:
        """Why calls were left out, with counts, most frequent first."""
        total: Counter[str] = Counter()
        for row in self.rows.values():
            total += row.skipped
        return "; ".join(f"{reason} ({count} calls)" for reason, count in total.most_common())

    def nonfinite(self) -> list[str]:
        return [note for row in self.rows.values() for note in row.notes]

    def closing(self, file: str, cells: int, size: int) -> str:
        """One line for the end of a capture."""
        line = f"{file}: {cells} cells, {format_bytes(size)}"
        if resumed := sum(row.resumed for row in self.rows.values()):
            line += f", {resumed} of them from an earlier run"
        if reasons := self.reasons():
            line += f"; left out: {reasons}"
        if notes := self.nonfinite():
            line += f"; not finite in {len(notes)} cells ({notes[0]}{', ...' if len(notes) > 1 else ''})"
        return line

    def render(self, file: str, dry_run: bool, steps: int | None, plan: Plan) -> str:
        """The table. After a dry run, cells and bytes of one step are multiplied by the steps the plan selects.

        `steps` is the length of the schedule: None where it is not known, 0 for a model without timesteps.
        """
        count = len([s for s in range(steps) if plan.timesteps(s)]) if dry_run and steps else 1
        lines = [f"{'layer':>5} {'name':<{_NAME}} {'q':>16} {'keys':>9} {'cells':>5} {'size':>9}"]
        for row in sorted(self.rows.values(), key=lambda r: r.layer):
            name = row.name if len(row.name) <= _NAME else "..." + row.name[3 - _NAME :]
            if not row.cells:
                why = "; ".join(row.skipped) or "not selected"
                lines.append(f"{row.layer:>5} {name:<{_NAME}} {why}"[:80])
                continue
            q = "x".join(map(str, row.q_shape))
            keys = f"{row.k_shape[1]}x{row.k_shape[2]}"
            size = format_bytes(row.bytes * count)
            lines.append(f"{row.layer:>5} {name:<{_NAME}} {q:>16} {keys:>9} {row.cells * count:>5} {size:>9}")
        verb = "would be written" if dry_run else "written"
        total = f"{self.cells * count} cells, {format_bytes(self.bytes * count)}"
        lines.append(f"{file}: {total} {verb}")
        if dry_run:
            per = {None: "and timestep", 0: ""}.get(steps, f"({count} of {steps} timesteps)")
            lines.append(f"for each sample {per}".rstrip())
        lines += [f"left out: {reasons}" for reasons in [self.reasons()] if reasons]
        lines += [f"not finite: {note}" for note in self.nonfinite()]
        return "\n".join(lines)
