#!/usr/bin/env python3
"""Perplexity of a language model in full precision, all 4-bit, all 8-bit and with an adaptive map.

    perplexity.py README.md docs/*.md                        a tiny byte-level model, trained here in under a minute
    perplexity.py --model DIR --map map.json held-out.txt    a transformers model in a local folder

Without --map, calibration windows are captured and ranked: by sage2-eval where it is built (--eval, $SAGE2_EVAL), else
with the score of the paper, computed by this package's own quantised attention. Calibration and training text is never
evaluated: of every file, the first nine tenths are the former, the rest is held out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import h5py
import torch

from sage2_capture import apply_map, capture, quantized_attention
from sage2_capture.errors import DataError, Sage2Error, UsageError
from sage2_capture.maps import AdaptiveMap
from sage2_capture.schema import cells

REPOSITORY = Path(__file__).resolve().parents[2]


def tiny_model(train: torch.Tensor, length: int, steps: int) -> torch.nn.Module:
    """A four-layer Llama on bytes with grouped heads, trained on random windows of `train`."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=320, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=length, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=max(steps, 2), pct_start=0.2)
    length = min(length, 128)  # short windows are cheaper, and a tiny model sees no further
    began = time.monotonic()
    for step in range(steps):
        starts = torch.randint(0, len(train) - length, (6,)).tolist()
        batch = torch.stack([train[start : start + length] for start in starts])
        loss = model(batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 25 == 0 or step == steps - 1:
            seconds = time.monotonic() - began
            print(f"training step {step + 1}/{steps}: loss {loss.item():.3f} ({seconds:.0f} s)", file=sys.stderr)
    return model.eval()


def windows(tokens: torch.Tensor, length: int, most: int) -> list[torch.Tensor]:
    """At most `most` windows of equal length, evenly spaced, without overlap."""
    count = len(tokens) // length
    chosen = torch.linspace(0, count - 1, min(count, most)).round().long().unique().tolist()
    return [tokens[i * length : (i + 1) * length][None] for i in chosen]


@torch.inference_mode()
def perplexity(model: torch.nn.Module, text: list[torch.Tensor]) -> float:
    """exp of the mean negative log-likelihood of each window's tokens after its first."""
    device = next(model.parameters()).device
    losses = [model(w.to(device), labels=w.to(device)).loss.double().item() for w in text]
    return math.exp(sum(losses) / len(losses))


def make_map(model: torch.nn.Module, text: list[torch.Tensor], options: argparse.Namespace, folder: Path) -> Path:
    """Captures calibration windows and ranks the layers; returns the map's file."""
    file = folder / "calibration.h5"
    device = next(model.parameters()).device
    with capture(file, model=model) as run, torch.inference_mode():
        for number, window in enumerate(text):
            with run.sample(f"window {number}"):
                model(window.to(device))
    out = folder / "map.json"
    program = options.eval or os.environ.get("SAGE2_EVAL") or str(REPOSITORY / "build/release/harness/sage2-eval")
    if not os.access(program, os.X_OK):
        print(f"{program} is not built: ranking with the package's own arithmetic", file=sys.stderr)
        out.write_text(json.dumps(ranked_here(file, options)))
        return out
    variants = f"{options.base},{options.fallback}"
    pair = ["--base", options.base, "--fallback", options.fallback, "--fraction", str(options.fraction)]
    for command in (
        [program, "eval", str(file), "--variants", variants, "--out", str(folder / "run")],
        [program, "rank", str(folder / "run"), *pair, "--out", str(out)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DataError(f"{' '.join(command[:2])} failed: {done.stderr.strip() or done.stdout.strip()}")
    return out


def ranked_here(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The paper's rule: score = CosSim (1 - RelL1) of the base variant, the lowest fraction of layers falls back."""
    scores: dict[tuple[int, str], list[float]] = defaultdict(list)
    with h5py.File(file) as opened:
        for (layer, _, _), name in cells(opened):
            group = opened[name]
            q, k, v = (torch.from_numpy(group[n][()]).float() for n in "qkv")
            common = {"sm_scale": float(group.attrs["sm_scale"]), "is_causal": bool(group.attrs["is_causal"])}
            o = quantized_attention(q, k, v, "exact", **common).double().flatten()
            other = quantized_attention(q, k, v, options.base, **common).double().flatten()
            cosine = torch.dot(o, other) / (o.norm() * other.norm())
            scores[layer, group.attrs["layer_name"]].append(
                float(cosine * (1 - (o - other).abs().sum() / o.abs().sum()))
            )
    mean = {key: sum(values) / len(values) for key, values in scores.items()}
    worst = sorted(mean, key=mean.__getitem__)[: round(options.fraction * len(mean))]
    entries = [
        {"layer": layer, "layer_name": name, "timestep": 0, "score": score,
         "variant": options.fallback if (layer, name) in worst else options.base}
        for (layer, name), score in mean.items()
    ]  # fmt: skip
    return {"schema": "sage2-map/1", "base": options.base, "fallback": options.fallback, "cells": entries}


def load(options: argparse.Namespace) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """The model, and tokens to calibrate on and to evaluate."""
    texts = []
    for path in options.text:
        try:
            texts.append(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    parts = [(text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]) for text in texts]
    seen, held_out = (b"\n".join(part) for part in zip(*parts, strict=True))
    if options.model is None:
        train, test = (torch.frombuffer(bytearray(part), dtype=torch.uint8).long() for part in (seen, held_out))
        _require(train, test, options)
        return tiny_model(train, options.length, options.train_steps), train, test
    if not (options.model / "config.json").is_file():
        raise DataError(f"{options.model}: expected a local model folder with config.json (nothing is downloaded)")
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, local_files_only=True, dtype="auto")
    train, test = (
        tokenizer(part.decode(errors="replace"), return_tensors="pt")["input_ids"][0] for part in (seen, held_out)
    )
    _require(train, test, options)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), train, test


def _require(train: torch.Tensor, test: torch.Tensor, options: argparse.Namespace) -> None:
    if len(train) <= options.length or len(test) < options.length:
        have = f"{len(train)} to calibrate on and {len(test)} held out"
        raise UsageError(f"the text is too short for windows of {options.length} tokens ({have})")


def table(rows: list[tuple[str, float]]) -> str:
    """Perplexities beside full precision's."""
    full = rows[0][1]
    lines = [f"{'attention':<36} {'perplexity':>11} {'difference':>11}"]
    lines += [f"{name:<36} {value:>11.4f} {value - full:>+11.4f}" for name, value in rows]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="+", help="text files")
    parser.add_argument("--model", type=Path, help="local folder of a transformers model (default: train a tiny one)")
    parser.add_argument("--map", type=Path, help="adaptive map (default: make one)")
    parser.add_argument("--eval", help="the sage2-eval program, to make the map with")
    parser.add_argument("--base", default="sage2-4b", help="4-bit variant (default sage2-4b)")
    parser.add_argument("--fallback", default="sage2-8b", help="8-bit variant (default sage2-8b)")
    parser.add_argument("--fraction", type=float, default=0.3, help="cells of the map that fall back (default 0.3)")
    parser.add_argument("--length", type=int, default=256, help="tokens of a window (default 256)")
    parser.add_argument("--windows", type=int, default=40, help="windows to evaluate at most (default 40)")
    parser.add_argument("--calibration", type=int, default=4, help="windows to make the map from (default 4)")
    parser.add_argument("--train-steps", type=int, default=100, help="of the tiny model (default 100)")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    try:
        model, train, test = load(options)
        text = windows(test, options.length, options.windows)
        rows = [("full precision", perplexity(model, text))]
        for variant in (options.base, options.fallback):
            with apply_map(model, AdaptiveMap.uniform(variant)):
                rows.append((f"all {variant}", perplexity(model, text)))
        with tempfile.TemporaryDirectory() as folder:
            file = options.map or make_map(
                model, windows(train, options.length, options.calibration), options, Path(folder)
            )
            with apply_map(model, file) as applied:
                value = perplexity(model, text)
        runs = {name: count for (name, _), count in applied.ran.items()}
        share = f"{runs.get(options.fallback, 0)} of {sum(runs.values())} calls {options.fallback}"
        rows.append((f"map ({share})", value))
    except Sage2Error as error:
        print(f"perplexity.py: {error}", file=sys.stderr)
        return error.exit_code
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
