"""AION-1's published checkpoints, read strictly and without a second copy in memory, and written as they are published.

    config.json                       the keys of `OmniConfig`
    model.safetensors                 the tensors; or, in several files,
    model.safetensors.index.json      {"weight_map": {tensor: file}}

The published files hold more than the parameters: position tables, zero biases of norms that have none, and one vector for
both embeddings of a modality that shares it. Such extras are compared with what they must be; files of ours, whose
configuration the reference package does not read, go without them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.checkpoints.tensors import map_tensors, misfits, write_tensors
from engine.model_files import read_json, refuse_pickles
from engine.models.omni import Omni, OmniConfig
from engine.models.tokens import position_table

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
REMEDY = "fetch it with `omnisky download polymathic-ai/aion-base`"
CONVERTED = 1 << 26  # bytes converted to another dtype before the file's pages are let go


def load_aion(folder: str | Path, dtype: torch.dtype = torch.float32) -> Omni:
    """The transformer in a folder, in evaluation mode and without gradients (`requires_grad_()` to train it).

    Where the file has the dtype asked for, its tensors stay mapped: nothing is copied, a page is read when first used, and
    the file must be left as it is meanwhile (replacing it is fine). Raises FileNotFoundError if a file is missing;
    ValueError if one is damaged or a pickle, or if any tensor is missing, unexpected, mis-shaped or not what it must be (all
    of them are named).
    """
    folder = Path(folder)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; the weights can be torch.float32, torch.bfloat16 or torch.float16")
    config = read_config(folder)
    files = _weight_files(folder)
    model = Omni(config, device="meta")
    stored = _map_all(files)
    names, wrong = _fit(stored, model)
    if wrong:
        raise ValueError(f"{folder} does not fit its config.json: {'; '.join(wrong)}")
    if any(stored[name].dtype != dtype for name in names.values()):
        stored.clear()
        stored = _converted(files, set(names.values()), dtype)
    model.load_state_dict({own: stored[name] for own, name in names.items()}, strict=True, assign=True)
    model.fill_positions()
    return model.eval().requires_grad_(False)


def save_aion(folder: str | Path, model: Omni) -> None:
    """Write the transformer as it is published, and as the reference package reads it; if its configuration has keys of ours
    (`OmniConfig.published`), its parameters alone."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.cpu() for name, value in model.state_dict().items()}
    if model.config.published:
        tensors |= {name: value.clone() for name, value in _extras(model)}  # tables of one modality are one tensor there
    write_tensors(folder / WEIGHTS, tensors)
    part = folder / "config.json.part"
    part.write_text(json.dumps(model.config.as_dict(), indent=2, sort_keys=True) + "\n")
    part.replace(folder / "config.json")


def read_config(folder: Path) -> OmniConfig:
    """The configuration in a folder. Raises FileNotFoundError or ValueError."""
    refuse_pickles(folder)
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give the folder that holds it and its config.json")
    path = folder / "config.json"
    if not path.is_file():
        what = "it has no config.json" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{folder} is not an AION-1 model: {what}; {REMEDY}")
    return OmniConfig.from_dict(read_json(path, REMEDY), str(path))


def _weight_files(folder: Path) -> list[Path]:
    """The file or files with the tensors."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"{folder} is not an AION-1 model: it has neither {WEIGHTS} nor {INDEX}; {REMEDY}")
    places = read_json(index, REMEDY).get("weight_map")
    names = sorted(set(places.values()), key=str) if isinstance(places, dict) else []
    if not names or any(not isinstance(n, str) or Path(n).name != n or not n.endswith(".safetensors") for n in names):
        raise ValueError(f"{index} has no weight_map to safetensors files beside it; {REMEDY}")
    if absent := [n for n in names if not (folder / n).is_file()]:
        raise FileNotFoundError(f"{index} names {', '.join(absent)}, which {folder} does not have; {REMEDY}")
    return [folder / name for name in names]


def _map_all(files: list[Path]) -> dict[str, Tensor]:
    """The tensors of all files, mapped."""
    stored: dict[str, Tensor] = {}
    for path in files:
        tensors = map_tensors(path)
        if twice := sorted(set(tensors) & set(stored)):
            raise ValueError(f"{path} repeats tensors of another file: {', '.join(twice)}; {REMEDY}")
        stored |= tensors
    return stored


def _converted(files: list[Path], names: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Some tensors of the files in another dtype; files are mapped anew now and then, so that few of their pages are held."""
    done: dict[str, Tensor] = {}
    for path in files:
        todo = [name for name in map_tensors(path) if name in names]
        while todo:
            tensors, size = map_tensors(path), 0
            while todo and size < CONVERTED:
                name = todo.pop()
                done[name] = tensors[name].to(dtype, copy=True)
                size += tensors[name].nbytes
    return done


def _extras(model: Omni) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the published files that are no parameters: fixed positions, and biases of norms that have none."""
    rows = model.inputs | model.outputs
    tables = {key: position_table(m, model.config.dim)[None] for key, m in rows.items()}
    for side, modalities in (("encoder_embeddings", model.inputs), ("decoder_embeddings", model.outputs)):
        for key in modalities:
            yield f"{side}.{key}.pos_emb", tables[key]
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and module.bias is None:
            yield f"{name}.bias", torch.zeros(module.normalized_shape)


def _fit(stored: dict[str, Tensor], model: Omni) -> tuple[dict[str, str], list[str]]:
    """Parameter -> name in the file, and all that is wrong with the file."""
    own = model.state_dict()
    names = {name: name for name in own}
    found, wrong = dict(stored), []
    for key in model.inputs:  # a shared vector is under the decoder's name, the encoder's, or both
        ours, theirs = f"decoder_embeddings.{key}.mod_emb", f"encoder_embeddings.{key}.mod_emb"
        if theirs in own or theirs not in found:
            continue
        twin = found.pop(theirs)
        if ours not in found:
            names[ours], found[ours] = theirs, twin
        elif not torch.equal(twin, found[ours]):
            wrong.append(f"{theirs} differs from {ours}, though the configuration shares them")
    for name, right in _extras(model):
        if name not in found:
            continue
        value = found.pop(name)
        near = 1e-3 if value.dtype == torch.float32 else 1e-2
        if value.shape != right.shape:
            wrong.append(f"{name} is {tuple(value.shape)}, expected {tuple(right.shape)}")
        elif name.endswith("pos_emb") and not torch.allclose(value.float(), right, rtol=0, atol=near):
            wrong.append(f"{name} is not the sin-cos table of its modality")
        elif name.endswith("bias") and value.any():
            wrong.append(f"{name} is not zero, though the configuration has norm_bias false")
    wrong = misfits(found, own) + wrong
    wrong += [f"{name} is {value.dtype}, expected floating point" for name, value in found.items()
              if name in own and not value.dtype.is_floating_point]
    return names, wrong
