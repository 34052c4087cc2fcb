"""Safetensors files read strictly: every tensor must be there, with its shape, and none besides."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path, model: torch.nn.Module) -> None:
    """Fill the model from a safetensors file; every tensor must be there, with its shape, and none besides."""
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({error}); fetch or train it again") from error
    own = model.state_dict()
    wrong = [f"missing {name}" for name in own if name not in tensors]
    wrong += [f"unexpected {name}" for name in tensors if name not in own]
    wrong += [f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
              for name in own if name in tensors and tensors[name].shape != own[name].shape]
    if wrong:
        raise ValueError(f"{path} does not fit its config.json: {'; '.join(wrong)}")
    model.load_state_dict({name: value.to(own[name].dtype) for name, value in tensors.items()})
