#!/usr/bin/env python3
"""Times attention kernels side by side on a GPU: PyTorch's back ends, FlashAttention-3, SageAttention and libsage2.

One process, the same tensors, one call of each after the other, L2 flushed before every call; medians, and beside each
the error against FP64 on sampled rows. What is not installed is left out, and said.

    PYTHONPATH=scripts python3 scripts/bench_peers.py --out peers.json
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import sage2
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

ROWS = 16  # of every head, for the error


@dataclass
class Contestant:
    """`run` gives the output [batch, heads, tokens, head_dim]; `make` is called once for each shape, untimed."""

    name: str
    make: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, bool], Callable[[], torch.Tensor]]
    variant: str | None = None  # as sage2-eval spells it, for whole calls of libsage2


@dataclass
class Result:
    name: str
    variant: str | None
    ms: list[float] = field(default_factory=list)
    cos_sim: float = math.nan
    rel_l1: float = math.nan
    why_not: str = ""


def torch_backend(backend: SDPBackend):
    def make(q, k, v, causal):
        def run() -> torch.Tensor:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v, is_causal=causal)

        return run

    return make


def flash_attention_3(fp8: bool):
    """Takes [batch, tokens, heads, head_dim]; in FP8 the conversion of the inputs is not timed."""

    def make(q, k, v, causal):
        from flash_attn_interface import flash_attn_func

        q, k, v = (t.transpose(1, 2).contiguous() for t in (q, k, v))
        if fp8:
            q, k, v = (t.to(torch.float8_e4m3fn) for t in (q, k, v))

        def run() -> torch.Tensor:
            out = flash_attn_func(q, k, v, causal=causal)
            return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

        return run

    return make


def official_sage2(q, k, v, causal):
    from sageattention import sageattn_qk_int8_pv_fp8_cuda_sm90 as attend

    return lambda: attend(q, k, v, tensor_layout="HND", is_causal=causal, qk_quant_gran="per_thread", smooth_k=True)


def official_sage1(q, k, v, causal):
    """The Triton kernels of SageAttention 1: INT8 per block, FP16 P and V."""
    from sageattention import sageattn

    k = k.clone()  # it subtracts the mean from what it is given
    return lambda: sageattn(q, k, v, tensor_layout="HND", is_causal=causal)


def ours(variant: str, kernel_alone: bool):
    def make(q, k, v, causal):
        if kernel_alone:
            return sage2.prepare(q, k, v, variant, causal).attend
        return lambda: sage2.attention(q, k, v, variant, causal)

    return make


def contestants() -> tuple[list[Contestant], list[str]]:
    found = [
        Contestant("PyTorch flash", torch_backend(SDPBackend.FLASH_ATTENTION)),
        Contestant("PyTorch memory-efficient", torch_backend(SDPBackend.EFFICIENT_ATTENTION)),
        Contestant("cuDNN BF16", torch_backend(SDPBackend.CUDNN_ATTENTION)),
    ]
    absent = []
    if importlib.util.find_spec("flash_attn_interface"):
        found += [
            Contestant("FlashAttention-3 BF16", flash_attention_3(False)),
            Contestant("FlashAttention-3 FP8 (kernel alone)", flash_attention_3(True)),
        ]
    else:
        absent.append("flash_attn_interface (FlashAttention-3)")
    if not importlib.util.find_spec("sageattention"):
        absent.append("sageattention")
    elif hasattr(importlib.import_module("sageattention"), "sageattn_qk_int8_pv_fp8_cuda_sm90"):
        found.append(Contestant("SageAttention 2 official", official_sage2))
    else:
        found.append(Contestant("SageAttention 1 official", official_sage1))
        absent.append("sageattention 2")
    for variant in ("sage2-8b", "sage2-4b"):
        found.append(Contestant(f"{variant}@hopper", ours(variant, False), variant))
        found.append(Contestant(f"{variant}@hopper (kernel alone)", ours(variant, True)))
    return found, absent


def make_tensors(batch: int, heads: int, length: int, dim: int) -> list[torch.Tensor]:
    """N(0, 1) with a bias a channel, as `sage2-eval bench` makes them."""
    generator = torch.Generator("cuda").manual_seed(1)

    def one(bias: float) -> torch.Tensor:
        shape = (batch, heads, length, dim)
        x = torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
        return x + (bias * torch.randn(batch, heads, 1, dim, generator=generator, device="cuda")).bfloat16()

    return [one(0.5), one(2.0), one(0.3)]


def exact_rows(q, k, v, causal):
    """FP64 output of ROWS evenly spread rows of every head, the last one among them, and their indices."""
    length = q.shape[2]
    rows = torch.arange(1, ROWS + 1, device="cuda") * (length // ROWS) - 1
    outs = []
    for b in range(q.shape[0]):
        s = q[b][:, rows].double() @ k[b].double().transpose(1, 2) / math.sqrt(q.shape[3])
        if causal:
            s.masked_fill_(torch.arange(length, device="cuda") > rows[:, None], -math.inf)
        outs.append(torch.softmax(s, 2) @ v[b].double())
    return torch.stack(outs), rows


def measure(shape: tuple[int, int, int, int], causal: bool, samples: int, flush: torch.Tensor) -> list[Result]:
    q, k, v = make_tensors(*shape)
    truth, rows = exact_rows(q, k, v, causal)
    results, runs = [], []
    for c in contestants()[0]:
        result = Result(c.name, c.variant)
        results.append(result)
        try:
            run = c.make(q, k, v, causal)
            out = run()[:, :, rows].double()
            for _ in range(3):
                run()
            torch.cuda.synchronize()
        except (AssertionError, ImportError, RuntimeError, ValueError) as e:
            result.why_not = str(e).strip().splitlines()[0][:100]
            continue
        result.rel_l1 = ((out - truth).abs().sum() / truth.abs().sum()).item()
        result.cos_sim = ((out * truth).sum() / (out.norm() * truth.norm())).item()
        runs.append((result, run))
    timed: list[tuple[Result, torch.cuda.Event, torch.cuda.Event]] = []
    for _ in range(samples):
        for result, run in runs:
            flush.zero_()
            torch.cuda._sleep(300_000)  # the GPU waits while Python enqueues the call
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            stop.record()
            timed.append((result, start, stop))
    torch.cuda.synchronize()
    for result, start, stop in timed:
        result.ms.append(start.elapsed_time(stop))
    return results


def operations(shape: tuple[int, int, int, int], causal: bool) -> float:
    batch, heads, length, dim = shape
    return 4.0 * batch * heads * length * length * dim / (2 if causal else 1)


def show(shape: tuple[int, int, int, int], causal: bool, results: list[Result]) -> None:
    batch, heads, length, dim = shape
    print(f"\nhead dim {dim}, {'causal' if causal else 'no mask'}, {length} tokens, {batch} x {heads} heads")
    print(f"{'':<36} {'ms':>8} {'TOPS':>7} {'10%..90% ms':>16} {'CosSim':>9} {'RelL1':>8}")
    for r in results:
        if r.why_not:
            print(f"{r.name:<36} not run: {r.why_not}")
            continue
        tops = operations(shape, causal) / statistics.median(r.ms) * 1e-9
        low, *_, high = statistics.quantiles(r.ms, n=10)
        spread = f"{low:.3f}..{high:.3f}"
        print(f"{r.name:<36} {statistics.median(r.ms):8.3f} {tops:7.0f} {spread:>16} {r.cos_sim:9.6f} {r.rel_l1:8.5f}")
    sys.stdout.flush()


def entries(shape: tuple[int, int, int, int], causal: bool, results: list[Result]) -> list[dict]:
    batch, heads, length, dim = shape
    sizes = {"batch": batch, "q_heads": heads, "kv_heads": heads, "q_len": length, "kv_len": length}
    out = []
    for r in results:
        if r.why_not:
            continue
        ms = statistics.median(r.ms)
        entry = {
            "variant": r.name,
            "ms": ms,
            "tops": operations(shape, causal) / ms * 1e-9,
            "shape": {**sizes, "head_dim": dim, "is_causal": causal},
            "samples": len(r.ms),
            "cos_sim": r.cos_sim,
            "rel_l1": r.rel_l1,
        }
        if r.variant is not None:
            entry["stands_for"] = [r.variant]
        out.append(entry)
    return out


def gpu_state() -> str:
    query = "name,uuid,driver_version,clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
    try:
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={torch.cuda.current_device()}"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError) as e:
        return f"unknown: {e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--masks", nargs="+", choices=["none", "causal"], default=["none", "causal"])
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32768, help="batch x length")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--out", type=Path, help="write the results here (JSON, for report --bench)")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_peers: no GPU", file=sys.stderr)
        return 4
    flush = torch.empty(4 * torch.cuda.get_device_properties().L2_cache_size, dtype=torch.uint8, device="cuda")
    before = gpu_state()
    versions = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    versions["libsage2"] = sage2.library_version()
    print(f"{before}\n" + ", ".join(f"{name} {version}" for name, version in versions.items()))
    absent = contestants()[1]
    if absent:
        print(f"not installed, left out: {', '.join(absent)}")
    all_entries: list[dict] = []
    with torch.inference_mode():
        for dim in args.dims:
            for mask in args.masks:
                for length in args.lengths:
                    shape = (max(1, args.tokens // length), args.heads, length, dim)
                    results = measure(shape, mask == "causal", max(20, args.samples), flush)
                    show(shape, mask == "causal", results)
                    all_entries += entries(shape, mask == "causal", results)
    provenance = {
        "command": sys.argv,
        **versions,
        "before": before,
        "after": gpu_state(),
        "left_out": absent,
        "flush_bytes": flush.numel(),
    }
    if args.out:
        text = json.dumps({"schema": "sage2-bench/1", "entries": all_entries, "provenance": provenance}, indent=1)
        args.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
