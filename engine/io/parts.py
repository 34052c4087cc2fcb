"""Small checked pieces every reader needs: a position, a scalar, a redshift that is one; absent where not sane."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord

from engine.objects import Scalar

REDSHIFT_RANGE = (-0.02, 20.0)  # nearby galaxies come towards us; what lies outside is a number that stands for "unknown"


def stem(path: Path) -> str:
    """A file's name without its endings: the id of what it holds where nothing else names it."""
    name = re.sub(r"\.(fits?|fz|ftz|npy|npz|jpe?g|png|csv|ecsv|tbl|txt|gz|bz2|xz)(?=\.|$)", "", path.name, flags=re.I)
    return (path.stem if name == path.name else name) or path.name


def position(ra: Any, dec: Any) -> SkyCoord | None:
    """ICRS position from degrees, or None where the numbers are no coordinate (not finite, out of range)."""
    try:
        ra, dec = float(ra), float(dec)
    except (TypeError, ValueError):
        return None
    if not (np.isfinite(ra) and np.isfinite(dec) and -360.0 <= ra <= 360.0 and -90.0 <= dec <= 90.0):
        return None
    return SkyCoord(ra % 360.0 * u.deg, dec * u.deg)


def scalar(value: Any, error: Any = None, unit: u.UnitBase | None = None) -> Scalar | None:
    """A `Scalar`, or None where the value is masked, NaN or infinite. An error that is negative or not finite is left out."""
    if value is None or np.ma.is_masked(value):
        return None
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, (str, np.str_)):
        text = str(value).strip()
        return Scalar(text) if text else None
    if not np.all(np.isfinite(np.asarray(value, dtype=float))):
        return None
    if error is not None and (np.ma.is_masked(error) or not np.all(np.asarray(error, dtype=float) >= 0)):
        error = None
    return Scalar(value, error, unit)


def redshift(value: Any, error: Any = None) -> Scalar | None:
    """The redshift as a `Scalar`, or None where it is no redshift: masked, not finite, outside of `REDSHIFT_RANGE`."""
    try:
        z = float(value)
    except (TypeError, ValueError):
        return None
    if np.ma.is_masked(value) or not (REDSHIFT_RANGE[0] < z < REDSHIFT_RANGE[1]):
        return None
    return scalar(z, None if error is None or np.ma.is_masked(error) or not float(error) > 0 else float(error))
