"""A copy of a codec that computes its convolutions in bfloat16."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from engine.models.processor import fast_bfloat16

Codec = TypeVar("Codec", bound=nn.Module)


def fast(codec: Codec) -> Codec:
    """A copy for speed: encoder and decoder in bfloat16 where the processor multiplies in it, and channels last in memory.

    What comes before and after them, norms, quantisers and what a module says to be `exact` stay in float32. A few tokens of a
    hundred differ. The codec itself is left as it is and shares what need not be converted.
    """
    tensors = codec.state_dict()
    device = next(iter(tensors.values())).device
    dtype = torch.bfloat16 if fast_bfloat16(device) else torch.float32
    for half in ("encoder", "decoder"):
        for name, module in getattr(codec, half, nn.Module()).named_modules(prefix=half):
            product = getattr(module, "weight", torch.empty(0)).ndim > 1 and getattr(module, "groups", 1) == 1  # no norm
            if product and not getattr(module, "exact", False):
                for kind, value in module.named_parameters(prefix=name):
                    tensors[kind] = _converted(value.detach(), dtype)
    with torch.device("meta"):
        copy = type(codec)(codec.config)
    copy.load_state_dict(tensors, assign=True)
    return copy.eval().requires_grad_(False)


def _converted(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype, memory_format=torch.channels_last if value.ndim == 4 else torch.preserve_format)
