"""What an attention mask means: nothing, causal, padding, or something a capture cannot express."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

UNSUPPORTED = "mask is neither causal nor padding"
BIAS = "additive bias on the scores"
_HIDDEN = -1e4  # what models add at least to hide a key; exp of it is 0


@dataclass(frozen=True)
class Part:
    """Real tokens of one batch entry (of all entries where `batch` is None), with a mask the schema can express."""

    batch: int | None = None
    rows: slice = field(default_factory=lambda: slice(None))
    keys: slice = field(default_factory=lambda: slice(None))
    is_causal: bool = False
    causal_align: str = "bottom_right"


@dataclass(frozen=True)
class Meaning:
    """The parts that a call consists of, or the reason why it cannot be recorded."""

    parts: tuple[Part, ...] = ()
    reason: str | None = None


def understand(mask: torch.Tensor | None, is_causal: bool, align: str, q_len: int, kv_len: int) -> Meaning:
    """Meaning of `mask` (boolean, True = attend, or additive), broadcastable to [batch, heads, q_len, kv_len].

    A mask counts as causal or as padding only where that is exactly what it says for every row that is kept. Padding
    is cut off: each batch entry becomes a part with its own lengths, and rows of padding are dropped in self-attention,
    where they are no tokens. Where `is_causal` comes together with a mask, both apply.
    """
    if mask is None:
        return Meaning((_whole(is_causal, align, q_len, kv_len),))
    mask = mask.detach()
    while mask.ndim < 4:
        mask = mask.unsqueeze(1 if mask.ndim == 3 else 0)
    if mask.shape[-2] not in (1, q_len) or mask.shape[-1] not in (1, kv_len):
        return Meaning(reason=f"mask of shape {list(mask.shape)} for {q_len} queries and {kv_len} keys")
    if mask.dtype != torch.bool:
        seen = mask == 0
        if not bool((seen | (mask <= _HIDDEN)).all()):
            return Meaning(reason=BIAS)
        mask = seen
    if mask.shape[1] > 1 and not bool((mask == mask[:, :1]).all()):
        return Meaning(reason="mask differs from head to head")
    mask = mask[:, 0].expand(-1, q_len, kv_len)
    if is_causal:
        mask = mask & causal_pattern(q_len, kv_len, align, mask.device)
    return _classify(mask, q_len, kv_len)


def causal_pattern(q_len: int, kv_len: int, align: str, device: torch.device) -> torch.Tensor:
    """Boolean [q_len, kv_len], True where a row sees a key."""
    shift = kv_len - q_len if align == "bottom_right" else 0
    rows = torch.arange(q_len, device=device)[:, None]
    return torch.arange(kv_len, device=device)[None, :] <= rows + shift


def _whole(is_causal: bool, align: str, q_len: int, kv_len: int) -> Part:
    # A single row that is aligned with the last key sees all keys.
    causal = is_causal and not (q_len == 1 and (align == "bottom_right" or kv_len == 1))
    return Part(is_causal=causal, causal_align="bottom_right" if q_len == kv_len or not causal else align)


def _classify(mask: torch.Tensor, q_len: int, kv_len: int) -> Meaning:
    if bool(mask.all()):
        return Meaning((Part(),))
    for align in ("bottom_right", "top_left"):
        if bool((mask == causal_pattern(q_len, kv_len, align, mask.device)).all()):
            return Meaning((_whole(True, align, q_len, kv_len),))
    parts = []
    for batch, entry in enumerate(mask):
        candidates = _parts(entry, batch if len(mask) > 1 else None)
        part = next(candidates, None)
        if part is None:
            return Meaning(reason=UNSUPPORTED)
        parts.append(part)
    return Meaning(tuple(parts))


def _parts(mask: torch.Tensor, batch: int | None) -> Iterator[Part]:
    """Ways to read the mask [q_len, kv_len] of one batch entry as a range of real tokens, at most one in practice.

    The range is what one row sees: the last (padding masks that hold for all rows), the first (rows of padding that
    see nothing or, to keep their softmax finite, everything), or all rows together.
    """
    q_len, kv_len = mask.shape
    own = q_len == kv_len
    for rows in (mask[-1:], mask[:1], mask) if own else (mask,):
        seen = rows.any(dim=0).nonzero()
        if len(seen) == 0:
            continue
        keys = slice(int(seen[0]), int(seen[-1]) + 1)
        kept = keys if own else slice(0, q_len)
        if own and not _padding_only(mask, keys):
            continue
        outside = mask[kept].clone()
        inside = mask[kept, keys]
        outside[:, keys] = False
        if bool(outside.any()):
            continue
        if bool(inside.all()):
            yield Part(batch, kept, keys)
        elif bool((inside == causal_pattern(*inside.shape, "bottom_right", mask.device)).all()):
            yield Part(batch, kept, keys, is_causal=True)


def _padding_only(mask: torch.Tensor, keys: slice) -> bool:
    """True where no row outside the range looks like a token: it sees nothing, everything, or keys of the range."""
    outer = torch.cat([mask[: keys.start], mask[keys.stop :]])
    foreign = torch.cat([outer[:, : keys.start], outer[:, keys.stop :]], dim=1).any(dim=1)
    return not bool((foreign & ~outer.all(dim=1)).any())
