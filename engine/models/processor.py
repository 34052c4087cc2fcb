"""What the processor is good at."""

from __future__ import annotations

import torch


def has_amx() -> bool:
    """Whether this processor multiplies tiles of bfloat16 (Intel's AMX), some four times as fast as its vectors do."""
    return torch.cpu._is_amx_tile_supported()


def fast_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether it multiplies in bfloat16: CUDA's GPUs, and some processors. In others it is emulated, up to thirty times as slow
    as float32."""
    if (kind := torch.device(device).type) != "cpu":
        return kind == "cuda"
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()


def mixed_precision(device: torch.device | str, wanted: bool = True) -> torch.autocast:
    """Autocast to bfloat16, where that is wanted and fast; elsewhere a computation stays in float32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=wanted and fast_bfloat16(device))
