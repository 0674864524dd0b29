"""Capture files, schema "sage2-capture" version 1: one finished cell a small file, then all of them in one.

Needs NumPy and h5py only. Tensors are [batch, heads, length, head_dim]; bfloat16 travels as its 16 bits in a uint16.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .errors import DataError, UsageError
from .plan import format_bytes

SCHEMA = "sage2-capture"
SCHEMA_VERSION = 1
_NUMPY = {"float16": np.dtype("<f2"), "bfloat16": np.dtype("<u2"), "float32": np.dtype("<f4")}


@dataclass
class Cell:
    """One attention call as it will be stored. `dtype` names the format of q, k and v (and o)."""

    layer: int
    layer_name: str
    timestep: int
    timestep_value: float
    sample: int
    is_causal: bool
    sm_scale: float
    dtype: str
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    o: np.ndarray | None = None
    causal_align: str = "bottom_right"
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int, int]:
        return self.layer, self.timestep, self.sample

    def tensors(self) -> dict[str, np.ndarray]:
        """Datasets by name."""
        named = {"q": self.q, "k": self.k, "v": self.v}
        return named if self.o is None else named | {"o": self.o}

    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors().values())


def group_name(layer: int, timestep: int, sample: int) -> str:
    """Path of a cell inside the file."""
    return f"/layers/{layer:03d}/{timestep:04d}/{sample:03d}"


def check_cell(cell: Cell) -> None:
    """Raises DataError where the cell would not be a valid entry of the schema."""
    where = f"layer {cell.layer} ('{cell.layer_name}'), timestep {cell.timestep}, sample {cell.sample}"
    expected = _NUMPY.get(cell.dtype)
    if expected is None:
        raise DataError(f"{where}: expected float16, bfloat16 or float32, found {cell.dtype}")
    for name, tensor in cell.tensors().items():
        if tensor.ndim != 4 or 0 in tensor.shape:
            shape = list(tensor.shape)
            raise DataError(f"{where}: expected {name} of [batch, heads, length, head_dim], none zero, found {shape}")
        if tensor.dtype != expected:
            raise DataError(f"{where}: expected {name} in {cell.dtype} ({expected}), found {tensor.dtype}")
    if cell.k.shape != cell.v.shape:
        raise DataError(f"{where}: k is {list(cell.k.shape)} but v is {list(cell.v.shape)}")
    if cell.q.shape[0] != cell.k.shape[0] or cell.q.shape[3] != cell.k.shape[3]:
        raise DataError(f"{where}: q is {list(cell.q.shape)} but k is {list(cell.k.shape)}")
    if cell.q.shape[1] % cell.k.shape[1]:
        heads = f"{cell.q.shape[1]} query heads, {cell.k.shape[1]} key/value heads"
        raise DataError(f"{where}: query heads are no multiple of key/value heads ({heads})")
    if cell.o is not None and cell.o.shape != cell.q.shape:
        raise DataError(f"{where}: o is {list(cell.o.shape)} but q is {list(cell.q.shape)}")


def write_cell(path: Path, cell: Cell) -> None:
    """Writes one cell under a temporary name and renames it, so that a file by this name is always whole.

    HDF5 lays out the datasets, plain writes fill them: they release Python's lock, so the model keeps running.
    """
    check_cell(cell)
    temporary = path.with_suffix(".tmp")
    with _explained(path, cell.nbytes()):
        offsets = {}
        with h5py.File(temporary, "w") as file:
            group = file.create_group(group_name(*cell.key))
            _write_attributes(group, cell)
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_layout(h5py.h5d.CONTIGUOUS)
            creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            for name, tensor in cell.tensors().items():
                space = h5py.h5s.create_simple(tensor.shape)
                kind = h5py.h5t.py_create(tensor.dtype)
                dataset = h5py.h5d.create(group.id, name.encode(), kind, space, creation)
                h5py.Dataset(dataset).attrs["dtype"] = cell.dtype
                offsets[name] = dataset.get_offset()
        with temporary.open("r+b", buffering=0) as raw:
            for name, tensor in cell.tensors().items():
                _write_all(raw.fileno(), np.ascontiguousarray(tensor), offsets[name])
        temporary.rename(path)


def _write_all(descriptor: int, tensor: np.ndarray, offset: int) -> None:
    view = memoryview(tensor).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _write_attributes(group: h5py.Group, cell: Cell) -> None:
    group.attrs["layer"] = np.int64(cell.layer)
    group.attrs["layer_name"] = cell.layer_name
    group.attrs["timestep"] = np.int64(cell.timestep)
    group.attrs["timestep_value"] = np.float64(cell.timestep_value)
    group.attrs["sample"] = np.int64(cell.sample)
    group.attrs["is_causal"] = np.int8(cell.is_causal)
    group.attrs["sm_scale"] = np.float64(cell.sm_scale)
    group.attrs["layout"] = "HND"
    if cell.is_causal:
        group.attrs["causal_align"] = cell.causal_align
    for name, value in cell.extras.items():
        if value is not None:
            group.attrs[name] = value


def cell_path(folder: Path, key: tuple[int, int, int]) -> Path:
    """File of one finished cell inside the folder of parts."""
    return folder / "cell-{:03d}-{:04d}-{:03d}.h5".format(*key)


def finished_cells(folder: Path) -> dict[tuple[int, int, int], Path]:
    """Finished cells in a folder of parts, in ascending order."""
    found = {}
    for path in sorted(folder.glob("cell-*-*-*.h5")):
        layer, timestep, sample = (int(part) for part in path.stem.split("-")[1:])
        found[layer, timestep, sample] = path
    return dict(sorted(found.items()))


def assemble(parts: Iterable[Path], out: Path, attributes: dict[str, Any]) -> int:
    """Puts finished cells into one capture file, under a temporary name until it is whole. Returns its size."""
    parts = list(parts)
    temporary = out.with_name(out.name + ".tmp")
    needed = sum(part.stat().st_size for part in parts)
    with _explained(out, needed, kept=parts):
        with h5py.File(temporary, "w") as file:
            for name, value in {"schema": SCHEMA, "schema_version": np.int64(SCHEMA_VERSION), **attributes}.items():
                file.attrs[name] = value
            for part in parts:
                with h5py.File(part, "r") as source:
                    name = _only_cell(source, part)
                    file.require_group(str(Path(name).parent))
                    source.copy(name, file, name=name)
        temporary.rename(out)
    return out.stat().st_size


def split(capture: Path, folder: Path) -> None:
    """The reverse of `assemble`: the cells of a capture as parts, so that more can be added."""
    with _explained(folder, capture.stat().st_size), open_capture(capture) as file:
        for key, name in cells(file):
            path = cell_path(folder, key)
            if path.exists():
                continue
            temporary = path.with_suffix(".tmp")
            with h5py.File(temporary, "w") as part:
                part.require_group(str(Path(name).parent))
                file.copy(name, part, name=name)
            temporary.rename(path)


@contextlib.contextmanager
def open_capture(path: Path) -> Iterator[h5py.File]:
    """Opens a capture for reading; raises DataError where it is missing, damaged or of another schema."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "damaged, or not HDF5"
        raise DataError(f"{path}: cannot be read as a capture ({reason})") from None
    with file:
        if file.attrs.get("schema") != SCHEMA or int(file.attrs.get("schema_version", 0)) != SCHEMA_VERSION:
            raise DataError(f"{path}: expected schema {SCHEMA} version {SCHEMA_VERSION}, found another")
        yield file


def cells(file: h5py.File) -> Iterator[tuple[tuple[int, int, int], str]]:
    """Keys (layer, timestep, sample) and group names in ascending order."""
    for layer, steps in sorted(file.get("layers", {}).items()):
        for timestep, samples in sorted(steps.items()):
            for sample in sorted(samples):
                yield (int(layer), int(timestep), int(sample)), f"/layers/{layer}/{timestep}/{sample}"


def read_signature(path: Path) -> dict[str, Any]:
    """What `assemble` was told about the model and the plan; {} for a capture made otherwise."""
    with open_capture(path) as file:
        try:
            return dict(json.loads(file.attrs.get("signature", "{}")))
        except (TypeError, ValueError):
            return {}


def read_attribute(part: Path, name: str) -> Any:
    """Attribute of the one cell in a part; None where there is none of that name."""
    with h5py.File(part, "r") as file:
        return file[_only_cell(file, part)].attrs.get(name)


def _only_cell(file: h5py.File, path: Path) -> str:
    names = [name for _, name in cells(file)]
    if len(names) != 1:
        raise DataError(f"{path}: expected one cell, found {len(names)}; remove this file and run again")
    return names[0]


@contextlib.contextmanager
def _explained(path: Path, needed: int, kept: list[Path] | None = None) -> Iterator[None]:
    """Turns what the file system or HDF5 says of a failed write into one sentence."""
    try:
        yield
    except OSError as error:
        number = error.errno or next((n for n in (errno.ENOSPC, errno.EDQUOT) if f"errno = {n}," in str(error)), None)
        free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
        if number in (errno.ENOSPC, errno.EDQUOT) or (number is None and free < needed):
            reason = f"disk full, {format_bytes(needed)} needed and {format_bytes(free)} free"
        else:
            reason = os.strerror(number) if number else str(error)
        safe = f"; {len(kept)} finished cells are kept in {kept[0].parent}, run again to continue" if kept else ""
        raise DataError(f"{path}: cannot be written ({reason}){safe}") from None


def refuse_mismatch(out: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises UsageError where an unfinished or finished capture was made of something else."""
    for name, value in wanted.items():
        if found.get(name, value) != value:
            raise UsageError(
                f"{out}: cannot continue, it was captured with {name}={found[name]!r} and this run has {value!r}; "
                "choose another file, or overwrite this one"
            )
