"""Training checkpoints: model.safetensors (float32), optimiser.safetensors and state.json, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from engine.checkpoints.tensors import map_tensors, misfits, write_tensors


def save_training(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any],
                  averages: Mapping[str, Tensor] | None = None) -> None:
    """Write a training checkpoint beside the last one, then put it in its place: a kill leaves one or the other, and so does a
    full disk, of which NoRoom tells.

    averages: averaged weights, a third file. Where processes share a model, all of them call this and the first one writes.
    """
    weights = {name: whole(p) for name, p in model.state_dict().items()}
    moments = {f"{index}.{name}": whole(value) for index, entry in optimiser.state_dict()["state"].items()
               for name, value in entry.items()}
    kept = None if averages is None else {name: whole(p) for name, p in averages.items()}
    if dist.is_initialized() and dist.get_rank() > 0:
        return
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_tensors(part / "model.safetensors", weights)
    write_tensors(part / "optimiser.safetensors", moments | _random_states())
    if kept is not None:
        write_tensors(part / "averages.safetensors", kept)
    (part / "state.json").write_text(json.dumps(state, indent=1) + "\n")
    if folder.exists():  # else a kill came here the last time, and the old one is all there is
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _random_states() -> dict[str, Tensor]:
    """Of the CPU's generator, and of the GPU's, which draws the blocks that are left out there."""
    return {"random_state": torch.get_rng_state()} | (
        {"random_state_cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def restart(folder: Path, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint of weights alone: averages are the same, the optimiser has seen nothing yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model", "averages"):
        write_tensors(folder / f"{name}.safetensors", weights)
    write_tensors(folder / "optimiser.safetensors", _random_states())
    (folder / "state.json").write_text(json.dumps(dict(state), indent=1) + "\n")


def whole(value: Tensor) -> Tensor:
    """A tensor on the CPU; one that processes share is put together, and all of them must ask; the first one keeps it."""
    if hasattr(value, "full_tensor"):
        value = cast(Any, value).full_tensor()
        if dist.get_rank() > 0:
            return torch.empty(0)
    return value.detach().cpu().contiguous()


def _like(value: Tensor, own: Tensor) -> Tensor:
    """A whole tensor as its owner has it: on its device, shared among processes if that is."""
    value = value.to(own.device)
    if not hasattr(own, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    shared = cast(Any, own)
    return distribute_tensor(value, shared.device_mesh, shared.placements)


def _whole(folder: Path) -> Path | None:
    """The checkpoint to go on from: the folder itself, or the one before if a kill came between two renames."""
    old = folder.with_name(folder.name + ".old")
    return next((f for f in (folder, old) if (f / "state.json").is_file()), None)


def last_step(folder: Path) -> dict[str, Any] | None:
    """What a training checkpoint says of itself, or None where there is none."""
    found = _whole(folder)
    return None if found is None else json.loads((found / "state.json").read_text())


def resume(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer,
           averages: Mapping[str, Tensor] | None = None) -> tuple[int, float]:
    """Put model, optimiser, averages and random state back as they were; returns the steps and seconds done, (0, 0.0) at the
    start. Raises ValueError for a checkpoint of another model."""
    found = _whole(folder)
    if found is None:
        return 0, 0.0
    _fill(found / "model.safetensors", model.state_dict())
    if averages is not None:
        _fill(found / "averages.safetensors", averages)
    moments = map_tensors(found / "optimiser.safetensors")
    torch.set_rng_state(moments.pop("random_state"))
    on_device = moments.pop("random_state_cuda", None)
    if on_device is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(on_device)
    content = optimiser.state_dict()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        number, name = key.split(".", 1)
        own = parameters[int(number)]
        entries.setdefault(int(number), {})[name] = _like(value, own) if value.shape == own.shape else value
    optimiser.load_state_dict({"state": entries, "param_groups": content["param_groups"]})
    state = json.loads((found / "state.json").read_text())
    return int(state["step"]), float(state["seconds"])


@torch.no_grad()
def _fill(path: Path, own: Mapping[str, Tensor]) -> None:
    """Fill tensors from a file; every one must be there, with its shape, and none besides."""
    tensors = map_tensors(path)
    if wrong := misfits(tensors, own):
        raise ValueError(f"{path} is of another model: {'; '.join(wrong)}")
    for name, value in own.items():
        value.copy_(_like(tensors[name], value))
