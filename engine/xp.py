"""Gaia XP coefficients -> the spectrum that they stand for."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from engine.objects import SkyObject, Spectrum

UNIT = 1e-17 * u.erg / (u.s * u.cm**2 * u.Angstrom)
COEFFICIENTS = 55  # of each arm


@cache
def _table() -> dict[str, NDArray[Any]]:
    """Design matrices (55, 343) of both arms on one grid, times each arm's share there (tools/build_xp_table.py)."""
    with np.load(Path(__file__).with_name("xp.npz"), allow_pickle=False) as file:
        return dict(file)


def spectrum(thing: SkyObject) -> Spectrum | None:
    """The spectrum of an object's `xp_bp` and `xp_rp`, every 20 Angstrom; None if it has neither.

    Externally calibrated as Gaia DR3 does: a linear map of the coefficients, the two arms merged about 6400 Angstrom
    (Montegriffo et al. 2023, A&A 674, A3). With one arm alone, its own range. The errors of the coefficients are strongly
    correlated and their correlations are not in the object, so that the spectrum has no ivar.
    """
    table = _table()
    flux, share = np.zeros(len(table["wavelength"])), np.zeros(len(table["wavelength"]))
    for arm in ("bp", "rp"):
        value = thing.scalars[f"xp_{arm}"].value if f"xp_{arm}" in thing.scalars else None
        if isinstance(value, np.ndarray) and value.shape == (COEFFICIENTS,):
            flux += value @ table[arm].astype(np.float64)
            share += table[f"{arm}_share"]
    covered = share > 0.999  # where the merger is complete
    if not covered.any():
        return None
    return Spectrum(table["wavelength"][covered], flux[covered], survey="gaia", unit=UNIT,
                    history=("made of Gaia XP coefficients",))
