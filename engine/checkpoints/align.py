"""A contrastive head on disk, and how it is applied to tokens.

    config.json         sizes, the checksum of the model whose tokens it reads, how it was fitted, how good it is
    model.safetensors   its tensors, and for each modality the `Reduction` of the model's tokens
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checkpoints.tensors import map_tensors, misfits, write_tensors
from engine.model_files import checksum, read_json
from engine.models.align import AlignConfig, AlignHead
from engine.models.omni import Omni
from engine.reduction import WIDEST, Reduction

KIND, FORMAT = "omnisky-align", 2
BATCH = 32
REDUCTION = ("mean", "basis", "scale")


@dataclass(frozen=True)
class Alignment:
    """A fitted head. about: "model" (the checksum it belongs to), "pairs", "held_out", "recall_at_10", "seed" ..."""

    head: AlignHead
    reductions: Mapping[str, Reduction]
    about: Mapping[str, Any]
    checksum: str = ""

    @property
    def dim(self) -> int:
        return self.head.config.space

    def vectors(self, model: Omni, space: str, tokens: Mapping[str, Tensor], hidden: Mapping[str, Tensor], objects: int
                ) -> NDArray[np.float32]:
        """(objects, S) unit vectors of ids as `OmniBundle.tokenize` gives them; NaN where all it reads is hidden."""
        out = np.full((objects, self.dim), np.nan, np.float32)
        keys = [key for key in self.head.config.inputs[space] if key in tokens]
        seen = {key: ~hidden[key].all(1) for key in keys}
        none = torch.zeros(objects, 0, dtype=torch.bool)
        rows = torch.nonzero(torch.cat([none, *(mask[:, None] for mask in seen.values())], 1).any(1))[:, 0]
        for part in rows.split(BATCH) if len(rows) else ():  # an empty tensor would be split into one part
            some = {key: torch.zeros(len(part), tokens[key].shape[1], self.head.config.reduced) for key in keys}
            for key in keys:
                mine = seen[key][part]
                if mine.any():
                    some[key][mine] = whitened(reduced(contexts(model, key, tokens[key][part][mine]), self.reductions[key]))
            with torch.inference_mode():
                levels = {key: tokens[key][part, 0] for key in keys}
                out[part.numpy()] = self.head(space, some, {key: seen[key][part] for key in keys}, levels).numpy()
        return out


@torch.inference_mode()
def contexts(model: Omni, key: str, ids: Tensor) -> Tensor:
    """What the encoder makes of one modality alone: ids (B, n) -> (B, n, D) float32."""
    return model.encode({key: ids}).context[:, -ids.shape[1] :].float()


def reduced(vectors: Tensor, reduction: Reduction) -> Tensor:
    """`Reduction.encode` by torch, where the vectors are: NumPy's own threads would be in the way of torch's."""
    mean, basis, scale = (torch.from_numpy(x).to(vectors.device) for x in (reduction.mean, reduction.basis, reduction.scale))
    return ((vectors - mean) @ basis / scale).round_().clamp_(-127, 127).to(torch.int8)


def whitened(steps: Tensor) -> Tensor:
    """What the head reads of a reduced token, int8: coordinates in standard deviations."""
    return steps.float() * (WIDEST / 127)


def save_alignment(folder: Path, made: Alignment) -> None:
    """Write it, matrices in float16; config.json comes last and is what makes it count."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)  # first, so that an old one never vouches for new tensors
    tensors = dict(made.head.state_dict())
    for key, reduction in made.reductions.items():
        tensors |= {f"reduction.{key}.{name}": torch.from_numpy(getattr(reduction, name)) for name in REDUCTION}
    write_tensors(folder / "model.safetensors", {n: value.half() if value.ndim > 1 else value for n, value in tensors.items()})
    config = {"kind": KIND, "format": FORMAT, "head": asdict(made.head.config), "about": dict(made.about)}
    (folder / "config.json.part").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "config.json.part").replace(folder / "config.json")


def load_alignment(folder: Path) -> Alignment:
    """Raises FileNotFoundError if there is none, ValueError if a file is damaged or does not fit the other (all is named)."""
    path = folder / "model.safetensors"
    for file in (folder / "config.json", path):
        if not file.is_file():
            raise FileNotFoundError(f"{folder} holds no alignment: {file.name} is missing; run omnisky align")
    remedy = f"remove {folder} and run omnisky align again"
    config = read_json(folder / "config.json", remedy)
    sizes = config.get("head")
    if (config.get("kind"), config.get("format")) != (KIND, FORMAT) or not isinstance(sizes, dict) \
            or set(sizes) != {f.name for f in fields(AlignConfig)}:
        raise ValueError(f"{folder / 'config.json'} does not describe an alignment of format {FORMAT}; {remedy}")
    head = AlignHead(AlignConfig(**sizes | {"levels": tuple(sizes["levels"])}))
    tensors = map_tensors(path)
    parts = {name: value for name, value in tensors.items() if name.startswith("reduction.")}
    keys = [key for inputs in sizes["inputs"].values() for key in inputs]
    expected = {f"reduction.{key}.{name}" for key in keys for name in REDUCTION}
    wrong = misfits({n: v for n, v in tensors.items() if n not in parts}, head.state_dict())
    wrong += [f"missing {name}" for name in sorted(expected - set(parts))]
    wrong += [f"unexpected {name}" for name in sorted(set(parts) - expected)]
    if wrong:
        raise ValueError(f"{path} does not fit its config.json: {'; '.join(wrong)}; {remedy}")
    head.load_state_dict({n: v for n, v in tensors.items() if n not in parts})
    reductions = {key: Reduction(*(parts[f"reduction.{key}.{name}"].float().numpy() for name in REDUCTION)) for key in keys}
    return Alignment(head.eval().requires_grad_(False), reductions, config.get("about", {}), checksum(path))
