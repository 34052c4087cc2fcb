"""The blocks of a training step recorded on a GPU as graphs, one a length: replayed, their thousand kernels start as one.

A GPU is faster at a small model than a processor is at starting its kernels one by one (CUDA graphs; Gray 2019, and
`torch.cuda.make_graphed_callables`). Shape letters as in `omni_step`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.omni_config import OmniConfig
from engine.train.omni_recipes import OmniRecipe, estimate
from engine.train.omni_step import MaskedOmni


def lengths(recipe: OmniRecipe, config: OmniConfig, free: int) -> list[int]:
    """The numbers of inputs, largest first, whose graphs have room (bytes) beside a step with the largest."""
    step = estimate(recipe, config, device="cuda").total

    def fits(inputs: int) -> bool:
        own = replace(recipe, budgets=replace(recipe.budgets, inputs=(inputs,)))
        return step + estimate(own, config, device="cuda").passing <= free

    return [inputs for inputs in sorted(set(recipe.budgets.inputs), reverse=True) if fits(inputs)]


class _Blocks(nn.Module):
    """What is recorded is a module, whose parameters have gradients."""

    def __init__(self, masked: MaskedOmni) -> None:
        super().__init__()
        self.masked = masked

    def forward(self, *args: Tensor) -> Tensor:
        return self.masked.blocks(*args)


class Recorded:
    """`MaskedOmni.blocks` in training: replayed for some numbers of inputs, called for any other."""

    def __init__(self, masked: MaskedOmni, recipe: OmniRecipe, inputs: Sequence[int]) -> None:
        """inputs: largest first, so that later graphs fit into the memory of earlier ones: only one is replayed at a time."""
        self.masked, self.rows, self.targets = masked, recipe.batch, recipe.budgets.targets
        self.lengths = [masked.model.config.num_register_tokens + k for k in inputs]
        self.bfloat16 = recipe.bfloat16
        self.graphs: dict[int, nn.Module] = {}

    def __call__(self, *args: Tensor) -> Tensor:
        place, y = args[0], args[3]
        known = place.shape[1] in self.lengths and y.shape[:2] == (self.rows, self.targets)
        if not (known and self.masked.training and torch.is_grad_enabled()):
            return self.masked.blocks(*args)
        if not self.graphs:
            pool = torch.cuda.graph_pool_handle()
            self.graphs = {length: self._record(args, length, pool) for length in self.lengths}
        return self.graphs[place.shape[1]](*args)

    def _record(self, args: tuple[Tensor, ...], length: int, pool: Any) -> nn.Module:
        """The graphs, forth and back, for inputs of another length than the args have."""
        read = (self.rows, length, args[0].shape[2])
        shapes = (read, read, (self.rows, 1, 1, length), *(x.shape for x in args[3:]))
        like = tuple(torch.ones(shape, dtype=x.dtype, device=x.device).requires_grad_(x.requires_grad)
                     for shape, x in zip(shapes, args, strict=True))
        half = torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.bfloat16, cache_enabled=False)
        with half, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The AccumulateGrad node")  # it was made while recording; that is meant
            graph = torch.cuda.make_graphed_callables(_Blocks(self.masked), like, allow_unused_input=True, pool=pool)
        torch.cuda.empty_cache()  # of the rounds that warm up
        assert isinstance(graph, nn.Module)
        return graph
