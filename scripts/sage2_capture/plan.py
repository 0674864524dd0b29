"""The sampling plan: what of a model's attention is written, and how much of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import DataError, UsageError
from .selector import Selector

CFG_MODES = ("keep", "split", "cond", "uncond")
_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}iB": 1024**power for power, unit in enumerate("KMGT", start=1)}
_UNITS |= {f"{unit}B": 1000**power for power, unit in enumerate("KMGT", start=1)}


@dataclass
class Plan:
    """Selections are strings as in `selector.SYNTAX`, numbers, lists of numbers, or fractions (floats).

    layers       attention sites, by order of their first call or by /regular expression/ on the qualified name
    timesteps    denoising steps, from 0; a model without steps has step 0 only
    samples      number of the call at one (layer, timestep): prompts, and CFG branches where they run separately
    heads        query heads; the key/value heads they need come along
    max_tokens   longer calls are cut to this many query rows: causal ones to their first rows and the keys those see,
                 others to evenly spaced blocks of 128 rows with all keys; either way exact for the rows kept
    max_bytes    calls that would take the file beyond this are left out ("20GB", "512MiB", or a number)
    cfg          guidance: "keep" batched branches together, "split" halves of the batch into "uncond" and "cond"
                 (diffusers' order), or keep only "cond" or only "uncond"
    decode       also take calls with a single query row and many keys (decoding with a cache)
    output       store the model's own attention output as dataset `o`
    verify       recompute some rows of every call and leave out calls that the recorded tensors do not explain
    """

    layers: Any = "all"
    timesteps: Any = "all"
    samples: Any = "all"
    heads: Any = "all"
    max_tokens: int | None = None
    max_bytes: Any = None
    cfg: str = "keep"
    decode: bool = False
    output: bool = False
    verify: bool = True

    def __post_init__(self) -> None:
        for name in ("layers", "timesteps", "samples", "heads"):
            setattr(self, name, Selector.parse(getattr(self, name), name))
        self.max_bytes = parse_bytes(self.max_bytes)
        if self.max_tokens is not None and (not isinstance(self.max_tokens, int) or self.max_tokens < 1):
            raise UsageError(f"max_tokens: expected a positive number of tokens, found {self.max_tokens!r}")
        if self.cfg not in CFG_MODES:
            raise UsageError(f"cfg: expected one of {', '.join(CFG_MODES)}, found {self.cfg!r}")
        for name in ("decode", "output", "verify"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}: expected true or false, found {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` reads them."""
        return {
            f.name: str(value) if isinstance(value := getattr(self, f.name), Selector) else value for f in fields(self)
        }

    @staticmethod
    def from_dict(values: dict[str, Any], where: str = "plan") -> Plan:
        """Raises UsageError where a key is unknown or a value malformed."""
        known = [f.name for f in fields(Plan)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UsageError(f"{where}: unknown key '{unknown[0]}' (known: {', '.join(known)})")
        return Plan(**values)

    @staticmethod
    def parse(text: str) -> Plan:
        """A plan from the command line: a JSON file's name, or `key=value` pairs separated by spaces or semicolons.

        Example: "layers=25% timesteps=0:50:10 heads=0,8 max_tokens=8192".
        """
        if "=" not in text and text.strip():
            return Plan._from_file(Path(text.strip()))
        values: dict[str, Any] = {}
        for pair in re.split(r"[;\s]+", text.strip()):
            if not pair:
                continue
            key, equals, value = pair.partition("=")
            if not equals:
                raise UsageError(f"plan: expected key=value, found '{pair}'")
            values[key] = _plain(key, value)
        return Plan.from_dict(values)

    @staticmethod
    def _from_file(path: Path) -> Plan:
        try:
            values = json.loads(path.read_text())
        except OSError as error:
            raise UsageError(f"plan '{path}': expected key=value pairs or a JSON file ({error.strerror})") from None
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error})") from None
        if not isinstance(values, dict):
            raise DataError(f"{path}: expected a JSON object, found {type(values).__name__}")
        return Plan.from_dict(values, str(path))


def _plain(key: str, value: str) -> Any:
    if key in ("decode", "output", "verify"):
        return {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}.get(value.lower(), value)
    if key == "max_tokens":
        return int(value) if value.isdigit() else value
    return value


def parse_bytes(value: Any) -> int | None:
    """A size such as 1000, "20GB", "512MiB"; None stays None. Raises UsageError otherwise."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    unit = match[2] if match else ""
    if match is None or unit not in _UNITS or float(match[1]) <= 0:
        raise UsageError(f"max_bytes: expected a size such as 20GB or 512MiB, found {value!r}")
    return int(float(match[1]) * _UNITS[unit])


def format_bytes(size: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
