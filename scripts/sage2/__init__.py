"""SageAttention2 on Hopper GPUs for PyTorch, through libsage2 (docs/library.md).

    import sage2
    out = sage2.attention(q, k, v, variant="sage2-4b", is_causal=True)
"""

from ._attention import Prepared, attention, prepare, scaled_dot_product_attention
from ._library import Sage2Error, library_path, library_version

__all__ = [
    "Prepared",
    "Sage2Error",
    "attention",
    "library_path",
    "library_version",
    "prepare",
    "scaled_dot_product_attention",
]
