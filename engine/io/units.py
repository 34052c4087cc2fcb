"""Units as files spell them, as astropy units; None where a spelling means nothing to astropy."""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import Any

import astropy.units as u

_SPELT = {
    "degrees": "deg",
    "degree": "deg",
    "mags": "mag",
    "magnitude": "mag",
    "days": "d",
    "day": "d",
    "dex": "dex",
    "nanomaggies": "nmgy",
    "nanomaggy": "nmgy",
    "nanomaggies/arcsec^2": "nmgy / arcsec2",
    "e-/s": "electron / s",
    "angstroms": "Angstrom",
    "counts": "ct",
    "ujy": "uJy",
    "mjy": "mJy",
    "njy": "nJy",
    "10.0*nanojansky": "10 nJy",  # grizli's mosaics (Dawn JWST Archive)
    "jy": "Jy",
    "electron/s": "electron / s",
    "magnitudes": "mag",
    "adu": "adu",
    "arcseconds": "arcsec",
    "abmag": "mag(AB)",
    "hours": "hourangle",
    "hms": "hourangle",
    "dms": "deg",
    "radians": "rad",
}


def clean_unit(unit: Any) -> u.UnitBase | None:
    """A unit from a unit or a file's text for one, such as "'electron'.s**-1" (VOTable) or "nanomaggies"; None if unknown."""
    if unit is None:
        return None
    if isinstance(unit, u.UnrecognizedUnit) or not isinstance(unit, (u.UnitBase, u.FunctionUnitBase)):
        return _parse(str(unit))
    if isinstance(unit, u.FunctionUnitBase):
        return unit
    return _parse(unit.to_string()) or unit  # a VOTable's 'electron' is a unit of its own that equals no other


def is_flux(unit: u.UnitBase | None) -> bool:
    """Whether the unit of a spectrum is one of light, and not of what a detector counted."""
    return unit is not None and not {u.ct, u.adu, u.electron, u.DN} & set(unit.bases)


@lru_cache(maxsize=4096)
def _parse(text: str) -> u.UnitBase | None:
    text = text.strip().strip("'\"") if text.count("'") == 2 and text.strip()[:1] == text.strip()[-1:] == "'" else text.strip()
    text = text.replace("'", "")
    if not text or text.lower() in ("none", "null", "unitless", "---", "-", "--", "h:m:s", "d:m:s", "d.m.s", "h.m.s"):
        return None
    text = _SPELT.get(text.lower(), text)
    for format in (None, "vounit", "cds", "fits"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return u.Unit(re.sub(r"^log\((.*)\)$", r"dex(\1)", text), format=format)
            except (ValueError, TypeError):
                continue
    return None
