"""Variants as sage2-eval writes them: "preset", "preset@arch", "preset:key=value,..."."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..errors import UsageError

INTEGERS = tuple(f"int{bits}" for bits in range(2, 9))
FP8 = ("e4m3", "e5m2")
_QK = (*INTEGERS, "e4m3", "fp16", "bf16", "exact")
_PV = ("e4m3", "e5m2", "int8", "fp16", "bf16", "exact")
_SWITCH = ("on", "off")

VALUES: dict[str, tuple[str, ...]] = {
    "q": _QK,
    "k": _QK,
    "qk_gran": ("per_tensor", "per_block", "per_warp", "per_thread", "per_token"),
    "qk_accum": ("exact", "fp32"),
    "smooth_q": _SWITCH,
    "smooth_k": _SWITCH,
    "smooth_v": _SWITCH,
    "transform": ("none", "hadamard", "smoothattn"),
    "p": _PV,
    "v": _PV,
    "v_gran": ("per_channel", "per_tensor", "per_block"),
    "v_outliers": ("none", "clip", "median", "split"),
    "pv_accum": ("exact", "fp32", "fp32+fp32", "fp32+fp16", "fp16"),
    "arch": ("ampere", "ada", "hopper", "blackwell"),
    "o": ("exact", "fp16", "bf16"),
}


@dataclass(frozen=True)
class Variant:
    """What is computed; fields as in sage2-eval's grammar, switches as "on" and "off"."""

    q: str = "exact"
    k: str = "exact"
    qk_gran: str = "per_thread"
    qk_accum: str = "exact"
    smooth_q: str = "off"
    smooth_k: str = "off"
    smooth_v: str = "off"
    transform: str = "none"
    p: str = "exact"
    v: str = "exact"
    v_gran: str = "per_channel"
    v_outliers: str = "none"
    pv_accum: str = "exact"
    arch: str = "ada"
    geometry: str = "128x64w32"
    o: str = "exact"

    @property
    def q_tile(self) -> int:
        return self._sizes()[0]

    @property
    def k_tile(self) -> int:
        return self._sizes()[1]

    @property
    def warp_q(self) -> int:
        return self._sizes()[2]

    def _sizes(self) -> tuple[int, int, int]:
        q_tile, k_tile, warp_q = (int(part) for part in re.split("[xw]", self.geometry))
        return q_tile, k_tile, warp_q


def _sage2(qk: str, pv_accum: str, **changes: str) -> Variant:
    smooth_q = "on" if qk == "int4" else "off"  # the 8-bit kernel leaves it out
    base = Variant(q=qk, k=qk, smooth_k="on", smooth_q=smooth_q, p="e4m3", v="e4m3", pv_accum=pv_accum)
    return replace(base, **changes)


def _int4(transform: str = "none") -> Variant:
    plain = {"smooth_q": "off", "smooth_k": "off", "qk_gran": "per_warp"}
    return _sage2("int4", "fp32+fp32", transform=transform, **plain)


_SAGE1 = {"qk_gran": "per_block", "smooth_k": "on", "p": "fp16", "v": "fp16", "pv_accum": "fp32+fp16"}
_FA3 = {"qk_gran": "per_tensor", "v_gran": "per_tensor", "arch": "hopper", "geometry": "128x128w16"}
PRESETS: dict[str, Variant] = {
    "exact": Variant(),
    "fp16": Variant(q="fp16", k="fp16", p="fp16", v="fp16", qk_accum="fp32", pv_accum="fp32"),
    "sage1": Variant(q="int8", k="int8", **_SAGE1),
    "sage2-8b": _sage2("int8", "fp32+fp32"),
    "sage2-4b": _sage2("int4", "fp32+fp32"),
    "sage2-4b-v1": _sage2("int4", "fp32", qk_gran="per_warp", smooth_v="on"),
    "sage2pp-8b": _sage2("int8", "fp32+fp16"),
    "sage2pp-4b": _sage2("int4", "fp32+fp16"),
    "fa3-fp8": Variant(q="e4m3", k="e4m3", p="e4m3", v="e4m3", qk_accum="fp32", pv_accum="fp32", **_FA3),
    "int4": _int4(),
    "int4-hadamard": _int4("hadamard"),
    "int4-smoothattn": _int4("smoothattn"),
}


def parse_variant(text: str) -> Variant:
    """Raises UsageError, naming the text and what would be right, where a name is unknown."""
    head, colon, rest = text.partition(":")
    name, at, arch = head.partition("@")
    if name not in PRESETS:
        raise UsageError(f"variant '{text}': no preset '{name}' (there are {', '.join(PRESETS)})")
    variant = PRESETS[name]
    if at:
        if arch not in VALUES["arch"]:
            raise UsageError(f"variant '{text}': no architecture '{arch}' ({', '.join(VALUES['arch'])})")
        variant = _on_arch(variant, arch)
    for setting in rest.split(",") if colon else ():
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"variant '{text}': expected key=value, found '{setting}'")
        variant = _set(text, variant, key, value)
    return variant


def _set(text: str, variant: Variant, key: str, value: str) -> Variant:
    if key == "geometry":
        if not re.fullmatch(r"\d{1,4}x\d{1,4}w\d{1,4}", value):
            raise UsageError(f"variant '{text}': geometry cannot be '{value}' (expected QxKwW such as 128x64w32)")
        return replace(variant, geometry=value)
    if key == "qk":
        return _set(text, _set(text, variant, "q", value), "k", value)
    if key not in VALUES:
        raise UsageError(f"variant '{text}': no key '{key}' (there are qk, {', '.join(VALUES)}, geometry)")
    if value not in VALUES[key]:
        raise UsageError(f"variant '{text}': '{key}' cannot be '{value}' ({', '.join(VALUES[key])})")
    return replace(variant, **{key: value})


def _on_arch(variant: Variant, arch: str) -> Variant:
    """The preset as the kernel of that chip runs it; Ampere has no FP8."""
    if arch == variant.arch == "hopper":
        return variant
    variant = replace(variant, arch=arch, geometry="64x128w16" if arch == "hopper" else "128x64w32")
    if arch == "ampere" and (variant.p in FP8 or variant.v in FP8):
        variant = replace(variant, p="fp16", v="fp16", pv_accum="fp32")
    return variant
