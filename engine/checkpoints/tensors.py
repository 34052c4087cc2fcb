"""Safetensors files read strictly: every tensor must be there, with its shape, and none besides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.files import NoRoom


def map_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory: read from disk when touched, the file unchanged by writing."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({error}); fetch or train it again") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all. Raises NoRoom, which says what to do, if the disk is full."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(b"")  # with the mode that the user's files have; safetensors would make it readable by the owner alone
    mode = part.stat().st_mode
    try:
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, part, {"format": "pt"})
    except SafetensorError as error:
        if "No space left" not in str(error) and "os error 112" not in str(error):  # 112: the same on Windows
            raise
        part.unlink()
        raise NoRoom(f"the disk has no room for {path}; what was written before it is kept: free some space and run it again"
                     ) from error
    part.chmod(mode)
    part.replace(path)


def misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What is missing, unexpected or of another shape, a phrase each."""
    wrong = [f"missing {name}" for name in expected if name not in found]
    wrong += [f"unexpected {name}" for name in found if name not in expected]
    wrong += [f"{name} is {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
              for name in expected if name in found and found[name].shape != expected[name].shape]
    return wrong


def read_tensors(path: Path, model: torch.nn.Module) -> None:
    """Fill the model from a safetensors file; every tensor must be there, with its shape, and none besides."""
    tensors, own = map_tensors(path), model.state_dict()
    if wrong := misfits(tensors, own):
        raise ValueError(f"{path} does not fit its config.json: {'; '.join(wrong)}")
    model.load_state_dict({name: value.to(own[name].dtype) for name, value in tensors.items()})
