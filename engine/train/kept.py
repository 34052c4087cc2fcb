"""What the stages of a plan leave for another machine: a tar in pieces, enough to go on with an empty folder.

    KEPT/kept.tar.0, kept.tar.1, ...    codecs, or their checkpoints; curves; the model, or its averaged weights in bfloat16
"""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

from safetensors.torch import load_file

from engine import checkpoints
from engine.checkpoints.tensors import write_tensors
from engine.files import read_json, write_json
from engine.train.codec_folder import copied

PIECE = 15 << 20  # bytes of a file


def keep(work: Path, kept: Path) -> None:
    """Write what is needed to go on elsewhere."""
    kept.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        folder = work / "codecs"
        if (folder / "done").is_file():
            for name in ("codecs", "done"):
                tar.add(folder / name, f"codecs/{name}")
        for path in sorted(folder.glob("*/checkpoint/*")) if not (folder / "done").is_file() else []:
            tar.add(path, path.relative_to(work).as_posix())
        for path in sorted(folder.glob("*/curve.jsonl")) + sorted((work / "omni").glob("curve.jsonl")):
            tar.add(path, path.relative_to(work).as_posix())
        model = work / "omni" / "model"
        if model.is_dir():
            for name in ("config.json", "model.safetensors", "training.json", *_head(model), *_own(model, folder)):
                tar.add(model / name, f"omni/model/{name}")
        elif (light := _light(work / "omni" / "checkpoint", work / "omni" / "light")) is not None:
            tar.add(light, "omni/light")
    whole = content.getvalue()
    for old in kept.glob("kept.tar.*"):
        old.unlink()
    for number, start in enumerate(range(0, len(whole), PIECE)):
        (kept / f"kept.tar.{number}").write_bytes(whole[start : start + PIECE])


def _head(model: Path) -> list[str]:
    return [path.relative_to(model).as_posix() for path in sorted((model / "align").glob("*.*"))]


def _own(model: Path, codecs: Path) -> list[str]:
    """Codecs that only the model has: of one that it began with."""
    return [f"codecs/{path.name}" for path in sorted((model / "codecs").glob("*"))
            if not (codecs / "codecs" / path.name).is_dir()]


def _light(checkpoint: Path, folder: Path) -> Path | None:
    """The averaged weights of a checkpoint in bfloat16, with its state."""
    state = checkpoints.last_step(checkpoint)
    if state is None:
        return None
    folder.mkdir(exist_ok=True)
    write_tensors(folder / "averages.safetensors",
                  {name: value.bfloat16() for name, value in load_file(checkpoint / "averages.safetensors").items()})
    write_json(folder / "state.json", state)
    return folder


def unpack(kept: Path, work: Path) -> None:
    """Bring what was kept into an empty folder, whole or not at all: what is there counts as done.

    Raises FileNotFoundError if there is nothing, FileExistsError if the folder has something in it.
    """
    parts = sorted(kept.glob("kept.tar.*"), key=lambda path: int(path.suffix[1:]))
    if not parts:
        raise FileNotFoundError(f"{kept} has no kept.tar.0, kept.tar.1, ...; give a folder that an earlier stage wrote")
    if work.exists() and any(work.iterdir()):
        raise FileExistsError(f"{work} has something in it already; go on with it as it is, or give a new folder")
    part = work.with_name(work.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(b"".join(path.read_bytes() for path in parts))) as tar:
        tar.extractall(part, filter="data")
    model, light = part / "omni" / "model", part / "omni" / "light"
    if model.is_dir():
        copied(checkpoints.read_config(model), model, part / "codecs")
    if light.is_dir():
        weights = {name: value.float() for name, value in load_file(light / "averages.safetensors").items()}
        checkpoints.restart(part / "omni" / "checkpoint", weights, read_json(light / "state.json"))
    if work.exists():
        work.rmdir()  # an empty one, which not every system replaces
    part.rename(work)
