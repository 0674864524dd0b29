"""One attention call of a model, brought to one form whatever library it came from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

MAX_HEAD_DIM = 256  # of a capture; VAEs go beyond


@dataclass
class AttentionCall:
    """Arguments of one attention call, seen as [batch, heads, length, head_dim] whatever the model's own layout.

    `unsupported` names what the call does beyond softmax(Q K^T scale + mask) V, or is None. `site` is filled in by the
    interceptor: qualified module name and, where a module calls attention more than once, the number of the call.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    sm_scale: float
    mask: torch.Tensor | None = None
    is_causal: bool = False
    causal_align: str = "bottom_right"
    source: str = ""
    source_layout: str = "HND"
    unsupported: str | None = None
    site: str = ""
    index: int = -1

    @property
    def q_len(self) -> int:
        return self.q.shape[2]

    @property
    def kv_len(self) -> int:
        return self.k.shape[2]


# Gets the call and a function that computes it as the model would; returns the output, [batch, heads, length, dim].
Handler = Callable[[AttentionCall, Callable[[], torch.Tensor]], torch.Tensor]


def make_call(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    layout: str = "HND",
    mask: torch.Tensor | None = None,
    is_causal: bool = False,
    causal_align: str = "bottom_right",
    dropout: float = 0.0,
    source: str = "",
    unsupported: str | None = None,
) -> AttentionCall:
    """Builds a call from tensors of 2 to 5 axes; further leading axes count as batch. Says what it cannot express."""
    if layout == "NHD":
        q, k, v = (t.transpose(-2, -3) for t in (q, k, v))
    q, k, v = (_four_axes(t) for t in (q, k, v))
    batch = max(q.shape[0], k.shape[0], v.shape[0])
    if {q.shape[0], k.shape[0], v.shape[0]} - {1, batch}:
        unsupported = unsupported or "batch sizes of q, k and v differ"
    else:
        q, k, v = (t.expand(batch, -1, -1, -1) if t.shape[0] != batch else t for t in (q, k, v))
    if mask is not None and not isinstance(mask, torch.Tensor):
        unsupported = unsupported or f"mask of type {type(mask).__name__}"
        mask = None
    if dropout:
        unsupported = unsupported or "dropout"
    if k.shape[:3] != v.shape[:3] or k.shape[3] != q.shape[3]:
        unsupported = unsupported or f"shapes q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    elif v.shape[3] != k.shape[3]:
        unsupported = unsupported or f"head dim of v ({v.shape[3]}) is not that of k ({k.shape[3]})"
    elif q.shape[3] > MAX_HEAD_DIM:
        unsupported = unsupported or f"head dim {q.shape[3]} (at most {MAX_HEAD_DIM})"
    elif q.shape[1] % k.shape[1]:
        unsupported = unsupported or f"{q.shape[1]} query heads for {k.shape[1]} key/value heads"
    elif not all(t.dtype in (torch.float16, torch.bfloat16, torch.float32) for t in (q, k, v)):
        unsupported = unsupported or f"format {q.dtype}".replace("torch.", "")
    elif not q.dtype == k.dtype == v.dtype:
        unsupported = unsupported or f"formats {q.dtype}, {k.dtype}, {v.dtype}".replace("torch.", "")
    elif 0 in q.shape or 0 in k.shape:
        unsupported = unsupported or "empty tensors"
    if mask is not None and mask.ndim > 4:
        mask = mask.flatten(0, mask.ndim - 4)
    return AttentionCall(
        q,
        k,
        v,
        sm_scale=1 / math.sqrt(q.shape[-1]) if scale is None else float(scale),
        mask=mask,
        is_causal=is_causal,
        causal_align=causal_align,
        source=source,
        source_layout=layout,
        unsupported=unsupported,
    )


def _four_axes(t: torch.Tensor) -> torch.Tensor:
    while t.ndim < 4:
        t = t.unsqueeze(0 if t.ndim == 2 else 1)
    return t.flatten(0, t.ndim - 4) if t.ndim > 4 else t


def unrepeat_heads(call: AttentionCall) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V with heads that the model repeated for grouped queries stored once (found by exact comparison)."""
    k, v = call.k, call.v
    heads = k.shape[1]
    if heads < 2 or k.shape[2] == 0 or not _equal(k[:, 0], k[:, 1]) or not _equal(v[:, 0], v[:, 1]):
        return k, v
    for groups in range(heads, 1, -1):
        if heads % groups == 0 and all(
            bool((t.unflatten(1, (-1, groups)) == t[:, ::groups].unsqueeze(2)).all()) for t in (k, v)
        ):
            return k[:, ::groups], v[:, ::groups]
    return k, v


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a[:, 0] == b[:, 0]).all()) and bool((a == b).all())
