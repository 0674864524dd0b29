"""Who computes a variant: a registry of backends, asked in order until one can.

A further backend is one class with `name`, `available` and `supports` and `run` as below, passed to `register_backend`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import ClassVar, Protocol

import torch

from .call import AttentionCall
from .errors import DeviceError, UsageError
from .fake.attention import quantized_attention
from .fake.variant import PRESETS, Variant, parse_variant


class Backend(Protocol):
    """Computes attention of some variants on some calls."""

    name: str

    def available(self) -> bool:
        """True where what it needs is installed on this machine."""
        ...

    def supports(self, variant: Variant, call: AttentionCall) -> bool:
        """True where `run` computes this variant of this call, and nothing else than this variant."""
        ...

    def run(self, variant: Variant, call: AttentionCall) -> torch.Tensor:
        """Output [batch, heads, length, head_dim] in the format of call.q."""
        ...


class OfficialSageAttention:
    """The official SageAttention package, for the variants it has: 8-bit Q and K with FP8 or FP16 P and V.

    Its 4-bit kernels were never released. Each kernel runs only on the architectures whose tensor cores the variant
    means: `sage2-8b@hopper` is what it computes on a Hopper GPU, `sage2-8b` what it computes on Ada.
    """

    name = "sageattention"

    _ARCH: ClassVar = {(8, 0): "ampere", (8, 6): "ampere", (8, 9): "ada", (9, 0): "hopper", (10, 0): "blackwell"}

    def available(self) -> bool:
        return torch.cuda.is_available() and importlib.util.find_spec("sageattention") is not None

    def supports(self, variant: Variant, call: AttentionCall) -> bool:
        if not call.q.is_cuda or call.mask is not None or call.q.shape[-1] not in (64, 96, 128):
            return False
        if call.q.dtype not in (torch.float16, torch.bfloat16) or (call.is_causal and call.q_len != call.kv_len):
            return False
        return self._kernel(variant, torch.cuda.get_device_capability(call.q.device)) is not None

    def run(self, variant: Variant, call: AttentionCall) -> torch.Tensor:
        import sageattention

        kernel = self._kernel(variant, torch.cuda.get_device_capability(call.q.device))
        if kernel is None:
            raise UsageError(f"SageAttention has no kernel for {variant}")
        name, options = kernel
        function = getattr(sageattention, name)
        tensors = (call.q.contiguous(), call.k.contiguous(), call.v.contiguous())
        return function(
            *tensors, tensor_layout="HND", is_causal=call.is_causal, sm_scale=call.sm_scale, smooth_k=True, **options
        )

    def _kernel(self, variant: Variant, capability: tuple[int, int]) -> tuple[str, dict[str, str]] | None:
        """Function and options that compute exactly this variant on a GPU of this compute capability."""
        arch = self._ARCH.get(capability)
        accum = variant.pv_accum
        if arch == variant.arch and variant == replace(PRESETS["sage1"], arch=arch):
            return "sageattn_qk_int8_pv_fp16_triton", {"quantization_backend": "triton"}
        if arch == "ada" and variant in (PRESETS["sage2-8b"], PRESETS["sage2pp-8b"]):
            return "sageattn_qk_int8_pv_fp8_cuda", {"qk_quant_gran": "per_thread", "pv_accum_dtype": accum}
        if arch == "hopper" and variant == parse_variant("sage2-8b@hopper"):
            return "sageattn_qk_int8_pv_fp8_cuda_sm90", {"qk_quant_gran": "per_thread", "pv_accum_dtype": accum}
        if arch == "ampere" and variant == parse_variant("sage2-8b@ampere"):
            return "sageattn_qk_int8_pv_fp16_cuda", {"qk_quant_gran": "per_thread", "pv_accum_dtype": "fp32"}
        return None


class Libsage2:
    """This project's own kernels (docs/library.md): 8 and 4 bits on Hopper GPUs, exactly the variant that is asked for.

    Those kernels mean `@hopper`: `sage2-4b@hopper` is theirs, `sage2-4b` is what Ada computes.
    """

    name = "libsage2"

    def available(self) -> bool:
        if not torch.cuda.is_available() or importlib.util.find_spec("sage2") is None:
            return False
        import sage2

        try:
            sage2.library_version()
        except sage2.Sage2Error:
            return False
        return True

    def supports(self, variant: Variant, call: AttentionCall) -> bool:
        if not call.q.is_cuda or call.mask is not None or call.q.shape[-1] > 256 or call.k.shape != call.v.shape:
            return False
        if call.q.dtype not in (torch.float16, torch.bfloat16) or call.sm_scale <= 0:
            return False
        return torch.cuda.get_device_capability(call.q.device) == (9, 0) and self.spelling(variant) is not None

    def run(self, variant: Variant, call: AttentionCall) -> torch.Tensor:
        import sage2

        text = self.spelling(variant)
        if text is None:
            raise UsageError(f"libsage2 has no kernel for {variant}")
        return sage2.attention(
            call.q, call.k, call.v, text, call.is_causal, call.sm_scale, causal_align=call.causal_align
        )

    def spelling(self, variant: Variant) -> str | None:
        """The variant as libsage2 reads it, or None where it has no fast kernel for it."""
        base = parse_variant("sage2-8b@hopper")
        keys = ("qk_gran", "smooth_q", "smooth_k", "smooth_v")
        settings = {key: getattr(variant, key) for key in keys}
        if variant != replace(base, q=variant.q, k=variant.q, **settings):
            return None
        if variant.qk_gran not in ("per_block", "per_warp", "per_thread"):
            return None
        if variant.q != "int4" and (variant.q != "int8" or variant.smooth_q == "on"):
            return None
        return f"sage2-8b@hopper:qk={variant.q}," + ",".join(f"{key}={value}" for key, value in settings.items())


class FakeQuantisation:
    """PyTorch arithmetic of every variant, on any machine; for quality, not for speed."""

    name = "fake"

    def available(self) -> bool:
        return True

    def supports(self, variant: Variant, call: AttentionCall) -> bool:
        return True

    def run(self, variant: Variant, call: AttentionCall) -> torch.Tensor:
        return quantized_attention(
            call.q,
            call.k,
            call.v,
            variant,
            sm_scale=call.sm_scale,
            is_causal=call.is_causal,
            causal_align=call.causal_align,
            mask=call.mask,
        )


_REGISTRY: list[Backend] = [Libsage2(), OfficialSageAttention(), FakeQuantisation()]


def register_backend(backend: Backend) -> None:
    """Puts a backend in front of the others."""
    _REGISTRY.insert(0, backend)


def choose(name: str) -> list[Backend]:
    """Backends to ask, best first: "auto" for every available one, or one by name (raises where it is missing)."""
    if name == "auto":
        return [backend for backend in _REGISTRY if backend.available()]
    named = [backend for backend in _REGISTRY if backend.name == name]
    if not named:
        raise UsageError(f"no backend '{name}' (there are auto, {', '.join(b.name for b in _REGISTRY)})")
    if not named[0].available():
        raise DeviceError(f"backend '{name}' is not available on this machine")
    return named
