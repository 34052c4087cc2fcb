"""What the processor is good at."""

from __future__ import annotations

import torch


def has_amx() -> bool:
    """Whether this processor multiplies tiles of bfloat16 (Intel's AMX), some four times as fast as its vectors do."""
    return torch.cpu._is_amx_tile_supported()


def fast_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16 (elsewhere it is emulated, and slower than float32)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()
