"""SageAttention2 in plain NumPy, FP64 with exact accumulators: what a user would write, and an oracle that shares no
code with the C++ emulation. Evaluates one capture and prints JSON: {cell: {variant: [cos_sim, rel_l1, rmse]}}.

    plain_numpy.py CAPTURE [--layers 2,3] [--time]
"""

import argparse
import json
import os
import sys
import time

if "--time" in sys.argv:  # one core, to be comparable; must be set before NumPy starts its threads
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"

import h5py
import numpy as np

VARIANTS = {
    "sage2-4b:qk_gran=per_warp,pv_accum=exact": dict(bits=4, gran="warp", smooth_q=True, smooth_k=True),
    "sage2-4b:pv_accum=exact": dict(bits=4, gran="thread", smooth_q=True, smooth_k=True),
    "sage2-4b:qk_gran=per_block,pv_accum=exact": dict(bits=4, gran="block", smooth_q=True, smooth_k=True),
    "int4:pv_accum=exact": dict(bits=4, gran="warp", smooth_q=False, smooth_k=False),
    "sage2-8b:pv_accum=exact": dict(bits=8, gran="thread", smooth_q=False, smooth_k=True),
}


def e4m3_grid():
    values = []
    for code in range(127):
        exponent, fraction = code >> 3, code & 7
        values.append(fraction / 8 * 2.0**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7))
    return np.array(values)


GRID = e4m3_grid()
MIDDLES = (GRID[1:] + GRID[:-1]) / 2


def round_e4m3(x):
    """Nearest value, ties to the even code, by search among all of them."""
    a = np.minimum(np.abs(x), 448.0)
    low = np.searchsorted(MIDDLES, a, side="left")
    high = np.searchsorted(MIDDLES, a, side="right")
    code = np.where(low == high, low, np.where(low % 2 == 0, low, high))
    return np.sign(x) * GRID[code]


def groups(n, gran, is_q):
    i = np.arange(n)
    if gran == "block":
        return i // 128 if is_q else i // 64
    if gran == "warp":
        return i // 32 if is_q else i // 64
    return i // 32 * 8 + i % 8 if is_q else i // 64 * 4 + i % 8 // 2


def quantise(x, bits, gran, is_q):
    top = 2 ** (bits - 1) - 1
    group = groups(len(x), gran, is_q)
    amax = np.zeros(group.max() + 1)
    np.maximum.at(amax, group, np.abs(x).max(axis=1))
    # Codes are decided in FP32, where captured FP16 values meet exact ties.
    x, amax, top32 = x.astype(np.float32), amax.astype(np.float32), np.float32(top)
    eps = np.float32(1e-7)
    scale = (amax / top32 + eps if gran == "thread" else np.maximum(amax, eps) / top32)[group][:, None]
    y = x / scale
    code = np.trunc(y + np.float32(0.5) * np.sign(y)) if gran == "thread" else np.rint(y)
    return np.clip(code, -top, top).astype(np.float64) * scale


def softmax_attention(q, k, v, scale, causal):
    s = q @ k.T * scale
    if causal:
        s[np.triu_indices(len(q), 1 + len(k) - len(q), len(k))] = -np.inf
    p = np.exp(s - s.max(axis=1, keepdims=True))
    return p @ v / p.sum(axis=1, keepdims=True)


def variant(q, k, v, scale, causal, bits, gran, smooth_q, smooth_k):
    """Key tiles of 64, running maximum with the FP8 offset, E4M3 P and V, denominator from unrounded P."""
    if smooth_k:
        k = (k - k.mean(axis=0).astype(np.float16)).astype(np.float32).astype(np.float64)
    bias = np.zeros((len(q), len(k)))
    if smooth_q:
        for first in range(0, len(q), 128):
            rows = slice(first, first + 128)
            mean = q[rows].mean(axis=0).astype(np.float32).astype(np.float64)
            q = q.copy()
            q[rows] = (q[rows] - mean).astype(np.float32)
            bias[rows] = mean @ k.T
    s = (quantise(q, bits, gran, True) @ quantise(k, bits, gran, False).T + bias) * (scale * np.log2(np.e))
    if causal:
        s[np.triu_indices(len(q), 1 + len(k) - len(q), len(k))] = -np.inf
    amax = np.abs(v).max(axis=0)
    v_scale = np.where(amax > 0, amax / 448, 1)
    codes = round_e4m3(v / v_scale)
    m = np.full(len(q), -1e30)
    l = np.zeros(len(q))
    o = np.zeros((len(q), v.shape[1]))
    for first in range(0, len(k), 64):
        tile = s[:, first : first + 64]
        new = np.maximum(m, tile.max(axis=1) - 8.807)
        alpha = np.exp2(m - new)
        p = np.exp2(tile - new[:, None])
        l = l * alpha + p.sum(axis=1)
        o = o * alpha[:, None] + round_e4m3(p) @ codes[first : first + 64]
        m = new
    return o / l[:, None] * v_scale


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("capture")
    parser.add_argument("--layers", default="")
    parser.add_argument("--time", action="store_true", help="print the best time of a head and variant, in ms")
    args = parser.parse_args()
    layers = {int(x) for x in args.layers.split(",")} if args.layers else None
    result = {}
    best = {}
    with h5py.File(args.capture) as f:
        for layer in f["layers"].values():
            for step in layer.values():
                for sample in step.values():
                    a = sample.attrs
                    if layers is not None and int(a["layer"]) not in layers:
                        continue
                    q, k, v = (np.asarray(sample[t], dtype=np.float64) for t in "qkv")
                    sums = {name: np.zeros(6) for name in VARIANTS}
                    for b in range(q.shape[0]):
                        for h in range(q.shape[1]):
                            kv = h // (q.shape[1] // k.shape[1])
                            head = (q[b, h], k[b, kv], v[b, kv], float(a["sm_scale"]), bool(a["is_causal"]))
                            exact = softmax_attention(*head)
                            for name, options in VARIANTS.items():
                                start = time.perf_counter()
                                out = variant(*head, **options)
                                spent = 1e3 * (time.perf_counter() - start)
                                best[name] = min(best.get(name, spent), spent)
                                e = np.abs(out - exact)
                                sums[name] += [(exact * out).sum(), (exact**2).sum(), (out**2).sum(), e.sum(),
                                               np.abs(exact).sum(), (e**2).mean() / (q.shape[0] * q.shape[1])]
                    cell = f"{int(a['layer'])} {int(a['timestep'])} {int(a['sample'])}"
                    result[cell] = {n: [s[0] / np.sqrt(s[1] * s[2]), s[3] / s[4], np.sqrt(s[5])]
                                    for n, s in sums.items()}
    json.dump(best if args.time else result, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
