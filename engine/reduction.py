"""Vectors kept small: their main directions, in steps of a byte."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REDUCED = 64
WIDEST = 5.0  # standard deviations that the 127 steps of an int8 reach


@dataclass(frozen=True)
class Reduction:
    """The main directions of vectors (PCA), in steps of an int8. mean: (D,); basis: (D, d); scale: (d,), of one step."""

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def fit(cls, x: NDArray[Any], dim: int = REDUCED) -> Reduction:
        """From a sample (m, D). Directions of no variance are left zero."""
        rows = np.asarray(x, np.float64)
        mean = rows.mean(0)
        variance, directions = np.linalg.eigh((rows - mean).T @ (rows - mean) / max(len(rows) - 1, 1))
        largest = np.argsort(-variance)[:dim]
        basis, size = np.zeros((rows.shape[1], dim)), np.ones(dim)
        basis[:, : len(largest)] = directions[:, largest]
        size[: len(largest)] = np.sqrt(np.maximum(variance[largest], 1e-12))
        return cls(*(a.astype(np.float32) for a in (mean, basis, WIDEST / 127 * size)))

    def encode(self, x: NDArray[Any]) -> NDArray[np.int8]:
        """(..., D) -> (..., d)."""
        steps = (np.asarray(x, np.float32) - self.mean) @ self.basis / self.scale
        return np.clip(np.rint(steps), -127, 127).astype(np.int8)

    def decode(self, steps: NDArray[np.int8]) -> NDArray[np.float32]:
        """(..., d) -> coordinates (..., d) along the basis."""
        return np.asarray(steps * self.scale, np.float32)

    def explained(self, x: NDArray[Any]) -> float:
        """The share of the variance of x (m, D) that survives."""
        centred = np.asarray(x, np.float32) - self.mean
        lost = centred - self.decode(self.encode(x)) @ self.basis.T
        return 1 - float((lost**2).sum() / max(float((centred**2).sum()), 1e-12))

    def save(self, path: Path) -> None:
        import torch

        from engine.checkpoints.tensors import write_tensors

        write_tensors(path, {name: torch.from_numpy(value) for name, value in asdict(self).items()})

    @classmethod
    def open(cls, path: Path) -> Reduction:
        """Raises ValueError if the file is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return cls(**load_file(path))
        except (SafetensorError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove {path.parent} and make it again") from error
