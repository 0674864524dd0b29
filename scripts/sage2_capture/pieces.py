"""What of one attention call is stored: guidance branch, batch entries without padding, query rows, heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .call import AttentionCall
from .masks import Part
from .plan import Plan
from .schema import Cell
from .selfcheck import CHECKED_HEADS, CHECKED_ROWS, OutputRows, choose

BLOCK = 128  # rows that share a mean of Q and lie in one query tile


@dataclass(frozen=True)
class Piece:
    """A part of a call that becomes one cell."""

    part: Part
    batch: slice
    branch: str | None


def pieces(parts: tuple[Part, ...], batch: int, branch: str | None, cfg: str) -> Iterator[Piece]:
    """Splits parts by guidance branch as the plan's `cfg` says.

    A batch that the pipeline did not label as one branch holds the unconditional half first (diffusers' order).
    """
    branch = branch and branch.removeprefix("pred_")
    labelled = branch not in (None, "cond_uncond")
    halves = cfg != "keep" and not labelled and batch % 2 == 0
    for part in parts:
        if part.batch is not None:
            name = ("uncond" if part.batch < batch // 2 else "cond") if halves else branch
            choices = [(slice(part.batch, part.batch + 1), name)]
        elif halves:
            choices = [(slice(0, batch // 2), "uncond"), (slice(batch // 2, batch), "cond")]
        else:
            choices = [(slice(0, batch), branch)]
        for entries, name in choices:
            if cfg in ("cond", "uncond") and name in ("cond", "uncond") and name != cfg:
                continue
            yield Piece(part, entries, name)


@dataclass
class Cut:
    """Rows, keys and heads of a piece that are kept, with the flags that hold for what remains."""

    piece: Piece
    rows: np.ndarray  # query rows of the call
    keys: slice
    q_heads: list[int]
    kv_heads: list[int]
    extras: dict[str, Any]

    def shape(self, dim: int) -> tuple[list[int], list[int]]:
        """Shapes of q and of k (and v)."""
        batch = self.piece.batch.stop - self.piece.batch.start
        keys = self.keys.stop - self.keys.start
        return [batch, len(self.q_heads), len(self.rows), dim], [batch, len(self.kv_heads), keys, dim]


def cut(call: AttentionCall, kv_heads: int, piece: Piece, plan: Plan) -> Cut | None:
    """Applies the plan's heads and token cap; None where no head is selected."""
    part = piece.part
    rows = np.arange(call.q_len)[part.rows]
    start, stop, _ = part.keys.indices(call.kv_len)
    extras: dict[str, Any] = {}
    if part.batch is not None:
        extras["batch_entry"] = np.int64(part.batch)
    limit = plan.max_tokens
    if limit is not None and len(rows) > limit:
        extras["q_len_of_model"] = np.int64(len(rows))
        if part.is_causal:
            if part.causal_align == "bottom_right":
                stop -= len(rows) - limit
            else:
                stop = min(stop, start + limit)
            rows = rows[:limit]
        else:
            rows = rows[_even_blocks(len(rows), limit)]
            extras["q_row_blocks"] = rows[::BLOCK].astype(np.int64)
    if stop <= start:
        return None
    q_heads = [head for head in range(call.q.shape[1]) if plan.heads(head)]
    if not q_heads:
        return None
    groups = call.q.shape[1] // kv_heads
    needed = [head // groups for head in q_heads]
    unique = sorted(set(needed))
    # Grouped queries stay grouped where each key/value head keeps the same number of query heads.
    shared = len(q_heads) // len(unique)
    kept = unique if needed == [head for head in unique for _ in range(shared)] else needed
    if len(q_heads) != call.q.shape[1]:
        extras["q_head_numbers"] = np.array(q_heads, dtype=np.int64)
    return Cut(piece, rows, slice(start, stop), q_heads, kept, extras)


def _even_blocks(length: int, limit: int) -> np.ndarray:
    """At most `limit` rows in whole, evenly spaced blocks of 128 rows (fewer rows than that: from the start)."""
    if limit < BLOCK:
        return np.arange(limit)
    first = choose(length // BLOCK, limit // BLOCK) * BLOCK
    return (first[:, None] + np.arange(BLOCK)).reshape(-1)


def to_host(tensor: torch.Tensor, batch: slice, heads: list[int], rows: np.ndarray | slice) -> np.ndarray:
    """A copy in main memory, HND, of the selected entries, heads and rows; bfloat16 as its bits."""
    t = tensor.detach()[batch]
    if heads != list(range(t.shape[1])):
        t = t[:, heads]
    if isinstance(rows, slice):
        t = t[:, :, rows]
    elif len(rows) == rows[-1] - rows[0] + 1:
        t = t[:, :, int(rows[0]) : int(rows[-1]) + 1]
    else:
        t = t[:, :, torch.as_tensor(rows, device=t.device)]
    host = t.to("cpu", copy=True, memory_format=torch.contiguous_format)
    return np.ascontiguousarray((host.view(torch.uint16) if host.dtype == torch.bfloat16 else host).numpy())


def make_cell(
    call: AttentionCall,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    chosen: Cut,
    plan: Plan,
    place: dict[str, Any],
) -> tuple[Cell, OutputRows | None]:
    """Copies the chosen part of a call to main memory. `place` holds layer, timestep, sample and their names."""
    piece, rows = chosen.piece, chosen.rows
    check = None
    if plan.verify:
        batch = piece.batch.start
        heads = choose(len(chosen.q_heads), CHECKED_HEADS)
        picked = choose(len(rows), CHECKED_ROWS)
        own = to_host(out, slice(batch, batch + 1), [chosen.q_heads[h] for h in heads], rows[picked])[0]
        check = OutputRows(0, heads, picked, own)
    cell = Cell(
        **place,
        is_causal=piece.part.is_causal,
        causal_align=piece.part.causal_align,
        sm_scale=call.sm_scale,
        dtype=str(call.q.dtype).removeprefix("torch."),
        q=to_host(call.q, piece.batch, chosen.q_heads, rows),
        k=to_host(k, piece.batch, chosen.kv_heads, chosen.keys),
        v=to_host(v, piece.batch, chosen.kv_heads, chosen.keys),
        o=to_host(out, piece.batch, chosen.q_heads, rows) if plan.output else None,
    )
    return cell, check
