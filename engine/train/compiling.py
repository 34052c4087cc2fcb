"""A transformer's blocks as compiled programs: on a GPU one for any number of tokens, on a CPU one for each number."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext

import torch

from engine.models.omni import Omni

MOST = 64  # programs of a block: for each of the heads that read tokens, and for odd lengths


def check_compiler(device: torch.device) -> None:
    """Raises ValueError where programs for the processor are to be made, but no C++ compiler is found."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    if device.type == "cpu" and not any(shutil.which(name) for name in names if name):
        raise ValueError("blocks can only be compiled with a C++ compiler, and there is none; install g++, or train with "
                         "--no-compiled, a fifth slower")


def compile_blocks(model: Omni, device: torch.device) -> None:
    """In place; a program is made when it is first needed, in some ten seconds, and torch keeps it for later runs.

    The number of tokens changes from batch to batch, among a few. A program for any number begins sooner, and on a GPU is as
    fast; on a CPU those for one number each gain twice as much: there most time goes into small steps over memory, such as
    norms of heads, which become one.
    """
    torch._dynamo.config.recompile_limit = MOST
    for block in (*model.encoder, *model.decoder):
        block.compile(dynamic=device.type != "cpu")


def eager(compiled: bool) -> AbstractContextManager[object]:
    """Inside, blocks run uncompiled: without gradients they would be other programs, to be made, too."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
