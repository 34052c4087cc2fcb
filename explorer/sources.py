"""What a sky's model can generate of an object, and from what: read from the model's files, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.modalities import MODALITIES, Modality
from engine.model_files import model_of, read_json
from engine.objects import SkyObject
from explorer.words import FROM, NO_INPUT, NO_MODEL, cannot_generate, source_title, target_title, without_places

REDSHIFT = "tok_z"
TARGETS = {  # what is at hand -> what is asked for, the quickest first
    "legacy": (REDSHIFT, "tok_image_hsc", "tok_spectrum_desi"), "hsc": (REDSHIFT, "tok_image", "tok_spectrum_desi"),
    "sdss": (REDSHIFT, "tok_spectrum_desi"), "desi": (REDSHIFT, "tok_image"), "gaia": ("tok_spectrum_desi",),
}
MAIN = {"legacy": "image", "hsc": "image", "sdss": "spectrum", "desi": "spectrum", "gaia": "coefficients"}


@dataclass(frozen=True)
class Source:
    """One thing to generate from: inputs and targets by token key, the main input first."""

    key: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]


def model_folder(sky: Path, served: Path | None) -> Path | None:
    """The model that was named at the start, else the one of the sky's vectors; None if that is gone."""
    if served is not None:
        return served
    try:
        return model_of(sky)
    except ValueError:
        return None


def sources_of(folder: Path) -> dict[str, Source]:
    """All that a model can start from; empty for one that cannot generate. Raises ValueError if its config.json is damaged."""
    config = folder / "config.json"
    return _sources(folder, config.stat().st_mtime_ns) if config.is_file() else {}


@lru_cache(8)
def _sources(folder: Path, changed: int) -> dict[str, Source]:
    config = read_json(folder / "config.json")
    read, made = ([m for key, m in MODALITIES.items() if key in config.get(name, ()) and _has_codec(folder, m)]
                  for name in ("domains_in", "domains_out"))
    found = {}
    for survey, wanted in TARGETS.items():
        inputs = [m.key for m in read if m.survey == survey and m.kind == MAIN[survey]]
        targets = tuple(key for key in wanted if key in {m.key for m in made})
        if inputs and targets:
            fluxes = [m.key for m in read if m.survey == survey and m.key.startswith(("tok_flux_", "tok_mag_"))]
            found[survey] = Source(survey, (*inputs, *fluxes), targets)
    return found


def _has_codec(folder: Path, m: Modality) -> bool:
    return (folder / "codecs" / m.folder / "config.json").is_file()


def has(thing: SkyObject, survey: str) -> bool:
    """Whether an object has the main input of a source, as a flux: codecs refuse counts, and pictures for the eye."""
    if MAIN[survey] == "image":
        image = thing.image(survey)
        return image is not None and image.calibrated
    if MAIN[survey] == "spectrum":
        return any(s.survey == survey and s.calibrated for s in thing.spectra)
    return any(name in thing.scalars for name in ("xp_bp", "xp_rp"))


def offer(folder: Path | None, thing: SkyObject) -> dict[str, Any]:
    """What the card offers: the sources of an object, each with its targets, and, if there are none, why."""
    try:
        known = {} if folder is None else sources_of(folder)
    except ValueError as error:
        assert folder is not None
        return {"sources": [], "why": without_places(str(error), folder)}
    here = [s for s in known.values() if has(thing, s.key)]
    why = "" if here else NO_MODEL if folder is None else NO_INPUT if known else cannot_generate(folder.name)
    given = [{"key": s.key, "name": FROM[s.key][0], "title": source_title(s.key), "targets": [about(key) for key in s.targets]}
             for s in here]
    return {"sources": given, "why": why}


def about(target: str) -> dict[str, str]:
    return {"key": target, "kind": MODALITIES[target].kind, "title": target_title(target)}
