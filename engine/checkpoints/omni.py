"""A bundle of AION-1's kind: the transformer, its codecs, and how both are applied to objects."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.checkpoints.aion import load_aion
from engine.checkpoints.align import Alignment, load_alignment
from engine.checkpoints.tokenizers import Codecs, Tokenizer
from engine.modalities import Modality
from engine.model_files import head_of, weights_checksum, with_head
from engine.models.omni import Encoded, Omni
from engine.models.processor import fast_bfloat16

if TYPE_CHECKING:
    from engine.generation import Reobserved, Surprise
    from engine.objects import Image, SkyObject, Spectrum
    from engine.steps import Step

POOLS = ("balanced", "mean")
Pool = Literal["mean", "balanced", "none"]
BATCH = 16  # objects encoded at a time
SPACES = {"image": ("image",), "spectrum": ("spectrum", "coefficients")}  # kinds of modalities that make up a space
VERSION = 1


@dataclass(frozen=True)
class OmniBundle(Tokenizer):
    """A transformer of AION-1's kind with its codecs. modalities: those it reads, by token key."""

    model: Omni
    folder: Path
    codecs: Codecs = field(repr=False)
    alignment: Alignment | None = None

    def aligned(self, *folders: Path) -> OmniBundle:
        """With the first head among the folders that was fitted on this model, if there is one; see `engine.align`."""
        found = head_of(self.checksum, *folders)
        return self if found is None else replace(self, alignment=load_alignment(found))

    @classmethod
    def load(cls, folder: Path) -> OmniBundle:
        """Raises what `load_aion` raises; a codec is read, and may be refused, when it is first used."""
        model = load_aion(folder)
        return cls(model, folder, Codecs(folder, model.inputs))

    @cached_property
    def checksum(self) -> str:
        """Of the weights and the codecs: other codecs give other vectors."""
        return weights_checksum(self.folder)

    @cached_property
    def quick(self) -> Omni:
        """The model in bfloat16 where the processor multiplies in it, for vectors; elsewhere the model itself."""
        return load_aion(self.folder, torch.bfloat16) if fast_bfloat16() else self.model

    @property
    def modalities(self) -> dict[str, Modality]:
        return self.model.inputs

    @property
    def dim(self) -> int:
        return self.model.config.dim

    # -- objects -> tokens -> vectors ----------------------------------------------------------------------------

    def embed(self, objects: Sequence[SkyObject], inputs: str | Sequence[str] | None = None, pool: Pool = "balanced") -> Any:
        """Vectors (B, dim) float32 of objects, NaN for one that has none of the inputs (see `tokenize`).

        pool: "mean" of all real tokens; "balanced", the mean within each modality first, then over modalities, so that 273
        tokens of a spectrum do not drown a flux (Parker et al. 2025, arXiv:2510.17960); "none" gives the `Encoded` tokens
        themselves, for which every object must have an input (else ValueError).
        """
        if pool not in (*POOLS, "none"):
            raise ValueError(f"pool is {pool!r}; it must be mean, balanced or none")
        tokens, hidden = self.tokenize(list(objects), inputs)
        if pool == "none":
            shown = torch.zeros(len(objects), dtype=torch.bool)
            for mask in hidden.values():
                shown |= ~mask.all(1)
            if bare := [o.id for o, has_some in zip(objects, shown.tolist(), strict=True) if not has_some]:
                raise ValueError(f"{', '.join(bare[:3])} {'has' if len(bare) == 1 else 'have'} none of the inputs "
                                 f"{', '.join(self.checked(inputs))}; leave out what has no tokens")
            return read(self.model, tokens, hidden, slice(None))
        return self.pooled(self.model, tokens, hidden, len(objects), pool)

    def pooled(self, model: Omni, tokens: dict[str, Tensor], hidden: dict[str, Tensor], objects: int,
               pool: Literal["mean", "balanced"]) -> NDArray[np.float32]:
        """Vectors (objects, dim) of tokens as `tokenize` gives them, by the model or its `quick` copy; NaN if all is hidden."""
        out = np.full((objects, self.dim), np.nan, np.float32)
        there = np.stack([~mask.all(1).numpy() for mask in hidden.values()], 1) if hidden else np.zeros((objects, 0), bool)
        rows = np.lexsort(there.T) if there.size else np.arange(0)  # those that show the same lie together: less is padded
        rows = rows[there[rows].any(1)]
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            out[part] = pooled(read(model, tokens, hidden, torch.from_numpy(part)), pool).numpy()
        return out

    # -- generation ----------------------------------------------------------------------------------------------

    def generate(self, objects: SkyObject | Sequence[SkyObject], target: str | Sequence[str], **options: Any) -> Iterator[Step]:
        """Measurements of objects from others: see `engine.generation.generate`."""
        from engine import generation

        return generation.generate(self, objects, target, **options)

    def surprise(self, thing: SkyObject, inputs: Sequence[str] | None = None, **options: Any) -> dict[str, Surprise]:
        """How unexpected each measurement of an object is, given the others: see `engine.generation.surprise`."""
        from engine import generation

        return generation.surprise(self, thing, inputs, **options)

    def reobserve(self, generated: Image | Spectrum, like: Image | Spectrum | SkyObject, **options: Any) -> Reobserved:
        """What was generated as the measurement `like` would have recorded it: see `engine.generation.reobserve`."""
        from engine import generation

        return generation.reobserve(generated, like, **options)

    # -- spaces --------------------------------------------------------------------------------------------------

    @property
    def spaces(self) -> dict[str, tuple[str, ...]]:
        """Space -> the surveys it reads."""
        found = {space: tuple(dict.fromkeys(self.modalities[key].survey for key in self.inputs(space))) for space in SPACES}
        return {space: surveys for space, surveys in found.items() if surveys}

    def inputs(self, space: str) -> list[str]:
        """The token keys that a space of this model reads."""
        return [key for key in self.measured if self.modalities[key].kind in SPACES[space]]

    def manifest(self, space: str, inputs: Sequence[str] | None = None, pool: Pool = "balanced") -> dict[str, Any]:
        """What the vectors of a space are: of its own inputs, or, under whatever name, of those given.

        Raises KeyError for an input or, without inputs, a space that the model does not have; ValueError for a name or a pool
        that cannot be.
        """
        if inputs is None and space not in self.spaces:
            raise KeyError(f"{space!r} is not a space of this model; it has {', '.join(self.spaces)}")
        if not re.fullmatch("[a-z][a-z0-9_-]*", space):
            raise ValueError(f"a space cannot be called {space!r}; take small letters, digits, - and _")
        if pool not in POOLS:
            raise ValueError(f"pool is {pool!r}; vectors of a space are {' or '.join(POOLS)}")
        own: dict[str, Any] = {"modalities": self.inputs(space) if inputs is None else list(self.checked(inputs)), "pool": pool}
        checksum = self.checksum  # of what makes the vectors, a choice of inputs included
        if inputs is not None:
            checksum = hashlib.sha256(f"{checksum} {own}".encode()).hexdigest()
        about = {"space": space, "model": self.folder.name, "folder": str(self.folder.resolve()), "checksum": checksum,
                 "version": VERSION, "dim": self.dim, "inputs": own, "comparable": [space]}
        if inputs is not None or self.alignment is None:
            return about
        head = self.alignment
        own |= {"modalities": list(head.head.config.inputs[space]), "pool": "aligned"}
        return about | {"checksum": with_head(checksum, head.checksum), "dim": head.dim,
                        "comparable": list(head.head.config.inputs), "aligned": dict(head.about)}

    @property
    def manifests(self) -> dict[str, dict[str, Any]]:
        return {space: self.manifest(space) for space in self.spaces}

    def vectors(self, objects: Sequence[SkyObject]) -> dict[str, NDArray[np.float32]]:
        """Space -> (B, dim) float32 unit vectors; NaN where the object has no such input."""
        manifests = self.manifests
        needed = [key for m in manifests.values() for key in m["inputs"]["modalities"]]
        tokens, hidden = self.tokenize(list(objects), needed)
        return {space: self.unit_vectors(m, tokens, hidden, len(objects)) for space, m in manifests.items()}

    def unit_vectors(self, manifest: Mapping[str, Any], tokens: Mapping[str, Tensor], hidden: Mapping[str, Tensor], objects: int
                     ) -> NDArray[np.float32]:
        """The vectors (objects, dim) of the space that a manifest of ours describes, by the `quick` model; NaN for none."""
        keys, pool = manifest["inputs"]["modalities"], manifest["inputs"]["pool"]
        ids, masks = ({key: some[key] for key in keys if key in some} for some in (tokens, hidden))
        if pool == "aligned":
            assert self.alignment is not None
            return self.alignment.vectors(self.quick, manifest["space"], ids, masks, objects)
        return F.normalize(torch.from_numpy(self.pooled(self.quick, ids, masks, objects, pool)), dim=1).numpy()


def read(model: Omni, tokens: Mapping[str, Tensor], hidden: Mapping[str, Tensor], rows: Tensor | slice) -> Encoded:
    """Some rows encoded, without the modalities that all of them hide."""
    some = {key: mask[rows] for key, mask in hidden.items()}
    used = [key for key, mask in some.items() if not mask.all()]
    with torch.inference_mode():
        return model.encode({key: tokens[key][rows] for key in used}, {key: some[key] for key in used if some[key].any()})


def pooled(encoded: Encoded, pool: Pool) -> Tensor:
    """(B, D) in float32 of what is visible in (B, N, D); registers stand for no token and are left out."""
    context = encoded.context.float()
    counted = encoded.visible.clone()
    counted[:, encoded.slices["registers"]] = False
    if pool == "mean":
        return mean(context, counted)
    parts = [own for key, own in encoded.slices.items() if key != "registers"]
    there = torch.stack([counted[:, own].any(1) for own in parts], 1)
    means = torch.stack([mean(context[:, own], counted[:, own]) for own in parts], 1)
    return mean(means, there)


def mean(x: Tensor, counted: Tensor) -> Tensor:
    """Mean over the second axis of those counted, (B, N, D), (B, N) -> (B, D); 0 of none."""
    weight = counted.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp_min(1)
