"""A folder of codecs: put together from training runs, and what modalities a model could have by it.

    FOLDER/codecs/image, .../spectrum, .../Z, ...    as in the folder of a model
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from engine.checkpoints.aion import read_config
from engine.checkpoints.codecs import load_codec
from engine.codecs import CatalogCodec, Codec, ScalarCodec
from engine.codecs.catalog import LONGEST, SHIFT
from engine.modalities import AION
from engine.models.omni_config import OmniConfig

FOLDERS = {"image": "image", "spectrum": "spectrum", "segmap": "segmentation_map"}
UNTRAINED = {"tok_ra", "tok_dec"}  # a position says nothing of an object that others of its kind do not say of all


def gather(runs: Sequence[Path], out: Path) -> list[str]:
    """Copy the finished codecs of training runs into out/codecs; which there are then.

    Raises ValueError for a folder that is no finished run of `omnisky train codec`.
    """
    for run in runs:
        config = run / "model" / "config.json"
        many = not config.is_file()  # scalars: a folder each
        found = sorted(p.parent for p in (run / "model").glob("*/config.json")) if many else [run / "model"]
        if not found:
            raise ValueError(f"{run} has no finished codec; `omnisky train codec KIND` trains one")
        for folder in found:
            name = folder.name if many else _folder_of(load_codec(folder))
            shutil.rmtree(out / "codecs" / name, ignore_errors=True)
            shutil.copytree(folder, out / "codecs" / name)
    return sorted(p.parent.name for p in (out / "codecs").glob("*/config.json"))


def _folder_of(codec: Codec) -> str:
    kinds = {"CompactImageCodec": "image", "ImageCodec": "image", "SpectrumCodec": "spectrum",
             "SegmentationCodec": "segmentation_map"}
    return kinds[type(codec).__name__]


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
        if m.key in UNTRAINED or not (own / "config.json").is_file():
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
