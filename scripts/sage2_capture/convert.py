"""Makes a capture of tensors that were dumped by other means."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import schema
from .errors import DataError, UsageError
from .plan import Plan, format_bytes
from .selfcheck import count_nonfinite
from .tensorfiles import LazyTensor, open_tensors

_NUMBERS = ("layer", "timestep", "sample")
_PLACEHOLDERS = (*_NUMBERS, "name", "tensor")


@dataclass(frozen=True)
class Template:
    """How keys tell layer, timestep, sample and tensor, for example "blocks.{layer}.step{timestep}.{tensor}"."""

    text: str
    pattern: re.Pattern[str]
    tensors: dict[str, str]  # what keys call them -> q, k, v, o

    @staticmethod
    def parse(text: str, names: str = "q,k,v,o") -> Template:
        """`names` are the words that keys use for q, k, v and, optionally, o."""
        words = names.split(",")
        if len(words) not in (3, 4) or len(set(words)) != len(words):
            raise UsageError(f"--names: expected the words for q,k,v or q,k,v,o, found '{names}'")
        found = re.findall(r"\{(\w*)\}", text)
        unknown = [name for name in found if name not in _PLACEHOLDERS]
        if unknown or "tensor" not in found or len(set(found)) != len(found):
            known = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
            raise UsageError(
                f"--map: expected place holders among {known}, each at most once, {{tensor}} among them, found '{text}'"
            )
        pattern = re.escape(text).replace(r"\{", "{").replace(r"\}", "}")
        for name in _NUMBERS:
            pattern = pattern.replace(f"{{{name}}}", rf"(?P<{name}>\d+)")
        pattern = pattern.replace("{name}", "(?P<name>.+?)")
        pattern = pattern.replace("{tensor}", f"(?P<tensor>{'|'.join(re.escape(word) for word in words)})")
        return Template(text, re.compile(pattern), dict(zip(words, "qkvo", strict=False)))


@dataclass
class Source:
    """The tensors of one cell before they are read."""

    name: str
    tensors: dict[str, LazyTensor] = field(default_factory=dict)


def convert(
    source: Path,
    out: Path,
    kind: str,
    template: Template,
    *,
    layout: str = "HND",
    is_causal: bool = False,
    sm_scale: float | None = None,
    model: str = "",
    plan: Plan | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> str:
    """Writes the capture and returns one line about it. See `sage2-capture convert --help`.

    Tensors are [batch, heads, length, dim] (layout HND), [batch, length, heads, dim] (NHD), or the same without batch.
    Raises DataError, naming file and key, where a cell lacks a tensor or shapes and formats do not fit.
    """
    if layout not in ("HND", "NHD"):
        raise UsageError(f"--layout: expected HND or NHD, found '{layout}'")
    if out.exists() and not overwrite and not dry_run:
        raise UsageError(f"{out}: exists already (choose another name or --overwrite)")
    cells = _collect(source, kind, template, plan or Plan())
    parts = out.with_name(out.name + ".parts")
    if not dry_run:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
    total = nonfinite = 0
    try:
        for key, cell_source in sorted(cells.items()):
            cell = _read(key, cell_source, layout, is_causal, sm_scale)
            schema.check_cell(cell)
            total += cell.nbytes()
            nonfinite += any(count_nonfinite(t, cell.dtype) for t in cell.tensors().values())
            if not dry_run:
                schema.write_cell(schema.cell_path(parts, key), cell)
        if not dry_run:
            attributes = {"model": model, "source": f"converted from {source.name}"}
            schema.assemble(schema.finished_cells(parts).values(), out, attributes)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    verb = "would be written" if dry_run else "written"
    note = f"; {nonfinite} of them hold NaN or infinity" if nonfinite else ""
    return f"{out}: {len(cells)} cells, {format_bytes(total)} {verb}{note}"


def _collect(source: Path, kind: str, template: Template, plan: Plan) -> dict[tuple[int, int, int], Source]:
    cells: dict[tuple[int, int, int], Source] = {}
    layers: dict[str, int] = {}
    seen = []
    for key, tensor in open_tensors(source, kind):
        seen.append(key)
        match = template.pattern.fullmatch(key)
        if match is None:
            continue
        place: dict[str, Any] = match.groupdict()
        name = place.get("name") or f"layer {int(place.get('layer') or 0)}"
        layer = int(place["layer"]) if place.get("layer") else layers.setdefault(name, len(layers))
        step, sample = (int(place.get(n) or 0) for n in ("timestep", "sample"))
        if plan.layers(layer, name) and plan.timesteps(step) and plan.samples(sample):
            cell = cells.setdefault((layer, step, sample), Source(name))
            cell.tensors[template.tensors[place["tensor"]]] = tensor
    if not seen:
        raise DataError(f"{source}: holds no tensors")
    if not cells:
        examples = ", ".join(f"'{key}'" for key in seen[:3])
        raise DataError(f"{source}: no key fits '{template.text}' and the plan (keys are {examples}, ...)")
    return cells


def _read(
    key: tuple[int, int, int], source: Source, layout: str, is_causal: bool, sm_scale: float | None
) -> schema.Cell:
    where = "layer {}, timestep {}, sample {}".format(*key)
    missing = [name for name in "qkv" if name not in source.tensors]
    if missing:
        have = ", ".join(t.where for t in source.tensors.values())
        raise DataError(f"{where}: no tensor for {missing[0]} (found {have})")
    formats = {tensor.dtype for tensor in source.tensors.values()}
    if len(formats) > 1:
        found = ", ".join(f"{name} {tensor.dtype}" for name, tensor in source.tensors.items())
        raise DataError(f"{where}: formats differ ({found}) in {source.tensors['q'].where}")
    arrays = {name: _four_axes(tensor, layout) for name, tensor in source.tensors.items()}
    return schema.Cell(
        layer=key[0],
        layer_name=source.name,
        timestep=key[1],
        timestep_value=float(key[1]),
        sample=key[2],
        is_causal=is_causal,
        sm_scale=1 / math.sqrt(arrays["q"].shape[-1]) if sm_scale is None else sm_scale,
        dtype=formats.pop(),
        **{name: arrays.get(name) for name in "qkvo"},  # type: ignore[arg-type]
    )


def _four_axes(tensor: LazyTensor, layout: str) -> np.ndarray:
    if tensor.dtype not in ("float16", "bfloat16", "float32"):
        raise DataError(f"{tensor.where}: expected float16, bfloat16 or float32, found {tensor.dtype}")
    if len(tensor.shape) not in (3, 4):
        raise DataError(f"{tensor.where}: expected 3 or 4 axes, found {list(tensor.shape)}")
    array = tensor.read()
    array = array[None] if array.ndim == 3 else array
    return np.ascontiguousarray(array.swapaxes(1, 2) if layout == "NHD" else array)
