"""Attention on PyTorch tensors. Workspaces come from PyTorch's allocator, work goes to the current stream: calls may be
captured into CUDA graphs and compiled by torch.compile."""

from __future__ import annotations

import math

import torch

from . import _library as lib
from ._library import Sage2Error

_DTYPES = {torch.float16: lib.DTYPES["float16"], torch.bfloat16: lib.DTYPES["bfloat16"]}
_MASKS = {"bottom_right": lib.BOTTOM_RIGHT, "top_left": lib.TOP_LEFT}


def _refuse(why: str) -> None:
    raise ValueError(f"sage2: {why}")


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tensor_layout: str) -> None:
    if tensor_layout not in ("HND", "NHD"):
        _refuse(f"tensor_layout is {tensor_layout!r}, expected 'HND' or 'NHD'")
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.dim() != 4:
            _refuse(f"{name} has shape {tuple(t.shape)}, expected 4 dimensions")
        if not t.is_cuda:
            _refuse(f"{name} is on {t.device}, expected a CUDA device")
        if t.dtype not in _DTYPES:
            _refuse(f"{name} is {t.dtype}, expected torch.float16 or torch.bfloat16")
    if k.dtype != q.dtype or v.dtype != q.dtype:
        _refuse(f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}, expected one type")
    if k.device != q.device or v.device != q.device:
        _refuse(f"q, k and v are on {q.device}, {k.device} and {v.device}, expected one device")
    if k.shape != v.shape:
        _refuse(f"k has shape {tuple(k.shape)}, v {tuple(v.shape)}: expected the same")
    heads = 1 if tensor_layout == "HND" else 2
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        _refuse(f"q has shape {tuple(q.shape)}, k {tuple(k.shape)}: batch and head dim must be the same")
    if k.shape[heads] == 0 or q.shape[heads] % k.shape[heads] != 0:
        _refuse(f"q has {q.shape[heads]} heads, k {k.shape[heads]}: expected a multiple")
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        _refuse("there is no backward pass; call it under torch.no_grad() or torch.inference_mode()")


def _rows_of_channels(t: torch.Tensor) -> torch.Tensor:
    return t if t.stride(3) == 1 else t.contiguous()


def _tensor(t: torch.Tensor, tensor_layout: str) -> lib.Tensor:
    b, x, y, _ = t.stride()
    head, token = (x, y) if tensor_layout == "HND" else (y, x)
    return lib.Tensor(t.data_ptr(), b, head, token)


class Prepared:
    """K and V smoothed and quantised; `attend()` runs the attention kernel alone, as often as one likes.

    It quantises Q itself, which must not have changed.
    """

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        variant: str,
        is_causal: bool,
        scale: float | None,
        tensor_layout: str,
        return_lse: bool,
        causal_align: str,
    ) -> None:
        _check(q, k, v, tensor_layout)
        if causal_align not in _MASKS:
            _refuse(f"causal_align is {causal_align!r}, expected 'bottom_right' or 'top_left'")
        self.variant = lib.parse_variant(variant)
        q, k, v = (_rows_of_channels(t) for t in (q, k, v))
        self.inputs = (q, k, v)
        heads, tokens = (1, 2) if tensor_layout == "HND" else (2, 1)
        # Laid out in memory like Q: what transposes it back afterwards gets a view.
        self.out = torch.empty_like(q)
        shape = (q.shape[0], q.shape[heads], q.shape[tokens])
        self.lse = torch.empty(shape, dtype=torch.float32, device=q.device) if return_lse else None
        self.empty = q.numel() == 0
        if self.empty:
            return
        self.args = lib.Args(
            batch=q.shape[0],
            q_heads=q.shape[heads],
            kv_heads=k.shape[heads],
            q_len=q.shape[tokens],
            kv_len=k.shape[tokens],
            head_dim=q.shape[3],
            q=_tensor(q, tensor_layout),
            k=_tensor(k, tensor_layout),
            v=_tensor(v, tensor_layout),
            o=_tensor(self.out, tensor_layout),
            lse=None if self.lse is None else self.lse.data_ptr(),
            dtype=_DTYPES[q.dtype],
            o_dtype=_DTYPES[q.dtype],
            mask=_MASKS[causal_align] if is_causal else lib.NO_MASK,
            sm_scale=1 / math.sqrt(q.shape[3]) if scale is None else scale,
        )
        size = lib.workspace_size(self.variant, self.args)
        self.workspace = torch.empty(size, dtype=torch.uint8, device=q.device)

    def call(self, name: str) -> None:
        if self.empty:
            return
        stream = torch.cuda.current_stream(self.out.device).cuda_stream
        lib.call(name, self.variant, self.args, self.workspace.data_ptr(), self.workspace.numel(), stream)

    def attend(self) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The attention kernel alone. Every call writes the same output tensors."""
        self.call("sage2_attend")
        return self.out if self.lse is None else (self.out, self.lse)


def prepare(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    variant: str = "sage2-4b",
    is_causal: bool = False,
    scale: float | None = None,
    tensor_layout: str = "HND",
    return_lse: bool = False,
    causal_align: str = "bottom_right",
) -> Prepared:
    """The first half of `attention`: smoothing and quantisation, on the current stream."""
    prepared = Prepared(q, k, v, variant, is_causal, scale, tensor_layout, return_lse, causal_align)
    prepared.call("sage2_prepare")
    return prepared


def _run(q, k, v, variant, is_causal, scale, tensor_layout, return_lse, causal_align) -> Prepared:  # noqa: ANN001
    prepared = Prepared(q, k, v, variant, is_causal, scale, tensor_layout, return_lse, causal_align)
    prepared.call("sage2_attention")
    return prepared


@torch.library.custom_op("sage2::attention", mutates_args=(), device_types="cuda")
def _operator(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    variant: str,
    is_causal: bool,
    scale: float,
    tensor_layout: str,
    return_lse: bool,
    causal_align: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    done = _run(q, k, v, variant, is_causal, scale, tensor_layout, return_lse, causal_align)
    lse = done.lse if done.lse is not None else q.new_empty(0, dtype=torch.float32)
    return done.out, lse


@_operator.register_fake
def _(q, k, v, variant, is_causal, scale, tensor_layout, return_lse, causal_align):  # noqa: ANN001, ANN202
    heads, tokens = (1, 2) if tensor_layout == "HND" else (2, 1)
    shape = (q.shape[0], q.shape[heads], q.shape[tokens]) if return_lse else (0,)
    return torch.empty_like(_rows_of_channels(q)), q.new_empty(shape, dtype=torch.float32)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    variant: str = "sage2-4b",
    is_causal: bool = False,
    scale: float | None = None,
    tensor_layout: str = "HND",
    return_lse: bool = False,
    causal_align: str = "bottom_right",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """softmax(q k^T scale) v with Q and K in INT8 or INT4, P and V in FP8.

    q: [batch, q_heads, q_len, head_dim], k and v: [batch, kv_heads, kv_len, head_dim] in FP16 or BF16 on a Hopper GPU,
    head_dim up to 256; with tensor_layout "NHD" tokens stand before heads. Any strides. q_heads may be a multiple of
    kv_heads. With is_causal and "bottom_right" the last query sees all keys; with "top_left" query i sees keys 0 .. i.
    variant: as in `sage2-eval variants`, for example "sage2-8b" or "sage2-4b:qk_gran=per_warp,smooth_v=on".
    Returns the output like q, with return_lse also the log-sum-exp of the scores [batch, q_heads, q_len] in FP32.
    """
    if torch.compiler.is_compiling():
        scale = 1 / math.sqrt(q.shape[3]) if scale is None else float(scale)
        out, lse = _operator(q, k, v, variant, is_causal, scale, tensor_layout, return_lse, causal_align)
        return (out, lse) if return_lse else out
    done = _run(q, k, v, variant, is_causal, scale, tensor_layout, return_lse, causal_align)
    return done.out if done.lse is None else (done.out, done.lse)


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    variant: str = "sage2-4b",
) -> torch.Tensor:
    """Takes the place of torch.nn.functional.scaled_dot_product_attention where there is no mask and no dropout.

    As there, is_causal lets query i see keys 0 .. i, also where lengths differ.
    """
    if attn_mask is not None:
        _refuse("attn_mask is given; only is_causal can be computed")
    if dropout_p != 0:
        _refuse(f"dropout_p is {dropout_p}, expected 0")
    if not enable_gqa and query.dim() == 4 and key.dim() == 4 and query.shape[1] != key.shape[1]:
        _refuse(f"query has {query.shape[1]} heads, key {key.shape[1]}: pass enable_gqa=True")
    return attention(query, key, value, variant, is_causal, scale, causal_align="top_left")


__all__ = ["Prepared", "Sage2Error", "attention", "prepare", "scaled_dot_product_attention"]
