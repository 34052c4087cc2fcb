"""Codecs of several training runs brought together in one folder, as that of a model has them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from engine.checkpoints.codecs import load_codec
from engine.codecs import Codec


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
