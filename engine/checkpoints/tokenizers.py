"""Objects to tokens by the codecs of a folder: what a model starts from, and all there is before one is trained.

    FOLDER/codecs/image, .../spectrum, .../Z, ...    a codec each, named as in `engine.modalities`
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checkpoints.aion import read_config
from engine.checkpoints.codecs import load_codec
from engine.codecs import CatalogCodec, Codec, CodecWarning, ScalarCodec, fast
from engine.codecs.catalog import LONGEST, SHIFT
from engine.modalities import AION, Modality
from engine.model_files import codec_checksum
from engine.models.omni_config import OmniConfig

if TYPE_CHECKING:
    from engine.objects import SkyObject

PLACES = {"tok_ra", "tok_dec"}  # a position says nothing of an object that it does not say of all others there


class Codecs(Mapping[str, Codec]):
    """Modality -> its codec, from FOLDER/codecs, loaded when first asked for; modalities may share one."""

    def __init__(self, folder: Path, modalities: Mapping[str, Modality]) -> None:
        self._folders = {key: folder / "codecs" / m.folder for key, m in modalities.items()
                         if (folder / "codecs" / m.folder / "config.json").is_file()}
        self._loaded: dict[Path, Codec] = {}
        self._fast: dict[Path, Codec] = {}
        self._checksums: dict[Path, str] = {}

    def __getitem__(self, key: str) -> Codec:
        if key not in self._folders:
            raise KeyError(f"there is no codec of {key!r}; there are {', '.join(self) or 'none'}")
        folder = self._folders[key]
        if folder not in self._loaded:
            self._loaded[folder] = load_codec(folder)
        return self._loaded[folder]

    def quick(self, key: str) -> Codec:
        """The copy that computes in bfloat16 (`engine.codecs.fast`), of those that compute at all."""
        folder = self._folders[key]
        if folder not in self._fast:
            self._fast[folder] = fast(self[key]) if hasattr(self[key], "encoder") else self[key]
        return self._fast[folder]

    def checksum(self, key: str) -> str:
        """Of the codec's files: the same for whoever makes the same tokens."""
        folder = self._folders[key]
        if folder not in self._checksums:
            self._checksums[folder] = codec_checksum(folder)
        return self._checksums[folder]

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)


class Tokenizer(ABC):
    """Objects to tokens; what bundles with codecs have in common."""

    folder: Path
    codecs: Codecs

    @property
    @abstractmethod
    def modalities(self) -> Mapping[str, Modality]:
        """Those it reads, by token key."""

    @property
    def measured(self) -> tuple[str, ...]:
        """The inputs taken when none are named: images, spectra and photometry. Redshift, position and what was derived from
        them never are: the answer would sit in the vector."""
        return tuple(key for key, m in self.modalities.items() if key in self.codecs
                     and (m.kind in ("image", "spectrum", "coefficients") or key.startswith(("tok_flux_", "tok_mag_"))))

    def tokenize(self, objects: Sequence[SkyObject], inputs: str | Sequence[str] | None = None
                 ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Ids (B, n) and hidden (B, n), True where an object lacks it, of the inputs that any of the objects has.

        inputs: token keys; None: `measured`. An object that a codec refuses is taken to lack that input, with a
        `CodecWarning`. Raises KeyError for an input that the model or its folder of codecs does not have.
        """
        from engine.objects import SkyObject

        for o in objects:
            if not isinstance(o, SkyObject):
                raise TypeError(f"tokens are made of SkyObjects, got {type(o).__name__}")
        tokens, hidden = {}, {}
        for key in self.checked(inputs):
            rows, ids = self.ids(key, objects)
            if rows:
                tokens[key], hidden[key] = spread(rows, ids, len(objects))
        return tokens, hidden

    def checked(self, inputs: str | Sequence[str] | None) -> tuple[str, ...]:
        """The inputs, `measured` for None. Raises KeyError for one that the model or its folder of codecs does not have."""
        if inputs is None:
            return self.measured
        inputs = (inputs,) if isinstance(inputs, str) else inputs
        for key in inputs:
            if key not in self.codecs:
                why = "no codec in its folder" if key in self.modalities else "no such input"
                raise KeyError(f"{key!r}: {self.folder.name} has {why}; it has {', '.join(self.codecs) or 'none'}")
        return tuple(dict.fromkeys(inputs))

    def ids(self, key: str, objects: Sequence[SkyObject], quick: bool = False) -> tuple[list[int], Tensor]:
        """Which of the objects have an input that its codec takes, k of them, and their ids (k, n). quick: see `Codecs`."""
        m = self.modalities[key]
        able = [(row, o) for row, o in enumerate(objects) if has(o, m)]
        codec = self.codecs.quick(key) if quick else self.codecs[key]
        read: Any = codec.encode
        options = {"survey": m.survey} if m.kind in ("image", "spectrum") else {}

        def encode(some: list[SkyObject]) -> Tensor:
            ids: Tensor = read(some, **options)
            ids = codec.to_sequence(ids, m.tokens) if isinstance(codec, CatalogCodec) else ids
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


@dataclass(frozen=True)
class CodecBundle(Tokenizer):
    """A folder of codecs without a model."""

    folder: Path
    codecs: Codecs = field(repr=False)
    config: OmniConfig = field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> CodecBundle:
        """Raises ValueError if there are no codecs, and what `load_codec` raises."""
        config = config_of(folder)
        return cls(folder, Codecs(folder, {key: config.modality(key) for key in config.domains}), config)

    @property
    def modalities(self) -> Mapping[str, Modality]:
        return {key: self.config.modality(key) for key in self.config.domains}


def config_of(folder: Path) -> OmniConfig:
    """The modalities of a model folder, by its config.json; of a folder of codecs alone all that have one, with its sizes.

    Raises ValueError if there are neither.
    """
    if (folder / "config.json").is_file():
        return read_config(folder)
    sizes: dict[str, tuple[int, int]] = {}
    codecs: dict[str, Codec] = {}
    for m in AION:
        own = folder / "codecs" / m.folder
        if m.key in PLACES or not (own / "config.json").is_file():
            continue
        if m.folder not in codecs:
            codecs[m.folder] = load_codec(own)
        sizes[m.key] = size_of(codecs[m.folder])
    if not sizes:
        raise ValueError(f"{folder} has no codecs; `omnisky train codec` makes them")
    return OmniConfig(tuple(sizes), tuple(sizes), norm_bias=False, act_layer="SiLU", sizes=sizes)


def size_of(codec: Codec) -> tuple[int, int]:
    """Tokens an object (the most, of a catalogue), and ids, as a transformer has them."""
    if isinstance(codec, CatalogCodec):
        return LONGEST, SHIFT + codec.vocabulary
    if isinstance(codec, ScalarCodec):
        return codec.config.channels or 1, codec.vocabulary
    return codec.config.tokens, codec.vocabulary


def spread(rows: Sequence[int] | NDArray[Any], ids: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    """Ids (k, n) of some rows -> ids (objects, n) and hidden (objects, n), True in all other rows."""
    tokens = ids.new_zeros(objects, ids.shape[1])
    hidden = torch.ones(tokens.shape, dtype=torch.bool)
    tokens[rows], hidden[rows] = ids, False
    return tokens, hidden


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
