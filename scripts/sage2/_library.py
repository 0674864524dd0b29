"""libsage2 through ctypes: where it is, its structs (kernels/sage2.h), and errors as exceptions."""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import POINTER, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint8, c_void_p
from pathlib import Path


class Sage2Error(RuntimeError):
    """What libsage2 refused or CUDA reported, in one sentence; `status` is the sage2_status."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


UNSUPPORTED = 2
DTYPES = {"float16": 0, "bfloat16": 1, "float32": 2}
NO_MASK, BOTTOM_RIGHT, TOP_LEFT = 0, 1, 2


class Variant(ctypes.Structure):
    _fields_ = [
        ("bits", c_uint8),
        ("granularity", c_uint8),
        ("smooth_q", c_uint8),
        ("smooth_k", c_uint8),
        ("smooth_v", c_uint8),
        ("two_level", c_uint8),
        ("reserved", c_uint8 * 2),
    ]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("stride_batch", c_int64),
        ("stride_head", c_int64),
        ("stride_token", c_int64),
    ]


class Args(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim")),
        *((name, Tensor) for name in ("q", "k", "v", "o")),
        ("lse", c_void_p),
        ("dtype", c_int),
        ("o_dtype", c_int),
        ("mask", c_int),
        ("sm_scale", c_float),
    ]


def library_path() -> Path:
    """The libsage2.so in use: $SAGE2_LIBRARY, else one beside this file, else the one in build/."""
    chosen = os.environ.get("SAGE2_LIBRARY")
    if chosen:
        if not Path(chosen).is_file():
            raise Sage2Error(f"SAGE2_LIBRARY is {chosen}, which is no file")
        return Path(chosen)
    here = Path(__file__).resolve().parent
    built = here.parents[1] / "build"
    places = [here / "libsage2.so", *(built / kind / "kernels/libsage2.so" for kind in ("release", "debug"))]
    for place in places:
        if place.is_file():
            return place
    tried = ", ".join(map(str, places))
    raise Sage2Error(f"libsage2.so is not built (set SAGE2_LIBRARY, or build the target sage2; tried {tried})")


@functools.cache
def library() -> ctypes.CDLL:
    path = library_path()
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as e:
        raise Sage2Error(f"{path} cannot be loaded: {e}") from e
    call = [POINTER(Variant), POINTER(Args), c_void_p, c_size_t, c_void_p]
    for name, arguments in (
        ("sage2_parse_variant", [c_char_p, POINTER(Variant)]),
        ("sage2_workspace_size", [POINTER(Variant), POINTER(Args), POINTER(c_size_t)]),
        ("sage2_attention", call),
        ("sage2_prepare", call),
        ("sage2_attend", call),
    ):
        function = getattr(lib, name)
        function.argtypes = arguments
        function.restype = c_int
    for name in ("sage2_last_error", "sage2_version"):
        getattr(lib, name).argtypes = []
        getattr(lib, name).restype = c_char_p
    return lib


def library_version() -> str:
    return library().sage2_version().decode()


def checked(status: int) -> None:
    if status != 0:
        raise Sage2Error(library().sage2_last_error().decode(), status)


@functools.cache
def parse_variant(text: str) -> Variant:
    variant = Variant()
    checked(library().sage2_parse_variant(text.encode(), ctypes.byref(variant)))
    return variant


def workspace_size(variant: Variant, args: Args) -> int:
    size = c_size_t()
    checked(library().sage2_workspace_size(ctypes.byref(variant), ctypes.byref(args), ctypes.byref(size)))
    return size.value


def call(name: str, variant: Variant, args: Args, workspace: int, size: int, stream: int) -> None:
    """sage2_attention, sage2_prepare or sage2_attend."""
    checked(getattr(library(), name)(ctypes.byref(variant), ctypes.byref(args), workspace, size, stream))
