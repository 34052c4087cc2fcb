"""How the page writes things: names of columns, units, numbers with their errors, positions, surveys."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from engine.io.surveys import SURVEYS
from engine.modalities import MODALITIES
from engine.objects import Scalar, SkyObject, Spectrum
from engine.positions import spell

PREFERRED_MAPS = ("umap-image", "umap-spectrum", "pca-image", "pca-spectrum", "sky", "arrival")
PREFERRED_COLOURS = ("z", "class", "mag_r", "flux_r")
PRESERVED = "preserved"  # a colour that belongs to the map, not to the objects
NAMES = {  # column -> how people write it
    "z": "redshift z", "log_mstar": "log M*", "sfr": "star formation rate", "ebv": "E(B−V)", "shape_r": "half-light radius",
    "shape_e1": "ellipticity e1", "shape_e2": "ellipticity e2", "class": "class", "rare": "rare",
    PRESERVED: "how well the map keeps this spot",
    "density": "density of objects", "zwarning": "redshift warning", "ra": "right ascension", "dec": "declination",
}

FROM = {"legacy": ("Legacy", "image"), "hsc": ("HSC", "image"), "sdss": ("SDSS", "spectrum"), "desi": ("DESI", "spectrum"),
        "gaia": ("Gaia XP", "spectrum")}
GENERATED = "generated"
NOT_OBSERVED = "not observed"
GENERATE = {  # what the strip says
    "title": "Generate", "from": "from", "seed": "seed", "go": "Generate", "stop": "Stop", "again": "Draw again",
    "hint": "What the model expects of this object, beside what was measured:", "generated": GENERATED, "input": "input",
    "measured": "measured", "none": "not measured", "hidden": "hidden (v)", "unfinished": "unfinished",
    "stopped": "Stopped: what is shown is unfinished, not a shorter run.",
    "nothing": "Stopped before anything was drawn. Press Generate to begin again.", "waiting": "waits for other runs: ",
    "band": "median, 16–84 % of {} samples", "samples": "samples", "chi": "χ per pixel, −5 σ red to +5 σ blue",
    "redshift": "redshift", "posterior": "what the model says of the redshift",
    "not_posterior": "not a posterior", "plausible": "Images and spectra are plausible draws, not calibrated.",
    "how": "how it was made",
    "inconsistent": "inconsistent with the input", "consistent": "consistent with the input",
}
FOLDERS = re.compile(r"""(?<![\w./:-])/(?:[^\s/:;,'"()]+/)+""")  # of an absolute path; no unit, and no address of the web
NO_INPUT = "This object has no image or spectrum that the model reads."
NO_MODEL = "The model that made this sky's vectors is not there any more; start again with --model FOLDER."


def without_places(text: str, *places: Path) -> str:
    """A sentence for visitors, who need not know where anything lies on the server: "small.sky", not "/data/ada/small.sky".

    Of an absolute path that is near none of the places only the last name stays.
    """
    for folder in {parent for place in places for parent in (place.parent, place.absolute().parent) if parent.name}:
        text = re.sub(rf"(?<![\w./-]){re.escape(f'{folder}{os.sep}')}", "", text)
    return FOLDERS.sub("", text)


def cannot_generate(model: str) -> str:
    return f"{model}, the model of this sky, compares images and spectra; it cannot generate them."


def source_title(survey: str) -> str:
    """What is generated from: "Legacy image"."""
    return " ".join(FROM[survey])


def target_title(key: str) -> str:
    """"tok_image_hsc" -> "HSC image"."""
    return MODALITIES[key].name.replace("Legacy Surveys", "Legacy")


def chi_line(found: Any) -> str:
    """What stands behind "(in)consistent with the input": σ counts all that is allowed for, χ² noise alone, which a codec's own
    error of a bright object exceeds by far."""
    how = "if" if found.consistent else "even if"
    return (f"{how} {found.allowed} are allowed for: {max(found.significance, 0):.1f} σ. Against noise alone, reduced χ² is "
            f"{found.chi2:.2f}.")


def colour_rank(name: str) -> tuple[int, str]:
    return (PREFERRED_COLOURS.index(name) if name in PREFERRED_COLOURS else 9, name)


def map_rank(name: str) -> tuple[int, str]:
    return (PREFERRED_MAPS.index(name) if name in PREFERRED_MAPS else 99, name)


def map_title(name: str) -> str:
    if name in ("sky", "arrival"):
        return {"sky": "on the sky", "arrival": "in order of arrival"}[name]
    kind, _, space = name.partition("-")
    return f"{kind.upper()} · {space}" if space else name


def left_out(name: str, sky: Path, error: Exception) -> str:
    """Of a map that is damaged, for visitors: the fact as the engine tells it, without its remedies, and the one that works."""
    fact = str(error).partition("; ")[0] if isinstance(error, ValueError) else f"{name} is damaged ({error})"
    return f"The map {map_title(name)} is left out: {without_places(fact, sky)}; `omnisky map` makes it again."


def title_of(column: str) -> str:
    if column in NAMES:
        return NAMES[column]
    for start, word in (("flux_", "flux "), ("mag_", "magnitude ")):
        if column.startswith(start):
            return word + column.removeprefix(start)
    return column.replace("_", " ")


def pretty_unit(unit: str) -> str:
    """"mag(AB)" -> "AB mag", "1e-17 erg / (Angstrom s cm2)" -> as people print it."""
    for long, short in (("mag(AB)", "AB mag"), ("Angstrom", "Å"), ("solMass", "M☉"), ("dex(M☉)", "dex M☉"), ("arcsec", "″"),
                        ("cm2", "cm²")):
        unit = unit.replace(long, short)
    return unit


def survey_title(key: str | None) -> str:
    return SURVEYS[key].title if key in SURVEYS else (key or "image")


def position_of(thing: SkyObject) -> dict[str, Any] | None:
    if thing.position is None:
        return None
    ra, dec = float(thing.position.ra.deg), float(thing.position.dec.deg)
    return {"ra": round(ra, 7) % 360, "dec": round(dec, 7), "text": spell(thing.position), "name": j_name(ra, dec)}


def j_name(ra: float, dec: float) -> str:
    """"J100024.27+021230.1" of degrees: digits are cut, not rounded, as the IAU asks of names."""
    def cut(value: float, decimals: int) -> str:
        """hhmmss of hours, ddmmss of degrees."""
        whole = 10**decimals
        units = math.floor(value * 3600 * whole + 1e-5)  # what was written with these digits keeps its last
        minutes, rest = divmod(units, 60 * whole)
        return f"{minutes // 60:02}{minutes % 60:02}{rest // whole:02}.{rest % whole:0{decimals}}"

    ra = round(ra, 9) % 360  # a hair below 360 is 0: no hour is 24
    return f"J{cut(ra / 15, 2)}{'-' if dec < 0 else '+'}{cut(abs(dec), 1)}"


def plain(scalar: Scalar | None) -> float | None:
    return float(scalar.value) if scalar is not None and isinstance(scalar.value, (int, float)) else None


def scalar_line(name: str, scalar: Scalar) -> dict[str, Any]:
    """A scalar as the card's table shows it: value ± error with as many digits as the error warrants."""
    unit = "" if scalar.unit is None else pretty_unit(scalar.unit.to_string())
    value = scalar.value
    if isinstance(value, np.ndarray):
        text = f"{value.size} values"
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, (int, float)):
        text = number_text(value, scalar.error if isinstance(scalar.error, float) else None)
    else:
        text = str(value)
    return {"name": name, "title": title_of(name), "text": text, "unit": unit}


def number_text(value: float, error: float | None) -> str:
    if error and math.isfinite(error) and error > 0:
        digits = max(0, 1 - math.floor(math.log10(error)))
        if digits <= 8 and abs(value) < 1e9:
            return f"{value:.{digits}f} ± {error:.{digits}f}"
        return f"{value:.5g} ± {error:.2g}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def spectrum_about(s: Spectrum) -> dict[str, Any]:
    return {"survey": s.survey or "spectrum", "title": survey_title(s.survey), "n": len(s.wavelength),
            "unit": "" if s.unit is None else flux_unit(s.unit),
            "calibrated": s.calibrated, "low": float(s.wavelength[0]), "high": float(s.wavelength[-1])}


def flux_unit(unit: Any) -> str:
    text = unit.to_string("unicode", fraction=False).replace("Angstrom", "Å")
    return str(text).replace("1×10⁻¹⁷", "10⁻¹⁷")
