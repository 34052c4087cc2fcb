"""FITS spectra -> objects: SDSS spec files, DEIMOS arms, LAMOST, and rows of pixels.

Every spectrum's history says whether its wavelengths were air or vacuum and in which rest frame they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import fits

from engine.io import fits_pixels, parts
from engine.io.columns import text_of
from engine.io.fits_axes import header_position, make
from engine.io.fits_files import columns_of, is_table, name_of, native, number, pixels_of, rows_of, shape_of, text
from engine.io.surveys import SPECTRUM_UNIT
from engine.io.tablespectra import to_vacuum
from engine.objects import Scalar, SkyObject

FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))  # of a Gaussian, in units of its sigma
# Bits of SDSS's and_mask that mean the flux is wrong: FULLREJECT, NOSKY, BRIGHTSKY, NODATA, REDMONSTER
# (SPPIXMASK in idlutils' sdssMaskbits.par, sdss.org/dr17/algorithms/bitmasks). NEARBADPIXEL and the like leave the flux usable.
SDSS_BAD = 1 << 18 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 28


def kind_of(hdus: fits.HDUList) -> str | None:
    """"sdss", "deimos", "lamost" or "pixels" (rows with a wavelength axis); None if the file holds no spectrum."""
    tables = [columns_of(h) for h in hdus if is_table(h)]
    if any({"loglam", "flux", "ivar"} <= set(t) for t in tables):
        return "sdss"
    if any({"spec", "lambda", "ivar"} <= set(t) for t in tables):
        return "deimos"
    if "LAMOST" in text(hdus[0].header.get("TELESCOP", "")).upper() and _lamost_planes(hdus) is not None:
        return "lamost"
    return "pixels" if any(fits_pixels.is_spectra(h, hdus) for h in hdus) else None


def objects_of(path: Path, hdus: fits.HDUList, survey: str | None) -> Iterator[SkyObject]:
    """The objects whose spectra the file holds. Raises ReadError if none has a usable pixel."""
    kind = kind_of(hdus)
    if kind == "sdss":
        yield _sdss(path, hdus, survey)
    elif kind == "deimos":
        yield _deimos(path, hdus, survey)
    elif kind == "lamost":
        yield _lamost(path, hdus, survey)
    else:
        yield from fits_pixels.objects_of(path, hdus, survey)


# -- SDSS -----------------------------------------------------------------------------------------------------------

def _sdss(path: Path, hdus: fits.HDUList, survey: str | None) -> SkyObject:
    """A spec or spec-lite file (data model: data.sdss.org, spec-PLATE-MJD-FIBER): vacuum, heliocentric, loglam in log10 A."""
    hdu = next(h for h in hdus if {"loglam", "flux", "ivar"} <= set(columns_of(h)))
    names, data = columns_of(hdu), hdu.data
    mask = (native(data[names["and_mask"]]) & SDSS_BAD) != 0 if "and_mask" in names else None
    resolution = None
    if "wdisp" in names:  # sigma in pixels of 1e-4 dex
        width = native(data[names["wdisp"]]).astype(float)
        with np.errstate(all="ignore"):
            resolution = np.where(width > 0, 1.0 / (FWHM * width * 1e-4 * np.log(10.0)), np.nan)
        resolution = None if np.isnan(resolution).all() else resolution
    spectrum = make(path, 10.0 ** native(data[names["loglam"]]).astype(float), data[names["flux"]], data[names["ivar"]], mask,
                    resolution=resolution, survey=survey or "sdss", unit=SPECTRUM_UNIT,
                    history=(f"{path.name} HDU {name_of(hdu) or 1}", "vacuum wavelengths, heliocentric",
                             "mask: ivar 0 or and_mask FULLREJECT, NOSKY, BRIGHTSKY, NODATA, REDMONSTER"))
    table = next((h for h in hdus if {"z", "class", "plate", "mjd"} <= set(columns_of(h)) and rows_of(h) == 1), None)
    header = hdus[0].header
    if table is None:
        place = parts.position(header.get("PLUG_RA"), header.get("PLUG_DEC"))
        return SkyObject(parts.stem(path), place, spectra=(spectrum,),
                         history=(path.name, "no SPECOBJ: no redshift"))
    row = _row(table)
    scalars, notes = _sdss_scalars(row)
    fiber = row.get("fiberid", row.get("fiber"))
    where = parts.position(row.get("plug_ra"), row.get("plug_dec")) or parts.position(header.get("PLUG_RA"),
                                                                                      header.get("PLUG_DEC"))
    return SkyObject(f"{row['plate']}-{row['mjd']}-{fiber}" if fiber is not None else path.stem, where, spectra=(spectrum,),
                     scalars=scalars, history=(f"{path.name}: SDSS spectrum", *notes))


def _row(table: Any) -> dict[str, Any]:
    """Lower-case column -> value of a table's only row."""
    return {low: table.data[name][0] for low, name in columns_of(table).items()}


def _sdss_scalars(row: Mapping[str, Any]) -> tuple[dict[str, Scalar], list[str]]:
    """Redshift, its warning, class and identifiers. A redshift without error (-1, fit failed) is none."""
    found: dict[str, Scalar | None] = {}
    notes = []
    warning = row.get("zwarning")
    error = number(row.get("z_err"))
    if error is not None and error > 0:
        found["z"] = parts.redshift(row["z"], error)
    if warning is not None:
        found["zwarning"] = Scalar(int(warning))
        if int(warning):
            notes.append(f"the redshift is not sure: ZWARNING = {int(warning)}")
    for name in ("class", "subclass", "bestobjid", "specobjid"):
        value = text_of(row.get(name))
        if value and value not in ("0", "-1"):
            found[name] = Scalar(value)
    return {k: v for k, v in found.items() if v is not None}, notes


# -- Keck DEIMOS ----------------------------------------------------------------------------------------------------

def _deimos(path: Path, hdus: fits.HDUList, survey: str | None) -> SkyObject:
    """Both arms of a DEEP2 spec1d file as one spectrum, electrons an hour (Newman et al. 2013, ApJS 208, 5: air, topocentric).

    The optimal extraction (Horne) is taken where there is one, else the first two tables.
    """
    arms = [h for h in hdus if {"spec", "lambda", "ivar"} <= set(columns_of(h)) and rows_of(h)]
    optimal = [h for h in arms if re.fullmatch(r"HORNE-[BR]", name_of(h))]
    boxcar = [h for h in arms if re.fullmatch(r"BXSPF-[BR]", name_of(h))]
    chosen = optimal or boxcar or arms[:2]
    wave, flux, ivar = (np.concatenate([native(h.data[columns_of(h)[c]][0]).ravel() for h in chosen])
                        for c in ("lambda", "spec", "ivar"))
    masks = [native(h.data[columns_of(h)["bitmask"]][0]).ravel() != 0 for h in chosen if "bitmask" in columns_of(h)]
    mask = np.concatenate(masks) if len(masks) == len(chosen) else None
    spectrum = make(path, to_vacuum(wave.astype(float)), flux, ivar, mask, survey=survey or "deimos", unit=u.electron / u.h,
                    calibrated=False,
                    history=(f"{path.name} HDUs {', '.join(name_of(h) for h in chosen)}",
                             "air converted to vacuum (Morton 2000)",
                             "wavelengths of the observatory, not heliocentric", "electrons an hour: not flux-calibrated",
                             "mask: ivar 0 or BITMASK not 0 (bad column, vignetted, no data or no flat in the whole window)"))
    header = chosen[0].header
    name = text(header.get("OBJNO", "")) or parts.stem(path)
    return SkyObject(name, spectra=(spectrum,), history=(f"{path.name}: DEIMOS, {len(chosen)} arms joined",
                     "no position: the header's RA and DEC are those of the slit mask"))


# -- LAMOST ---------------------------------------------------------------------------------------------------------

def _lamost_planes(hdus: fits.HDUList) -> Any:
    """A function for the rows flux, ivar, wavelength, and_mask of a LAMOST file, of either of its layouts; None if of none."""
    wanted = ("flux", "ivar", "wavelength", "andmask")
    for hdu in hdus:
        names = columns_of(hdu)
        if set(wanted) <= set(names) and rows_of(hdu) == 1:
            return lambda path: [native(hdu.data[names[n]][0]).ravel() for n in wanted]
    shape = shape_of(hdus[0])
    return (lambda path: list(pixels_of(path, hdus[0])[:4])) if len(shape) == 2 and shape[0] in (4, 5) else None


def _lamost(path: Path, hdus: fits.HDUList, survey: str | None) -> SkyObject:
    """A LAMOST spectrum (Luo et al. 2015, RAA 15, 1095): vacuum, relative flux. Five rows to DR7, a table from DR8 on."""
    flux, ivar, wave, mask = _lamost_planes(hdus)(path)
    header = hdus[0].header
    spectrum = make(path, wave, flux, ivar, mask != 0, survey=survey or "lamost", unit=None, calibrated=False, history=(
        path.name, "vacuum wavelengths" + (", heliocentric" if header.get("HELIO") is True else ", rest frame not stated"),
        "relative flux: the shape is calibrated, the level is not", "mask: ivar 0 or and_mask not 0"))
    kind = text(header.get("CLASS", ""))
    found = {"z": parts.redshift(header.get("Z")), "class": parts.scalar(kind) if kind else None}
    return SkyObject(parts.stem(path), header_position(header), spectra=(spectrum,),
                     scalars={n: s for n, s in found.items() if s is not None}, history=(f"{path.name}: LAMOST spectrum",))
