"""Peers for the parity tests: the published reference package, with small random models of it."""

from __future__ import annotations

import importlib
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the reference must not go looking for models


@pytest.fixture(scope="session")
def aion() -> Any:
    """The reference package."""
    package = pytest.importorskip("aion", reason="the reference is not installed; `pip install polymathic-aion==0.0.2`")
    importlib.import_module("aion.modalities")
    return package


class Peers:
    """Random models of the reference and the folders in which it saved them, made once a configuration."""

    def __init__(self, aion: Any, folder: Path) -> None:
        self.aion, self.folder, self.made = aion, folder, dict[str, tuple[Any, Path]]()

    def __call__(self, config: dict[str, Any]) -> tuple[Any, Path]:
        if (key := repr(config)) not in self.made:
            model = self.aion.AION(config).eval().requires_grad_(False)
            randomise(model, seed=len(self.made))
            path = self.folder / str(len(self.made))
            model.save_pretrained(path)
            self.made[key] = model, path
        return self.made[key]


@pytest.fixture(scope="session")
def peer(aion: Any, tmp_path_factory: pytest.TempPathFactory) -> Peers:
    """peer(configuration) -> a random model of the reference, and the folder in which it is saved."""
    return Peers(aion, tmp_path_factory.mktemp("aion"))


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every parameter away from its start, norms and biases too, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1:
                p.copy_((1.0 if name.endswith("weight") else 0.0) + 0.3 * noise)
            elif "emb" in name or name.endswith("token"):
                p.copy_(0.5 * noise)
            else:
                p.copy_(1.5 * noise / math.sqrt(p.shape[1]))
