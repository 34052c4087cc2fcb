"""A bundle of AION-1's kind: the transformer, its codecs, and how both are applied to objects."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.checkpoints.aion import load_aion
from engine.checkpoints.codecs import load_codec
from engine.codecs import CatalogCodec, Codec, CodecWarning
from engine.modalities import Modality
from engine.model_files import weights_checksum
from engine.models.omni import Encoded, Omni

if TYPE_CHECKING:
    from engine.objects import SkyObject

Pool = Literal["mean", "balanced", "none"]
BATCH = 16  # objects encoded at a time
SPACES = {"image": ("image",), "spectrum": ("spectrum", "coefficients")}  # kinds of modalities that make up a space
VERSION = 1


class Codecs(Mapping[str, Codec]):
    """Modality -> its codec, from FOLDER/codecs, loaded when first asked for; modalities may share one."""

    def __init__(self, folder: Path, modalities: Mapping[str, Modality]) -> None:
        self._folders = {key: folder / "codecs" / m.folder for key, m in modalities.items()
                         if (folder / "codecs" / m.folder / "config.json").is_file()}
        self._loaded: dict[Path, Codec] = {}

    def __getitem__(self, key: str) -> Codec:
        folder = self._folders[key]
        if folder not in self._loaded:
            self._loaded[folder] = load_codec(folder)
        return self._loaded[folder]

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)


@dataclass(frozen=True)
class OmniBundle:
    """A transformer of AION-1's kind with its codecs. modalities: those it reads, by token key."""

    model: Omni
    folder: Path
    codecs: Codecs = field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> OmniBundle:
        """Raises what `load_aion` raises; a codec is read, and may be refused, when it is first used."""
        model = load_aion(folder)
        return cls(model, folder, Codecs(folder, model.inputs))

    @cached_property
    def checksum(self) -> str:
        """Of the weights and the codecs: other codecs give other vectors."""
        return weights_checksum(self.folder)

    @property
    def modalities(self) -> dict[str, Modality]:
        return self.model.inputs

    @property
    def dim(self) -> int:
        return self.model.config.dim

    # -- objects -> tokens -> vectors ----------------------------------------------------------------------------

    @property
    def measured(self) -> tuple[str, ...]:
        """The inputs taken when none are named: images, spectra and photometry. Redshift, position and what was derived from
        them never are: the answer would sit in the vector."""
        return tuple(key for key, m in self.modalities.items() if key in self.codecs
                     and (m.kind in ("image", "spectrum", "coefficients") or key.startswith(("tok_flux_", "tok_mag_"))))

    def tokenize(self, objects: Sequence[SkyObject], inputs: Sequence[str] | None = None
                 ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Ids (B, n) and hidden (B, n), True where an object lacks it, of the inputs that any of the objects has.

        inputs: token keys; None: `measured`. An object that a codec refuses is taken to lack that input, with a
        `CodecWarning`. Raises KeyError for an input that the model or its folder of codecs does not have.
        """
        tokens, hidden = {}, {}
        for key in self._checked(inputs):
            m = self.modalities[key]
            rows, ids = self._encode(key, [(row, o) for row, o in enumerate(objects) if has(o, m)])
            if rows:
                tokens[key] = ids.new_zeros(len(objects), ids.shape[1])
                tokens[key][rows] = ids
                hidden[key] = torch.ones(tokens[key].shape, dtype=torch.bool)
                hidden[key][rows] = False
        return tokens, hidden

    def _checked(self, inputs: Sequence[str] | None) -> Sequence[str]:
        if inputs is None:
            return self.measured
        for key in inputs:
            if key not in self.codecs:
                why = "no codec in its folder" if key in self.modalities else "no such input"
                raise KeyError(f"{key!r}: {self.folder.name} has {why}; it has {', '.join(self.codecs)}")
        return inputs

    def _encode(self, key: str, able: list[tuple[int, SkyObject]]) -> tuple[list[int], Tensor]:
        """Rows and ids (rows, n) of the objects that the codec takes."""
        m, codec = self.modalities[key], self.codecs[key]
        read: Any = codec.encode
        options = {"survey": m.survey} if m.kind in ("image", "spectrum") else {}

        def encode(some: list[SkyObject]) -> Tensor:
            ids: Tensor = read(some, **options)
            ids = codec.to_sequence(ids) if isinstance(codec, CatalogCodec) else ids
            return ids.long().reshape(len(some), -1)

        if not able:
            return [], torch.empty(0, 0, dtype=torch.long)
        try:
            return [row for row, _ in able], encode([o for _, o in able])
        except (KeyError, ValueError):  # one of them does not fit: the others still do
            rows, ids = [], []
            for row, o in able:
                try:
                    ids.append(encode([o]))
                    rows.append(row)
                except (KeyError, ValueError) as error:
                    warnings.warn(f"{o.id} goes without {key}: {error}", CodecWarning, stacklevel=4)
            return rows, torch.cat(ids) if ids else torch.empty(0, 0, dtype=torch.long)

    def embed(self, objects: Sequence[SkyObject], inputs: Sequence[str] | None = None, pool: Pool = "balanced") -> Any:
        """Vectors (B, dim) float32 of objects, NaN for one that has none of the inputs (see `tokenize`).

        pool: "mean" of all real tokens; "balanced", the mean within each modality first, then over modalities, so that 273
        tokens of a spectrum do not drown a flux (Parker et al. 2025, arXiv:2510.17960); "none" gives the `Encoded` tokens
        themselves, for which every object must have an input (else ValueError).
        """
        if pool not in ("mean", "balanced", "none"):
            raise ValueError(f"pool is {pool!r}; it must be mean, balanced or none")
        some = list(objects)
        tokens, hidden = self.tokenize(some, inputs)
        if pool == "none":
            return self._read(tokens, hidden, slice(None))
        out = np.full((len(some), self.dim), np.nan, np.float32)
        seen = torch.zeros(len(some), dtype=torch.bool)
        for mask in hidden.values():
            seen |= ~mask.all(1)
        rows = torch.nonzero(seen)[:, 0]
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            out[part.numpy()] = pooled(self._read(tokens, hidden, part), pool).float().numpy()
        return out

    def _read(self, tokens: dict[str, Tensor], hidden: dict[str, Tensor], rows: Tensor | slice) -> Encoded:
        some = {key: mask[rows] for key, mask in hidden.items()}
        used = [key for key, mask in some.items() if not mask.all()]
        with torch.inference_mode():
            return self.model.encode({key: tokens[key][rows] for key in used},
                                     {key: some[key] for key in used if some[key].any()})

    # -- spaces --------------------------------------------------------------------------------------------------

    @property
    def spaces(self) -> dict[str, tuple[str, ...]]:
        """Space -> the surveys it reads."""
        found = {space: tuple(dict.fromkeys(self.modalities[key].survey for key in self._inputs(space))) for space in SPACES}
        return {space: surveys for space, surveys in found.items() if surveys}

    def _inputs(self, space: str) -> list[str]:
        return [key for key in self.measured if self.modalities[key].kind in SPACES[space]]

    def manifest(self, space: str) -> dict[str, Any]:
        """What the vectors of a space are. Raises KeyError for another space."""
        if space not in self.spaces:
            raise KeyError(f"{space!r} is not a space of this model; it has {', '.join(self.spaces)}")
        return {"space": space, "model": self.folder.name, "checksum": self.checksum, "version": VERSION, "dim": self.dim,
                "inputs": {"modalities": self._inputs(space), "pool": "balanced"}, "comparable": [space]}

    def vectors(self, objects: Sequence[SkyObject]) -> dict[str, NDArray[np.float32]]:
        """Space -> (B, dim) float32 unit vectors; NaN where the object has no such input."""
        return {space: F.normalize(torch.from_numpy(self.embed(objects, self._inputs(space))), dim=1).numpy()
                for space in self.spaces}


def pooled(encoded: Encoded, pool: Pool) -> Tensor:
    """(B, D) of what is visible in (B, N, D); registers stand for no token and are left out."""
    counted = encoded.visible.clone()
    counted[:, encoded.slices["registers"]] = False
    if pool == "mean":
        return mean(encoded.context, counted)
    parts = [own for key, own in encoded.slices.items() if key != "registers"]
    there = torch.stack([counted[:, own].any(1) for own in parts], 1)
    means = torch.stack([mean(encoded.context[:, own], counted[:, own]) for own in parts], 1)
    return mean(means, there)


def mean(x: Tensor, counted: Tensor) -> Tensor:
    """Mean over the second axis of those counted, (B, N, D), (B, N) -> (B, D); 0 of none."""
    weight = counted.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp_min(1)


def has(thing: SkyObject, m: Modality) -> bool:
    """Whether an object has what a modality is made of."""
    if m.kind == "image":
        return thing.image(m.survey) is not None
    if m.kind == "spectrum":
        return any(s.survey == m.survey and s.calibrated for s in thing.spectra)
    if m.kind == "catalog":
        return thing.catalog is not None
    if m.kind == "field":
        from engine.codecs.segmentation import BAND

        return any(i.bands == (BAND,) for i in thing.images)
    return m.scalar in thing.scalars or (m.scalar in ("ra", "dec") and thing.position is not None)
