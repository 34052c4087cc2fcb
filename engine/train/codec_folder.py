"""Codecs of several training runs brought together in one folder, as that of a model has them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from engine.models.omni_config import OmniConfig

FOLDERS = {"image": "image", "spectrum": "spectrum", "segmap": "segmentation_map"}  # scalars have one each


def copied(config: OmniConfig, model: Path, *folders: Path) -> None:
    """Copy the codecs of a model's modalities that it does not have yet, each out of the first of the folders that has it."""
    for name in {config.modality(key).folder for key in config.domains}:
        if not (model / "codecs" / name).is_dir():
            shutil.copytree(holder(name, *folders) / "codecs" / name, model / "codecs" / name)


def holder(name: str, *folders: Path) -> Path:
    """The first of the folders that has a codec. Raises FileNotFoundError if none has."""
    for folder in folders:
        if (folder / "codecs" / name / "config.json").is_file():
            return folder
    raise FileNotFoundError(f"there is no codec {name} in {' or '.join(str(folder / 'codecs') for folder in folders)}; copy "
                            "the one that made the model's tokens there")


def gather(runs: Mapping[str, Path], out: Path) -> list[str]:
    """Copy the finished codecs of training runs, by kind, into out/codecs; which there are then.

    Raises ValueError for a folder that is no finished run of `omnisky train codec`.
    """
    for kind, run in runs.items():
        model = run / "model"
        found = {FOLDERS[kind]: model} if kind in FOLDERS else {p.parent.name: p.parent for p in model.glob("*/config.json")}
        if not found or not all((folder / "config.json").is_file() for folder in found.values()):
            raise ValueError(f"{run} has no finished codec; `omnisky train codec {kind}` trains one")
        for name, folder in found.items():
            copy_whole(folder, out / "codecs" / name)
    return sorted(p.parent.name for p in (out / "codecs").glob("*/config.json") if p.parent.suffix != ".part")


def copy_whole(source: Path, target: Path) -> None:
    """Copy a folder, in the place of what is there; who is killed leaves no part of it under its name."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
