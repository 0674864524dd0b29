"""Reading captures back, and the independent attention that they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

# Largest relative error of one rounding, for each stored format.
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}


@dataclass
class Stored:
    """One cell of a capture; tensors in FP64."""

    attrs: dict[str, Any]
    dtype: str
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    o: torch.Tensor | None


def read(path: Path) -> dict[tuple[int, int, int], Stored]:
    """All cells by (layer, timestep, sample), read with h5py alone."""
    cells = {}
    with h5py.File(path, "r") as file:
        assert file.attrs["schema"] == "sage2-capture"
        assert file.attrs["schema_version"] == 1
        for layer in file["layers"].values():
            for step in layer.values():
                for group in step.values():
                    attrs = dict(group.attrs)
                    key = (int(attrs["layer"]), int(attrs["timestep"]), int(attrs["sample"]))
                    tensors = {name: _widen(group[name]) for name in group}
                    cells[key] = Stored(attrs, group["q"].attrs["dtype"], *(tensors.get(n) for n in "qkvo"))
    return cells


def _widen(dataset: h5py.Dataset) -> torch.Tensor:
    array = dataset[()]
    if dataset.attrs["dtype"] == "bfloat16":
        assert array.dtype == np.uint16
        return torch.from_numpy(array.copy()).view(torch.bfloat16).double()
    assert str(array.dtype) == dataset.attrs["dtype"]
    return torch.from_numpy(array.copy()).double()


def attention(cell: Stored) -> torch.Tensor:
    """Attention of a stored cell in FP64, written out by hand from the schema's words."""
    groups = cell.q.shape[1] // cell.k.shape[1]
    k, v = (t.repeat_interleave(groups, dim=1) for t in (cell.k, cell.v))
    scores = cell.q @ k.transpose(-1, -2) * cell.attrs["sm_scale"]
    if cell.attrs["is_causal"]:
        q_len, kv_len = scores.shape[-2:]
        shift = 0 if cell.attrs.get("causal_align") == "top_left" else kv_len - q_len
        hidden = torch.arange(kv_len)[None, :] > torch.arange(q_len)[:, None] + shift
        scores = scores.masked_fill(hidden, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v


def assert_explains(cell: Stored, o: torch.Tensor | None = None) -> None:
    """The stored tensors reproduce the model's output.

    P and O are rounded to the format (and, in eager models, the scores), each with a relative error of at most u; with
    scores below 8 in these random models, |O - O'| <= u (2 + 2 x 8) sum p|v| <= 18 u max|v|.
    """
    expected = attention(cell)
    found = cell.o if o is None else o.double()
    tolerance = 18 * ROUNDOFF[cell.dtype] * float(cell.v.abs().max())
    worst = float((found - expected).abs().max())
    assert worst <= tolerance, f"worst error {worst} beyond {tolerance}"
