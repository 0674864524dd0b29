"""What one would write without sage2-eval: 4-bit and 8-bit attention by fake quantisation in plain PyTorch, against FP64.

    peer_eval.py CAPTURE                     every cell of a capture file (docs/capture.md; needs h5py)
    peer_eval.py --synthetic 24,17776,128    heads, tokens, head dim
        [--heads 4] [--variants NAME,...] [--device cuda] [--gib 4] [--json FILE]

It has each distinct row of `sage2-eval variants` suite `all`, as far as plain PyTorch can say it: scale groups, smoothing,
transforms and number formats, but P against the row's final maximum instead of the running one, and FP32 accumulators
instead of the tensor cores', so rows that differ in their accumulator alone are left out. It is the peer that
docs/performance-gpu.md compares with, so it is made to be fast: all heads and as many query rows at once as fit, codes and
scales kept apart, so that TF32 matrix products of codes are exact, and no copy of what can be changed in place.
"""

import time

START = time.perf_counter()  # imports count: they are what a user waits for

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

LOG2E = math.log2(math.e)
BASE = dict(q="int4", k="int4", gran="thread", smooth_q=True, smooth_k=True, transform=None, p="e4m3", v="e4m3",
            v_gran="channel", smooth_v=False, v_outliers=None)  # fmt: skip
PLAIN = dict(gran="warp", smooth_q=False, smooth_k=False)
EXACT = dict(q="exact", k="exact", p="exact", v="exact")
VARIANTS = {
    # smoothing
    "int4": PLAIN,
    "int4-hadamard": dict(PLAIN, transform="hadamard"),
    "int4-smoothattn": dict(PLAIN, transform="smoothattn"),
    "int4 smooth K": dict(PLAIN, smooth_k=True),
    "int4 smooth Q": dict(PLAIN, smooth_q=True),
    # granularity
    "sage2-4b": {},
    "per-token": dict(gran="token"),
    "per-warp": dict(gran="warp"),
    "per-block": dict(gran="block"),
    "per-tensor": dict(gran="tensor"),
    # formats of P and V
    "PV int8": dict(p="int8", v="int8"),
    "PV e5m2": dict(p="e5m2", v="e5m2"),
    "PV fp16": dict(p="fp16", v="fp16"),
    # smoothing of V and its alternatives
    "smooth V": dict(smooth_v=True),
    "clip V": dict(v_outliers="clip"),
    "median V": dict(v_outliers="median"),
    "split V": dict(v_outliers="split"),
    # stages
    "exact PV, exact QK": EXACT,
    **{f"only {x}": dict(EXACT, **{x: BASE[x]}) for x in "qkpv"},
    **{f"without {x}": {x: "exact"} for x in "qkpv"},
    # presets
    "exact": dict(EXACT, smooth_q=False, smooth_k=False),
    "fp16": dict(q="fp16", k="fp16", p="fp16", v="fp16", smooth_q=False, smooth_k=False),
    "sage1": dict(q="int8", k="int8", gran="block", smooth_q=False, p="fp16", v="fp16"),
    "sage2-8b": dict(q="int8", k="int8", smooth_q=False),
    "sage2-4b-v1": dict(gran="warp", smooth_v=True),
    "fa3-fp8": dict(q="e4m3", k="e4m3", gran="tensor", v_gran="tensor", smooth_q=False, smooth_k=False),
}
OFFSET = {"e4m3": 8.807, "e5m2": 15.807}  # log2 of what P is scaled to
TOP = {"e4m3": 448.0, "e5m2": 57344.0, "int8": 127.0, "int4": 7.0}


def padded(x, rows):
    return F.pad(x, (0, 0, 0, -x.shape[1] % rows))


def shared_amax(x, gran, is_q):
    """max |x| over the rows that share a scale, as a column [heads, rows, 1]; rows are whole tiles."""
    h, n, d = x.shape
    a = x.abs().amax(-1)
    if gran == "token":
        return a.unsqueeze(-1)
    if gran == "tensor":
        return a.amax(-1, keepdim=True).expand(h, n).unsqueeze(-1)
    if gran == "thread":
        a = a.view(h, n // 32, 4, 8) if is_q else a.view(h, n // 64, 8, 4, 2)
        return a.amax(2 if is_q else (2, 4), keepdim=True).expand_as(a).reshape(h, n, 1)
    rows = 64 if not is_q else 128 if gran == "block" else 32
    a = a.view(h, n // rows, rows)
    return a.amax(-1, keepdim=True).expand_as(a).reshape(h, n, 1)


def rounded(x, fmt):
    """Values of a format, as FP32; x may be overwritten."""
    if fmt == "fp16":
        return x.half().float()
    x = x.clamp_(-TOP[fmt], TOP[fmt])
    if fmt in ("e4m3", "e5m2"):
        return x.to(torch.float8_e4m3fn if fmt == "e4m3" else torch.float8_e5m2).float()
    return x.round_()


def quantised_rows(x, fmt, gran, is_q):
    """Codes and the scale of each row, or None for a scale of one."""
    if fmt == "exact":
        return x, None
    if fmt == "fp16":
        return rounded(x, fmt), None
    amax = shared_amax(x, gran, is_q)
    scale = amax / TOP[fmt] + 1e-7 if gran == "thread" else amax.clamp(min=1e-7) / TOP[fmt]
    return rounded(x / scale, fmt), scale


def hadamard(d, device):
    n = 1 << (d - 1).bit_length()
    m = torch.ones(1, 1, device=device)
    while m.shape[0] < n:
        m = torch.cat((torch.cat((m, m), 1), torch.cat((m, -m), 1)))
    signs = torch.randint(0, 2, (n, 1), generator=torch.Generator().manual_seed(1)).to(device) * 2.0 - 1
    return (signs * m / math.sqrt(n))[:d]


class Call:
    """One attention call on the device, FP32: q [heads, rows, d], k and v [kv heads, keys, d]."""

    def __init__(self, q, k, v, sm_scale, causal, top_left, dtype):
        self.heads, self.q_len, self.kv_len, self.d = q.shape[0], q.shape[1], k.shape[1], q.shape[2]
        self.q, self.k, self.v = padded(q, 128), padded(k, 64), padded(v, 64)
        self.sm_scale, self.causal, self.dtype = sm_scale, causal, dtype
        self.shift = 0 if top_left else self.kv_len - self.q_len
        self.kv = torch.arange(self.heads, device=q.device) // (self.heads // k.shape[0])

    def chunks(self, bytes_a_score, gib):
        """Heads and query rows (whole blocks of 128) that go at once."""
        scores = max(int(gib * 2**30 / bytes_a_score), 128 * self.k.shape[1])
        heads = max(1, min(self.heads, scores // (self.q.shape[1] * self.k.shape[1])))
        rows = min(self.q.shape[1], scores // self.k.shape[1] // 128 * 128) if heads == 1 else self.q.shape[1]
        for h in range(0, self.heads, heads):
            for r in range(0, self.q.shape[1], rows):
                yield slice(h, min(h + heads, self.heads)), slice(r, min(r + rows, self.q.shape[1]))

    def mask_(self, s, rows):
        """-infinity for keys that are not there or not seen; a row without keys becomes NaN and then 0."""
        if self.causal:
            i = torch.arange(rows.start, rows.stop, device=s.device)
            j = torch.arange(s.shape[2], device=s.device)
            s.masked_fill_((j[None, :] > i[:, None] + self.shift) | (j >= self.kv_len)[None, :], -math.inf)
        elif s.shape[2] > self.kv_len:
            s[:, :, self.kv_len :] = -math.inf

    def reference(self, gib):
        o = torch.empty(self.heads, self.q.shape[1], self.d, dtype=torch.float64, device=self.q.device)
        k, v = self.k.double(), self.v.double()
        for h, r in self.chunks(8, gib):
            s = torch.bmm(self.q[h, r].double() * self.sm_scale, k[self.kv[h]].transpose(1, 2))
            self.mask_(s, r)
            p = s.sub_(s.amax(-1, keepdim=True)).exp_()
            o[h, r] = torch.bmm(p, v[self.kv[h]]).div_(p.sum(-1, keepdim=True))
        return o.nan_to_num_(nan=0.0) if self.causal else o

    def mean(self, x):
        return (x.double().sum(1, keepdim=True) / self.kv_len).float()

    def operand_v(self, c):
        """Parts of V as (columns or None, codes, scale), and the mean to add back."""
        v = self.v[:, : self.kv_len]
        mean = None
        if c["smooth_v"]:
            mean = self.mean(v)
            v = v - mean
        parts = []
        if c["v_outliers"] == "clip":
            std, middle = torch.std_mean(v, 1, keepdim=True, correction=0)
            v = v.clamp(middle - 3 * std, middle + 3 * std)
        elif c["v_outliers"] == "median":
            std, middle = torch.std_mean(v, 1, keepdim=True, correction=0)
            v = torch.where((v - middle).abs() > 3 * std, v.median(1, keepdim=True).values, v)
        elif c["v_outliers"] == "split":  # the largest channels in FP16, zeros in their place
            top = v.abs().amax(1).topk(max(1, self.d // 16), -1).indices.unsqueeze(1).expand(-1, v.shape[1], -1)
            parts.append((top[:, :1], rounded(v.gather(2, top), "fp16"), None))
            v = v.scatter(2, top, 0.0)
        if c["v"] in TOP:
            amax = v.abs().amax((1, 2) if c["v_gran"] == "tensor" else 1, keepdim=True)
            scale = torch.where(amax > 0, amax / TOP[c["v"]], 1.0)
            parts.insert(0, (None, rounded(v / scale, c["v"]), scale))
        else:
            parts.insert(0, (None, v if c["v"] == "exact" else rounded(v, c["v"]), None))
        return [(where, padded(codes, 64), scale) for where, codes, scale in parts], mean

    def variant(self, c, gib):
        q, k = self.q, self.k
        if c["smooth_k"]:
            k = padded((k - self.mean(k).to(self.dtype).float())[:, : self.kv_len], 64)
        bias = None
        if c["smooth_q"]:
            blocks = q.view(self.heads, -1, 128, self.d)
            real = torch.full((blocks.shape[1], 1), 128.0, device=q.device)
            real[-1] -= q.shape[1] - self.q_len
            mean = (blocks.double().sum(2) / real).float()
            q = (blocks - mean.unsqueeze(2)).view_as(q)
            q[:, self.q_len :] = 0
            bias = torch.bmm(mean.double(), k.double()[self.kv].transpose(1, 2)).mul_(self.sm_scale * LOG2E).float()
        if c["transform"] == "hadamard":
            m = hadamard(self.d, q.device)
            q, k = q @ m, k @ m
        elif c["transform"] == "smoothattn":
            factor = k.abs().amax(1, keepdim=True).sqrt()
            factor = torch.where(factor > 0, factor, 1.0)
            q, k = q * factor[self.kv], k / factor
        q, q_scale = quantised_rows(q, c["q"], c["gran"], True)
        k, k_scale = quantised_rows(k, c["k"], c["gran"], False)
        v_parts, v_mean = self.operand_v(c)
        offset = OFFSET.get(c["p"], 8.807 if c["p"] == "exact" and c["v"] in ("e4m3", "e5m2") else 0.0)

        o = torch.empty(self.heads, q.shape[1], self.d, device=q.device)
        for h, r in self.chunks(4, gib):
            # Scales would spoil the codes, which TF32 holds exactly, so they multiply S.
            torch.backends.cuda.matmul.allow_tf32 = "exact" not in (c["q"], c["k"])
            s = torch.bmm(q[h, r], k[self.kv[h]].transpose(1, 2))
            factor = self.sm_scale * LOG2E
            s.mul_(factor if q_scale is None else q_scale[h, r] * factor)
            if k_scale is not None:
                s.mul_(k_scale[self.kv[h]].transpose(1, 2))
            if bias is not None:
                s.view(s.shape[0], -1, 128, s.shape[2]).add_(bias[h, r.start // 128 : r.stop // 128].unsqueeze(2))
            self.mask_(s, r)
            p = s.sub_(s.amax(-1, keepdim=True) - offset).exp2_()
            l = p.sum(-1, keepdim=True)
            if c["p"] == "int8":
                l *= 127
                p.mul_(127)
            if c["p"] != "exact":
                p = rounded(p, c["p"])
            torch.backends.cuda.matmul.allow_tf32 = "exact" not in (c["p"], c["v"])
            for where, codes, scale in v_parts:
                part = torch.bmm(p, codes[self.kv[h]]).div_(l)
                if scale is not None:
                    part.mul_(scale[self.kv[h]])
                if where is None:
                    o[h, r] = part
                else:
                    o[h, r] = o[h, r].scatter(2, where[self.kv[h]].expand(-1, part.shape[1], -1), part)
            if v_mean is not None:
                o[h, r] += v_mean[self.kv[h]]
        return o.nan_to_num_(nan=0.0) if self.causal else o


def sums(reference, output):
    """sum O^2, O'^2, O O', |O - O'|, |O|, (O - O')^2 and how many."""
    out = output.double()
    error = reference - out
    return torch.stack([reference.square().sum(), out.square().sum(), (reference * out).sum(), error.abs().sum(),
                        reference.abs().sum(), error.square().sum(),
                        torch.tensor(float(out.numel()), device=out.device, dtype=torch.float64)])  # fmt: skip


def calls(args):
    """Yields what each cell holds, on the device."""
    if args.synthetic:
        heads, n, d = (int(x) for x in args.synthetic.split(","))
        torch.manual_seed(1)
        q, k, v = (torch.randn(heads, n, d, device=args.device).half() for _ in range(3))
        k += 4 * torch.randn(heads, 1, d, device=args.device).half()
        yield Call(q.float(), k.float(), v.float(), 1 / math.sqrt(d), False, False, torch.float16)
        return
    import h5py
    import numpy as np

    def load(cell, name):
        dataset = cell[name]
        x = torch.from_numpy(np.ascontiguousarray(dataset[...])).to(args.device)
        if str(dataset.attrs.get("dtype", "")) == "bfloat16" and x.dtype == torch.uint16:
            x = x.view(torch.bfloat16)
        if str(cell.attrs.get("layout", "HND")) == "NHD":
            x = x.transpose(1, 2)
        if args.heads and name == "q":
            x = x[:, : args.heads]
        return x, x.dtype

    with h5py.File(args.capture) as file:
        for layer in file["layers"].values():
            for step in layer.values():
                for cell in step.values():
                    (q, dtype), (k, _), (v, _) = (load(cell, x) for x in "qkv")
                    flat = [x.reshape(-1, *x.shape[2:]).float() for x in (q, k, v)]
                    a = cell.attrs
                    yield Call(*flat, float(a["sm_scale"]), bool(a["is_causal"]),
                               str(a.get("causal_align", "")) == "top_left", dtype)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", nargs="?")
    parser.add_argument("--synthetic", metavar="HEADS,TOKENS,DIM")
    parser.add_argument("--heads", type=int, help="the first so many query heads (captures without GQA)")
    parser.add_argument("--variants", help="some of the names in the table")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gib", type=float, default=4.0, help="for the scores of one step")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if bool(args.capture) == bool(args.synthetic):
        parser.error("give a capture or --synthetic")
    names = args.variants.split(",") if args.variants else list(VARIANTS)
    variants = {name: {**BASE, **VARIANTS[name]} for name in names}

    def synchronised():
        if args.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    compute = 0.0
    totals = dict.fromkeys(names, 0)
    cells = 0
    with torch.inference_mode():
        for call in calls(args):
            begin = synchronised()
            reference = call.reference(args.gib)[:, : call.q_len]
            for name, c in variants.items():
                totals[name] = totals[name] + sums(reference, call.variant(c, args.gib)[:, : call.q_len])
            compute += synchronised() - begin
            cells += 1
    result = {}
    print(f"{'variant':20} {'cos_sim':>10} {'rel_l1':>9} {'rmse':>10}")
    for name, total in totals.items():
        rr, oo, ro, ae, ar, se, n = total.tolist()
        result[name] = [ro / math.sqrt(rr * oo), ae / ar, math.sqrt(se / n)]
        print(f"{name:20} {100 * result[name][0]:9.4f}% {result[name][1]:9.5f} {result[name][2]:10.6f}")
    total = time.perf_counter() - START
    print(f"{len(names)} variants, {cells} cells: {total:.2f} s in all, of which {compute:.2f} s of compute")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(dict(seconds=total, compute_seconds=compute, metrics=result), f, indent=1)


if __name__ == "__main__":
    main()
