"""Tensors that people have dumped already: safetensors, npz and pt files as NumPy arrays, bfloat16 kept.

safetensors are read without the library, since NumPy has no bfloat16; pt files need PyTorch and are loaded without
running any code they carry.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError, UsageError

_SAFETENSORS = {"F16": ("float16", "<f2"), "BF16": ("bfloat16", "<u2"), "F32": ("float32", "<f4")}
_NUMPY = {np.dtype(np.float16): "float16", np.dtype(np.float32): "float32"}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file: its format, its shape, and how to read it (bfloat16 as its bits in uint16)."""

    where: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def open_tensors(path: Path, kind: str) -> Iterator[tuple[str, LazyTensor]]:
    """Keys and tensors of a file, or of all such files in a folder (then with the file's name in front of the key)."""
    readers = {"safetensors": _read_safetensors, "npz": _read_npz, "pt": _read_pt}
    if kind not in readers:
        raise UsageError(f"--from: expected one of {', '.join(readers)}, found '{kind}'")
    suffixes = (".pt", ".pth") if kind == "pt" else (f".{kind}",)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in suffixes)
        if not files:
            raise DataError(f"{path}: no {kind} files in this folder")
        for file in files:
            stem = file.relative_to(path).with_suffix("").as_posix()
            for key, tensor in readers[kind](file):
                yield f"{stem}/{key}" if key else stem, tensor
        return
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    yield from readers[kind](path)


def _read_safetensors(path: Path) -> Iterator[tuple[str, LazyTensor]]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > size - 8:
                raise ValueError("header is longer than the file")
            header = json.loads(file.read(length))
    except (struct.error, ValueError) as error:
        raise DataError(f"{path}: not a safetensors file ({error})") from None
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        where = f"{path}, '{key}'"
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if end > size:
            raise DataError(f"{where}: ends at byte {end}, but the file has {size} (truncated?)")
        name, numpy_type = _SAFETENSORS.get(entry["dtype"], (entry["dtype"], ""))
        shape = tuple(entry["shape"])

        def read(offset: int = begin, numpy_type: str = numpy_type, shape: tuple[int, ...] = shape) -> np.ndarray:
            return np.memmap(path, numpy_type, "r", offset, shape)

        yield key, LazyTensor(where, name, shape, read)


def _read_npz(path: Path) -> Iterator[tuple[str, LazyTensor]]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an npz file ({error})") from None
    with archive:
        for key in archive.files:
            try:
                array = archive[key]
            except (ValueError, OSError, zipfile.BadZipFile) as error:
                raise DataError(f"{path}, '{key}': cannot be read ({error})") from None
            # NumPy has no bfloat16; dumps hold its bits as uint16 or as two opaque bytes.
            if array.dtype == np.uint16 or array.dtype.str in ("|V2", "<V2"):
                yield key, LazyTensor(f"{path}, '{key}'", "bfloat16", array.shape, lambda a=array: a.view("<u2"))
            else:
                name = _NUMPY.get(array.dtype, str(array.dtype))
                yield key, LazyTensor(f"{path}, '{key}'", name, array.shape, lambda a=array: a)


def _read_pt(path: Path) -> Iterator[tuple[str, LazyTensor]]:
    try:
        import torch
    except ImportError:
        raise UsageError("pt files need PyTorch, which is not installed (pip install torch)") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; what matters is that the file was refused
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be loaded as plain tensors ({reason[:120]})") from None
    for key, tensor in _flatten(content, ""):
        if not isinstance(tensor, torch.Tensor):
            continue

        def read(t: Any = tensor) -> np.ndarray:
            t = t.detach().contiguous()
            return (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy()

        yield key, LazyTensor(f"{path}, '{key}'", str(tensor.dtype)[6:], tuple(tensor.shape), read)


def _flatten(content: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        items: Any = content.items()
    elif isinstance(content, (list, tuple)):
        items = enumerate(content)
    else:
        yield prefix, content
        return
    for key, value in items:
        yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
