"""Training checkpoints: model.safetensors (float32), optimiser.safetensors and state.json, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoints.tensors import read_tensors


def save_training(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write a training checkpoint beside the last one, then put it in its place: a kill leaves one or the other."""
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({name: p.detach().contiguous() for name, p in model.state_dict().items()}, part / "model.safetensors")
    moments = {f"{index}.{name}": value.contiguous() for index, entry in optimiser.state_dict()["state"].items()
               for name, value in entry.items()}
    save_file(moments | {"random_state": torch.get_rng_state()}, part / "optimiser.safetensors")
    (part / "state.json").write_text(json.dumps(state, indent=1) + "\n")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _whole(folder: Path) -> Path | None:
    """The checkpoint to go on from: the folder itself, or the one before if a kill came between two renames."""
    old = folder.with_name(folder.name + ".old")
    return next((f for f in (folder, old) if (f / "state.json").is_file()), None)


def last_step(folder: Path) -> dict[str, Any] | None:
    """What a training checkpoint says of itself, or None where there is none."""
    found = _whole(folder)
    return None if found is None else json.loads((found / "state.json").read_text())


def resume(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    """Put model, optimiser and random state back as they were; returns the steps and seconds done, (0, 0.0) at the start."""
    found = _whole(folder)
    if found is None:
        return 0, 0.0
    read_tensors(found / "model.safetensors", model)
    moments = load_file(found / "optimiser.safetensors")
    torch.set_rng_state(moments.pop("random_state"))
    content = optimiser.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": entries, "param_groups": content["param_groups"]})
    state = json.loads((found / "state.json").read_text())
    return int(state["step"]), float(state["seconds"])
