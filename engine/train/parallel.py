"""Several processes train one model: FSDP2 over the ranks that torchrun started; with one process nothing here does anything.

Every rank holds a part of weights, gradients, moments and averages (ZeRO-2, as AION-1 was trained: gathered weights are kept
until the backward pass is over) and computes a part of each batch.
"""

from __future__ import annotations

import os
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.train.omni_step import MaskedOmni


def start() -> torch.device:
    """Join the processes of torchrun, if it started this one; the device to compute on."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")


def world() -> tuple[int, int]:
    """This process's rank and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def apply(model: MaskedOmni) -> MaskedOmni:
    """Share a model's parameters among the ranks, block by block."""
    if world()[1] == 1:
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(model.model.mask_token.device.type, (world()[1],))
    for block in (*model.model.encoder, *model.model.decoder):
        fully_shard(block, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    return model


def last_piece(model: nn.Module, last: bool) -> None:
    """Gradients are exchanged once a step, after the last piece of a batch."""
    if world()[1] > 1:
        cast(Any, model).set_requires_gradient_sync(last)


def release(model: nn.Module) -> None:
    """Let go of gathered weights, which a forward pass without a backward pass leaves behind."""
    if world()[1] > 1:
        for module in model.modules():
            if hasattr(module, "reshard"):
                cast(Any, module).reshard()


def summed(value: Tensor) -> Tensor:
    """The sum over all ranks."""
    if world()[1] > 1:
        dist.all_reduce(value)
    return value


def gathered(value: Tensor) -> Tensor:
    """The whole of a tensor that ranks share."""
    return cast(Any, value).full_tensor() if hasattr(value, "full_tensor") else value


def local(value: Tensor) -> Tensor:
    """This rank's part of a tensor, to change in place."""
    return cast(Any, value).to_local() if hasattr(value, "to_local") else value


def wait() -> None:
    """Until every rank is here."""
    if world()[1] > 1:
        dist.barrier()
