"""A model's files, as far as they are known without torch: where the shipped one lies, checksums, config.json, pickles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SHIPPED, ASTROCLIP = ASSETS / "omnisky-demo", ASSETS / "astroclip-demo"  # the demo's model; a contrastive one beside it
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")  # run whatever code is in them when opened: never read


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_checksum(folder: Path) -> str:
    """Of a model's weight file; of several, codecs included, that of their checksums. Raises FileNotFoundError for none."""
    files = [*sorted(folder.glob("model*.safetensors")), *sorted(folder.glob("codecs/*/model.safetensors"))]
    if not files:
        raise FileNotFoundError(f"{folder} is not a model: it has no model.safetensors")
    each = [checksum(path) for path in files]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def refuse_pickles(folder: Path) -> None:
    """Raises ValueError if the path is a pickle, or a folder that has weights as a pickle only."""
    held = [folder] if folder.is_file() else sorted(folder.iterdir()) if folder.is_dir() else []
    pickles = [p for p in held if p.suffix in PICKLES]
    if pickles and not any(p.suffix == ".safetensors" for p in held):
        raise ValueError(f"{pickles[0]} is a pickle, and a pickle can run any code when it is opened, so it is not read; "
                         "use model.safetensors of the same model, in a folder with its config.json")


def codec_checksum(folder: Path) -> str:
    """Of a codec's weights and sizes, on which its tokens depend."""
    each = [checksum(folder / name) for name in ("config.json", "model.safetensors")]
    return hashlib.sha256("".join(each).encode()).hexdigest()


def models_of(sky: Path) -> Iterator[Path]:
    """The folders of the models that made a sky's vectors, the shipped one, of whatever version, last; it alone if there are
    no vectors.

    Raises ValueError at one that is not known or not there any more.
    """
    found: set[Path] = set()
    manifests = sorted(sky.glob("embeddings/*/manifest.json"))
    shipped = not manifests
    for path in manifests:
        manifest = read_json(path, f"remove {path.parent}")
        name, folder = manifest.get("model", SHIPPED.name), Path(manifest.get("folder", ""))
        if name == ASTROCLIP.name:
            folder = ASTROCLIP
        if name == SHIPPED.name:
            shipped = True
            continue
        if not (folder / "config.json").is_file():
            place = f"whose folder {folder} is gone" if manifest.get("folder") else "and no folder is known of it"
            raise ValueError(f"the vectors of {sky} are of {name}, {place}; name the model with --model FOLDER")
        if folder not in found:
            found.add(folder)
            yield folder
    if shipped:
        yield SHIPPED


def model_of(sky: Path) -> Path:
    """The first of `models_of`, whether the others are there or not: the one to generate with."""
    return next(models_of(sky))


def head_of(model: str, *folders: Path) -> Path | None:
    """The first of some folders with a head (`engine.align`) that was fitted on the model with this checksum."""
    for folder in folders:
        path = folder / "config.json"
        about = read_json(path, f"remove {folder} and run omnisky align again").get("about", {}) if path.is_file() else {}
        if about.get("model") == model:
            return folder
    return None


def with_head(model: str, head: str) -> str:
    """The checksum of vectors of a model and a head, from theirs."""
    return hashlib.sha256(f"{model} {head}".encode()).hexdigest()


def vectors_checksum(model: Path, sky: Path) -> str:
    """What the manifests of a sky's own spaces say if they were made by a model, with the head that goes with it."""
    own = weights_checksum(model)
    head = head_of(own, sky / "align", model / "align")
    return own if head is None else with_head(own, checksum(head / "model.safetensors"))


def read_json(path: Path, remedy: str = "fetch or train it again") -> dict[str, Any]:
    """The object in a JSON file of a model. Raises ValueError if it is damaged or no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged or not JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object of names and values; {remedy}")
    return content
