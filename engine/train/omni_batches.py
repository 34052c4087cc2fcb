"""Batches of masked training, read and chosen on the CPU, alike everywhere; for a GPU by other processes, ahead of time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from engine.train.masking import Layout, choose
from engine.train.omni_recipes import OmniRecipe
from engine.train.omni_step import Compact, compact
from engine.train.token_data import Rows, TokenData

WORKERS, AHEAD = 14, 3  # processes that choose for a GPU, and how many batches each is ahead


@dataclass(frozen=True)
class Batch:
    """counts: (M,) targets of each modality in the whole batch; pieces: this process's part of it."""

    counts: Tensor
    pieces: list[Compact]

    def pin_memory(self) -> Batch:
        """Where a GPU copies from without waiting; `DataLoader` asks for it."""
        return replace(self, pieces=[piece.map(Tensor.pin_memory) for piece in self.pieces])


class Batches(Dataset[Batch]):
    """`batches[step]` depends on the recipe's seed and the step alone. Every process chooses for the whole batch: all know the
    counts that the loss is divided by, and none needs to ask."""

    def __init__(self, data: TokenData, layout: Layout, recipe: OmniRecipe, rank: int = 0, processes: int = 1) -> None:
        self.data, self.layout, self.recipe, self.rank, self.processes = data, layout, recipe, rank, processes

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> Batch:
        return self.of(self.data.rows_of(step), step)

    def of(self, rows: Rows, step: int) -> Batch:
        """The batch of some rows; a step below 0 is no training step."""
        recipe = self.recipe
        ids, there = self.data.read(rows, step)
        picked = choose(there, self.layout, recipe.budgets, recipe.seed, step)
        asked = self.layout.modality[picked.targets[picked.targets_kept]]
        size = len(rows) // (recipe.pieces * self.processes)
        own = [slice(i * size, (i + 1) * size) for i in range(self.rank * recipe.pieces, (self.rank + 1) * recipe.pieces)]
        return Batch(asked.bincount(minlength=len(self.layout.keys)),
                     [compact(ids[some], picked.rows(some), self.layout) for some in own])

    def of_steps(self, steps: range, device: torch.device) -> Iterable[Batch]:
        """The batches of steps one after another, for a GPU made ahead of time: choosing takes longer than a step there."""
        if device.type == "cpu":
            return (self[step] for step in steps)
        return DataLoader(self, batch_size=None, sampler=steps, num_workers=max(1, min(WORKERS, (os.cpu_count() or 1) - 2)),
                          prefetch_factor=AHEAD, pin_memory=True, multiprocessing_context="fork")
