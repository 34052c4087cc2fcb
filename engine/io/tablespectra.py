"""Spectra that come in tables: vectors in the rows of a catalogue (Gaia SPSS, sampled XP), or one spectrum as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from engine.io import parts
from engine.io.columns import Field, is_vector_column, normal, numbers_of, split_unit, vector_of
from engine.io.errors import ReadError
from engine.io.units import clean_unit, is_flux
from engine.objects import SkyObject, Spectrum

WAVES = (
    "wavelength",
    "wave",
    "wavelengths",
    "wl",
    "lambda",
    "lam",
    "loglam",
    "log_lam",
    "lambda_vac",
    "wave_vac",
    "vacuum_wavelength",
    "wavelength_vacuum",
    "wavelength_air",
    "wave_air",
    "lambda_air",
    "angstrom",
    "spectral_axis",
    "spectrum_lambda",
)
FLUXES = ("flux", "flux_density", "flam", "f_lambda", "spec", "counts", "intensity", "spectrum_flux", "fluxes",
          "typical")  # the last of what a model generated
ERRORS = (
    "flux_error",
    "flux_err",
    "error",
    "err",
    "sigma",
    "e_flux",
    "flux_errors",
    "fluxerr",
    "uncertainty",
    "noise",
    "flux_sigma",
    "err_flux",
    "error_flux",
    "sigma_flux",
)
IVARS = ("ivar", "flux_ivar", "invvar", "inverse_variance", "spectrum_ivar")
MASKS = ("mask", "and_mask", "flag_mask")
GAIA_GRID = 336.0 + 2.0 * np.arange(343)  # nm, of Gaia's XP_SAMPLED products (De Angeli et al. 2023, section 3.4)
GAIA_FLUX = u.Unit("W / (m2 nm)")


def _pick(names: Mapping[str, str], wanted: Sequence[str]) -> str | None:
    by_name = {n: raw for raw, n in reversed(list(names.items()))}
    return next((by_name[w] for w in wanted if w in by_name), None)


def _unit(fields: Sequence[Field], name: str | None) -> Any:
    found = next((f for f in fields if f.name == name), None)
    return None if found is None else clean_unit(found.unit if found.unit is not None else split_unit(found.name)[1])


def _ucd(fields: Sequence[Field], name: str | None) -> str:
    return next((f.ucd for f in fields if f.name == name), "")


def to_vacuum(air: np.ndarray) -> np.ndarray:
    """Wavelengths in standard air as vacuum wavelengths, Angstrom (Morton 2000, ApJS 130, 403; below 2000 A unchanged)."""
    s = (1e4 / air) ** 2
    index = 1 + 8.336624212083e-5 + 2.408926869968e-2 / (130.1065924522 - s) + 1.599740894897e-4 / (38.92568793293 - s)
    return np.where(air > 2000, air * index, air)


def scaled(path: Path, values: np.ndarray, unit: Any) -> tuple[np.ndarray, str]:
    """Wavelengths as Angstrom, and how they were understood. Where no unit is stated their size tells it.

    Raises ReadError for a frequency or a velocity, and where the size tells nothing: 900 to 2600 are ultraviolet Angstrom
    or near-infrared nm.
    """
    if unit is not None and unit.is_equivalent(u.AA):
        return values * unit.to(u.AA), f"wavelengths in {unit}"
    if unit is not None and unit != u.dimensionless_unscaled:
        raise ReadError(path, f"has a spectrum over {unit}, not over wavelength; convert it to wavelengths first")
    good = values[np.isfinite(values) & (values > 0)]
    low, top = (float(good.min()), float(good.max())) if good.size else (0.0, 0.0)
    if low > 2.5 and top < 4.8:
        return 10.0**values, "wavelengths taken as log10 of Angstrom (no unit stated)"
    if top <= 60:
        return values * 1e4, "wavelengths taken as micrometre (no unit stated)"
    if low >= 900 and top <= 2600:
        raise ReadError(path, f"has wavelengths from {low:.6g} to {top:.6g} without a unit, Angstrom or nm; state it, in the "
                              "column's name (wavelength [nm]) or a header's CUNIT1")
    if top <= 2600:
        return values * 10.0, "wavelengths taken as nm (no unit stated)"
    return values.astype(float), "wavelengths taken as Angstrom (no unit stated)"


def angstrom(path: Path, values: np.ndarray, unit: Any, name: str, ucd: str = "") -> tuple[np.ndarray, str]:
    """Wavelengths as Angstrom in vacuum, and how they were understood. Air is what a column's name or its UCD says (ESO)."""
    if normal(name) in ("loglam", "log_lam"):
        out, how = 10.0**values, "10**loglam in Angstrom"
    else:
        out, how = scaled(path, values, unit)
    if "air" in normal(name).split("_") or "obs.atmos" in ucd.lower():
        return to_vacuum(out), f"{how}, air converted to vacuum"
    stated = "vac" in normal(name) or ucd.lower() == "em.wl;obs" or ucd.lower() == "em.wl"
    return out, f"{how}, " + ("vacuum" if stated else "taken as vacuum (not stated)")


def spectrum(wave: np.ndarray, flux: np.ndarray, error: np.ndarray | None, ivar: np.ndarray | None, mask: np.ndarray | None,
             unit: Any, survey: str | None, path: Path, history: tuple[str, ...], resolution: Any = None) -> Spectrum | None:
    """A `Spectrum` in order of wavelength, without padding, pixels without a finite flux masked; None if nothing is left."""
    if any(a is not None and a.shape != wave.shape for a in (flux, error, ivar, mask)):
        raise ReadError(
            path, f"has a spectrum of {wave.size} wavelengths but {flux.size} fluxes (or errors, or masks); export it again"
        )
    keep = np.flatnonzero(np.isfinite(wave) & (wave > 0))
    keep = keep[np.argsort(wave[keep], kind="stable")]
    keep = keep[np.diff(wave[keep], prepend=-1.0) > 0]  # the same wavelength twice: the first one stays
    if keep.size < 2 or not np.isfinite(flux[keep]).any():
        return None
    if error is not None:
        error = error.astype(float)  # the square of 1e-20 erg/s/cm2/A is nothing in float32
        with np.errstate(all="ignore"):
            ivar = np.where(np.isfinite(error) & (error > 0), 1.0 / error**2, 0.0)
    bad = ~np.isfinite(flux) if mask is None else (mask.astype(bool) | ~np.isfinite(flux))
    ivar = None if ivar is None else np.where(np.isfinite(ivar) & (ivar > 0), ivar, 0.0)
    bad = bad if ivar is None else bad | (ivar <= 0)
    flux = np.where(np.isfinite(flux), flux, 0.0)
    if resolution is not None and np.ndim(resolution):
        resolution = np.asarray(resolution)[keep]
    return Spectrum(wave[keep], flux[keep], None if ivar is None else ivar[keep], bad[keep], resolution, survey, unit,
                    calibrated=is_flux(unit), history=history)


# -- one spectrum as a table ----------------------------------------------------------------------------------------

def is_one_spectrum(fields: Sequence[Field], columns: Mapping[str, Any]) -> bool:
    """Whether the rows are the pixels of a spectrum: a wavelength that never turns back, and a flux."""
    names = {f.name: normal(f.name) for f in fields if f.name in columns}
    wave, flux = _pick(names, WAVES), _pick(names, FLUXES)
    if wave is None or flux is None or {"ra", "source_id", "object_id", "id"} & set(names.values()):
        return False
    if any(getattr(columns[c], "ndim", 1) > 1 or columns[c].dtype.kind not in "fiu" for c in (wave, flux)):
        return False
    values = numbers_of(columns[wave])
    steps = np.diff(values[np.isfinite(values)])
    return len(values) > 10 and bool(np.all(steps > 0) or np.all(steps < 0))


def one_spectrum(fields: Sequence[Field], columns: Mapping[str, Any], path: Path, survey: str | None) -> SkyObject:
    """The table as one object with one spectrum. Raises ReadError if nothing in it is a number."""
    names = {f.name: normal(f.name) for f in fields}
    wave, flux = _pick(names, WAVES), _pick(names, FLUXES)
    assert wave is not None and flux is not None
    error, ivar = _pick(names, ERRORS), _pick(names, IVARS)
    mask = _pick(names, MASKS)
    x, how = angstrom(path, numbers_of(columns[wave]), _unit(fields, wave), wave, _ucd(fields, wave))
    made = spectrum(x, numbers_of(columns[flux]), numbers_of(columns[error]) if error and not ivar else None,
                    numbers_of(columns[ivar]) if ivar else None, numbers_of(columns[mask]) != 0 if mask else None,
                    _unit(fields, flux), survey, path, (f"{path.name}: columns {wave}, {flux}", how))
    if made is None:
        raise ReadError(path, "holds a spectrum without a single finite flux; leave it out")
    return SkyObject(parts.stem(path), spectra=(made,), history=(f"{path.name}: one spectrum, {len(x)} rows",))


# -- spectra in rows ------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class RowSpectra:
    """The vector columns that are spectra: wavelength (None: Gaia's grid), flux, error."""

    wave: str | None
    flux: str
    error: str | None
    ivar: str | None
    wave_unit: Any
    wave_ucd: str
    flux_unit: Any
    path: Path
    survey: str | None
    history: tuple[str, ...]

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(c for c in (self.wave, self.flux, self.error, self.ivar) if c)

    def of(self, block: Mapping[str, Any], i: int) -> tuple[Spectrum, ...]:
        """The spectra of row i of a block; none where it has none."""
        flux = vector_of(block[self.flux][i])
        if flux is None or not flux.size:
            return ()
        if self.wave is None:
            wave, how = GAIA_GRID * 10.0, "Gaia's grid of 343 wavelengths, vacuum"
        else:
            found = vector_of(block[self.wave][i])
            if found is None:
                return ()
            wave, how = angstrom(self.path, np.asarray(found, float), self.wave_unit, self.wave, self.wave_ucd)
        error, ivar = (None if c is None else vector_of(block[c][i]) for c in (self.error, self.ivar))
        made = spectrum(wave, flux, error, ivar, None, self.flux_unit, self.survey, self.path, (self.path.name, how))
        return () if made is None else (made,)


def spectra_in_rows(fields: Sequence[Field], columns: Mapping[str, Any], path: Path, survey: str | None) -> RowSpectra | None:
    """The columns of spectra in the rows of a table, or None."""
    names = {f.name: normal(f.name) for f in fields if f.name in columns and is_vector_column(columns[f.name])}
    wave, flux = _pick(names, WAVES), _pick(names, FLUXES)
    if flux is None:
        return None
    first = next((v for v in map(vector_of, columns[flux]) if v is not None), np.zeros(0))
    gaia = "source_id" in {normal(f.name) for f in fields}
    if wave is None and not (gaia and first.size == len(GAIA_GRID)):
        return None
    unit, history = _unit(fields, flux), tuple[str, ...]()
    if unit is None and gaia:  # Gaia's own products, and the SPSS tables that GaiaXPy reads
        unit, history = GAIA_FLUX, ("flux unit W / (m2 nm), that of Gaia's sampled spectra",)
    return RowSpectra(wave, flux, _pick(names, ERRORS), _pick(names, IVARS), _unit(fields, wave), _ucd(fields, wave), unit,
                      path, survey or ("gaia" if gaia else None), history)
