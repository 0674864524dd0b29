#!/usr/bin/env python3
"""Checks the Python module sage2 on a Hopper GPU: numbers against FP64, strides, graphs, streams, threads, errors.

    PYTHONPATH=scripts python3 scripts/check_sage2.py        exit code 1 where a check fails, 4 where there is no GPU
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
import traceback

import sage2
import torch
import torch.nn.functional as F

# Relative L1 error, 1 - CosSim and RMS error of the log-sum-exp that each width may show on biased N(0, 1) tensors.
# A largest element of about 3.5 makes steps of 0.028 (INT8) and 0.5 (INT4), so a score is off by 0.011 and 0.2 (RMS);
# the gates are at 2.5 times that, and as far above what E4M3 adds to the output.
GATES = {"sage2-8b": (0.03, 0.001, 0.03), "sage2-4b": (0.13, 0.008, 0.5)}


def tensors(batch=1, q_heads=2, kv_heads=2, q_len=500, kv_len=500, dim=128, dtype=torch.bfloat16, seed=0):
    g = torch.Generator("cuda").manual_seed(seed)

    def make(heads: int, length: int, bias: float) -> torch.Tensor:
        x = torch.randn(batch, heads, length, dim, generator=g, device="cuda")
        return (x + bias * torch.randn(1, heads, 1, dim, generator=g, device="cuda")).to(dtype)

    return make(q_heads, q_len, 0.5), make(kv_heads, kv_len, 2.0), make(kv_heads, kv_len, 0.3)


def exact(q, k, v, is_causal=False, top_left=False):
    """Attention in FP64 and its log-sum-exp; rows that see no key give zeros."""
    group = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(group, 1).double() for t in (k, v))
    s = q.double() @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    if is_causal:
        shift = 0 if top_left else k.shape[2] - q.shape[2]
        seen = torch.ones(s.shape[2:], dtype=torch.bool, device="cuda").tril(shift)
        s = s.masked_fill(~seen, -math.inf)
    return torch.softmax(s, 3).nan_to_num(0) @ v, torch.logsumexp(s, 3)


def errors(out: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    o, t = out.double().flatten(), truth.flatten()
    return ((o - t).abs().sum() / t.abs().sum()).item(), 1 - (o @ t / (o.norm() * t.norm())).item()


def gate(name: str, out: torch.Tensor, lse: torch.Tensor, truth: torch.Tensor, true_lse: torch.Tensor) -> tuple:
    """The three errors that GATES limits."""
    l1, cos = errors(out, truth)
    seen = true_lse.isfinite()
    shift = (lse.double() - true_lse)[seen].square().mean().sqrt().item()
    assert torch.equal(lse.isfinite(), seen), "log-sum-exp is minus infinity where a row sees no key, and nowhere else"
    limits = GATES[name.partition(":")[0]]
    found = (l1, cos, shift)
    assert all(x <= limit for x, limit in zip(found, limits, strict=True)), f"{name}: {found} over {limits}"
    return found


def check_numbers() -> None:
    worst: dict[str, tuple[float, ...]] = {}
    shapes = [
        {},
        {"q_heads": 4, "q_len": 333, "kv_len": 700},
        {"q_heads": 4, "kv_heads": 1, "batch": 2, "q_len": 700, "kv_len": 333},
        {"q_len": 1, "kv_len": 129},
    ]
    grid = itertools.product(GATES, (64, 80, 96, 128, 256), shapes, (False, True))
    for i, (variant, dim, shape, causal) in enumerate(grid):
        q, k, v = tensors(dim=dim, dtype=(torch.bfloat16, torch.float16)[(i // 2 + i // 8) % 2], seed=i, **shape)
        align = ("bottom_right", "top_left")[i // 8 % 2]
        out, lse = sage2.attention(q, k, v, variant, causal, return_lse=True, causal_align=align)
        try:
            found = gate(variant, out, lse, *exact(q, k, v, causal, align == "top_left"))
        except AssertionError as e:
            raise AssertionError(f"{e} at dim {dim}, {shape}, causal {causal} {align}, {q.dtype}") from e
        key = f"{variant} {dim}"
        worst[key] = tuple(map(max, worst.get(key, found), found))
    for key, (l1, cos, lse) in worst.items():
        print(f"    {key:<14} rel L1 {l1:.4f}  1-cos {cos:.6f}  lse {lse:.4f}")


def check_options() -> None:
    q, k, v = tensors(q_len=400, kv_len=600)
    truth = exact(q, k, v)
    for width in GATES:
        for option in ("per_block", "per_warp", "smooth_v=on", "smooth_q=off", "smooth_q=on", "pv_accum=fp32"):
            name = f"{width}:{option if '=' in option else 'qk_gran=' + option}"
            out, lse = sage2.attention(q, k, v, name, return_lse=True)
            print(f"    {name:<28} rel L1 {gate(name, out, lse, *truth)[0]:.4f}")


def check_layouts() -> None:
    q, k, v = tensors(batch=2, q_heads=4, kv_heads=2)
    want = sage2.attention(q, k, v, is_causal=True)
    nhd = [t.transpose(1, 2).contiguous() for t in (q, k, v)]
    out = sage2.attention(*nhd, is_causal=True, tensor_layout="NHD")
    assert out.is_contiguous()
    assert torch.equal(out.transpose(1, 2), want), "NHD"
    view = sage2.attention(*(t.transpose(1, 2) for t in nhd), is_causal=True)
    assert view.transpose(1, 2).is_contiguous(), "output laid out like Q"
    assert torch.equal(view, want), "transposed views"
    qkv = torch.stack([t.repeat_interleave(4 // t.shape[1], 1).transpose(1, 2) for t in (q, k, v)], 2)
    out = sage2.attention(*(qkv[:, :, i] for i in range(3)), is_causal=True, tensor_layout="NHD")
    assert torch.equal(out.transpose(1, 2), want), "slices of one tensor"
    one = k[:, :1].expand(2, 2, 500, 128)
    assert torch.equal(sage2.attention(q, one, v), sage2.attention(q, one.contiguous(), v)), "stride 0"
    odd = torch.zeros(2, 4, 500, 129, dtype=q.dtype, device="cuda")[..., 1:]
    assert torch.equal(sage2.attention(odd.copy_(q), k, v, is_causal=True), want), "rows that are not aligned"
    flipped = q.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(sage2.attention(flipped, k, v, is_causal=True), want), "channels apart"
    assert sage2.attention(q[:, :, :0], k, v).shape == (2, 4, 0, 128)


def check_replaces_sdpa() -> None:
    for shape in ({}, {"q_len": 300, "kv_len": 700}, {"q_heads": 8, "kv_heads": 2}):
        for causal in (False, True):
            q, k, v = tensors(dim=64, **shape)
            gqa = q.shape[1] != k.shape[1]
            want = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=gqa)
            out = sage2.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=gqa, variant="sage2-8b")
            l1, _ = errors(out, want.double())
            assert l1 <= 0.04, f"{shape} causal {causal}: {l1}"


def check_repeats() -> None:
    q, k, v = tensors(q_len=1500, kv_len=1500)
    for variant in GATES:
        want, want_lse = sage2.attention(q, k, v, variant, True, return_lse=True)
        for _ in range(20):
            out, lse = sage2.attention(q, k, v, variant, True, return_lse=True)
            assert torch.equal(out, want), "the same bits each time"
            assert torch.equal(lse, want_lse), "the same bits each time"
        prepared = sage2.prepare(q, k, v, variant, True)
        for _ in range(3):
            prepared.out.fill_(math.nan)
            assert torch.equal(prepared.attend(), want), "prepare and attend"


def check_graph() -> None:
    q, k, v = tensors(q_len=900, kv_len=900)
    sage2.attention(q, k, v)  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = sage2.attention(q, k, v, is_causal=True, return_lse=True)
    for seed in (1, 2):
        for to, x in zip((q, k, v), tensors(q_len=900, kv_len=900, seed=seed), strict=True):
            to.copy_(x)
        graph.replay()
        want, want_lse = sage2.attention(q, k, v, is_causal=True, return_lse=True)
        assert torch.equal(out, want), "replay of a graph"
        assert torch.equal(lse, want_lse), "replay of a graph"


def check_streams() -> None:
    q, k, v = tensors(q_len=2000, kv_len=2000)
    want = sage2.attention(q, k, v)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        late = q * 1  # seen only by work that waits for this stream
        out = sage2.attention(late, k, v)
    side.synchronize()
    assert torch.equal(out, want)


def check_threads() -> None:
    jobs = [tensors(q_len=700 + 100 * i, kv_len=1300, dim=(64, 128)[i % 2], seed=i) for i in range(4)]
    variants = ("sage2-4b", "sage2-8b", "sage2-4b:smooth_v=on", "sage2-8b:qk_gran=per_warp")
    want = [sage2.attention(*job, variant) for job, variant in zip(jobs, variants, strict=True)]
    torch.cuda.synchronize()
    wrong: list[str] = []

    def work(i: int) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(30):
                    if not torch.equal(sage2.attention(*jobs[i], variants[i]), want[i]):
                        wrong.append(f"thread {i} got other bits")
                try:
                    sage2.attention(*jobs[i], f"nothing{i}")
                except sage2.Sage2Error as e:
                    if f"nothing{i}" not in str(e):
                        wrong.append(f"thread {i} got the error of another: {e}")
        except Exception as e:
            wrong.append(f"thread {i}: {e}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong


def check_compile() -> None:
    q, k, v = tensors()

    def model(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return sage2.attention(q * 1, k, v, is_causal=True) + 1

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v), model(q, k, v))


def check_errors() -> None:
    q, k, v = tensors()
    big = torch.zeros(1, 2, 8, 512, dtype=q.dtype, device="cuda")
    mask = torch.ones(500, 500, dtype=torch.bool, device="cuda")
    sdpa = sage2.scaled_dot_product_attention
    cases = [
        ("float32", lambda: sage2.attention(q.float(), k.float(), v.float())),
        ("cpu", lambda: sage2.attention(q.cpu(), k, v)),
        ("one type", lambda: sage2.attention(q, k.half(), v)),
        ("head_dim is 512", lambda: sage2.attention(big, big, big)),
        ("multiple", lambda: sage2.attention(q[:, :1], k, v)),
        ("4 dimensions", lambda: sage2.attention(q[0], k[0], v[0])),
        ("no preset 'sage3'", lambda: sage2.attention(q, k, v, "sage3")),
        ("pv_accum", lambda: sage2.attention(q, k, v, "sage2pp-4b")),
        ("sm_scale", lambda: sage2.attention(q, k, v, scale=-1.0)),
        ("kv_len is 0", lambda: sage2.attention(q, k[:, :, :0], v[:, :, :0])),
        ("backward", lambda: sage2.attention(q.clone().requires_grad_(), k, v)),
        ("attn_mask", lambda: sdpa(q, k, v, mask)),
        ("dropout_p", lambda: sdpa(q, k, v, dropout_p=0.1)),
        ("enable_gqa", lambda: sdpa(q, k[:, :1], v[:, :1])),
    ]
    for part, call in cases:
        try:
            call()
        except (ValueError, sage2.Sage2Error) as e:
            assert part in str(e), f"expected '{part}' in: {e}"
        else:
            raise AssertionError(f"{part}: was not refused")
    sage2.attention(q, k, v)  # and goes on working


CHECKS = [f for name, f in list(globals().items()) if name.startswith("check_")]


def main() -> int:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        print("check_sage2: no Hopper GPU")
        return 4
    print(f"libsage2 {sage2.library_version()}, torch {torch.__version__}, {torch.cuda.get_device_name()}")
    failed = 0
    for check in CHECKS:
        try:
            check()
            torch.cuda.synchronize()
            print(f"ok      {check.__name__}", flush=True)
        except Exception:
            failed += 1
            lines = traceback.format_exc().splitlines()[-6:]
            print("\n".join([f"FAILED  {check.__name__}", *lines]), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
