"""FITS spectra -> objects: SDSS spec files, DEIMOS arms, stacks of FLUX and WAVE planes, and plain 1-D spectra with a WCS.

Every spectrum's history says whether its wavelengths were air or vacuum and in which rest frame they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import Angle, SkyCoord
from astropy.io import fits
from numpy.typing import NDArray

from engine.io import parts
from engine.io.columns import text_of
from engine.io.errors import ReadError
from engine.io.fits_files import columns_of, is_table, name_of, native, number, pixels_of, rows_of, shape_of, text
from engine.io.surveys import SPECTRUM_UNIT, find_survey
from engine.io.tablespectra import to_vacuum
from engine.io.units import clean_unit
from engine.objects import Scalar, SkyObject, Spectrum

FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))  # of a Gaussian, in units of its sigma
# Bits of SDSS's and_mask that mean the flux is wrong: FULLREJECT, NOSKY, BRIGHTSKY, NODATA, REDMONSTER
# (SPPIXMASK, sdss.org/dr17/algorithms/bitmasks). NEARBADPIXEL and the like leave the flux usable.
SDSS_BAD = 1 << 18 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 28
_SPECTRAL = ("WAVE", "AWAV", "LAMBDA", "WAVELENGTH", "LINEAR", "LOG-LINEAR", "LOGLINEAR", "LOG", "LOG10")


def kind_of(hdus: fits.HDUList) -> str | None:
    """"sdss", "deimos", "planes" or "plain" (1-D pixels with a wavelength axis); None if the file holds no spectrum."""
    tables = [columns_of(h) for h in hdus if is_table(h)]
    if any({"loglam", "flux", "ivar"} <= set(t) for t in tables):
        return "sdss"
    if any({"spec", "lambda", "ivar"} <= set(t) for t in tables):
        return "deimos"
    if "LAMOST" in text(hdus[0].header.get("TELESCOP", "")).upper() and _lamost_planes(hdus) is not None:
        return "lamost"
    names = {name_of(h) for h in hdus if shape_of(h)}
    if "FLUX" in names and names & {"WAVE", "WAVELENGTH", "LAMBDA"}:
        return "planes"
    return "plain" if any(_is_plain(h) for h in hdus) else None


def objects_of(path: Path, hdus: fits.HDUList, survey: str | None) -> Iterator[SkyObject]:
    """The objects whose spectra the file holds. Raises ReadError if none has a usable pixel."""
    kind = kind_of(hdus)
    if kind == "sdss":
        yield _sdss(path, hdus, survey)
    elif kind == "deimos":
        yield _deimos(path, hdus, survey)
    elif kind == "lamost":
        yield _lamost(path, hdus, survey)
    elif kind == "planes":
        yield from _planes(path, hdus, survey)
    else:
        yield _plain(path, hdus, survey)


def make(path: Path, wave: Any, flux: Any, ivar: Any, mask: Any, **more: Any) -> Spectrum:
    """A `Spectrum` in order of wavelength; pixels without a finite flux or without weight are masked. Raises ReadError."""
    wave, flux = native(wave).astype(np.float64), native(flux)
    if wave.shape != flux.shape or wave.ndim != 1:
        raise ReadError(path, f"has {wave.size:,} wavelengths but {flux.size:,} fluxes in a spectrum; export it again")
    keep = np.flatnonzero(np.isfinite(wave) & (wave > 0))
    keep = keep[np.argsort(wave[keep], kind="stable")]
    keep = keep[np.diff(wave[keep], prepend=-1.0) > 0]
    bad = ~np.isfinite(flux) if mask is None else np.asarray(mask, bool) | ~np.isfinite(flux)
    if ivar is not None:
        ivar = native(ivar)
        ivar = np.where(np.isfinite(ivar) & (ivar > 0), ivar, 0).astype(ivar.dtype if ivar.dtype.kind == "f" else np.float32)
        bad |= ivar == 0
    if keep.size < 2 or bad[keep].all():
        raise ReadError(path, "holds a spectrum without a single good pixel; leave it out")
    resolution = more.pop("resolution", None)
    if resolution is not None and np.ndim(resolution):
        resolution = np.asarray(resolution)[keep]
    return Spectrum(wave[keep], np.where(np.isfinite(flux), flux, 0)[keep], None if ivar is None else ivar[keep], bad[keep],
                    resolution, **more)


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
        return SkyObject(path.name.split(".fits")[0], place, spectra=(spectrum,),
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
    """Both arms of a DEEP2 spec1d file as one spectrum in counts (Newman et al. 2013, ApJS 208, 5: air, not heliocentric).

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
    spectrum = make(path, to_vacuum(wave.astype(float)), flux, ivar, mask, survey=survey or "deimos", unit=u.ct,
                    calibrated=False,
                    history=(f"{path.name} HDUs {', '.join(name_of(h) for h in chosen)}",
                             "air converted to vacuum (Morton 2000)",
                             "wavelengths of the observatory, not heliocentric", "counts: not flux-calibrated"))
    header = chosen[0].header
    name = text(header.get("OBJNO", "")) or path.name.split(".fits")[0]
    return SkyObject(name, spectra=(spectrum,), history=(f"{path.name}: DEIMOS, {len(chosen)} arms joined",
                     "no position: the header's RA and DEC are those of the slit mask"))


def _header_position(header: fits.Header) -> SkyCoord | None:
    """RA and DEC of a header, degrees or sexagesimal hours and degrees; None if there are none."""
    ra, dec = header.get("RA", header.get("PLUG_RA")), header.get("DEC", header.get("PLUG_DEC"))
    if isinstance(ra, str) and ":" in ra:
        try:
            ra, dec = Angle(ra, u.hourangle).deg, Angle(str(dec), u.deg).deg
        except (ValueError, u.UnitsError):
            return None
    return parts.position(ra, dec)


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
    return SkyObject(path.name.split(".fit")[0], _header_position(header), spectra=(spectrum,),
                     scalars={n: s for n, s in found.items() if s is not None}, history=(f"{path.name}: LAMOST spectrum",))


# -- FLUX and WAVE planes -------------------------------------------------------------------------------------------

def _planes(path: Path, hdus: fits.HDUList, survey: str | None) -> Iterator[SkyObject]:
    """One object a row of a FLUX plane (n_objects, n) with one WAVE axis (n,) for all, as DESI's stacks are kept."""
    by_name = {name_of(h): h for h in hdus if shape_of(h)}
    wave_hdu = next(by_name[n] for n in ("WAVE", "WAVELENGTH", "LAMBDA") if n in by_name)
    flux_hdu, ivar_hdu = by_name["FLUX"], by_name.get("IVAR")
    flux = np.atleast_2d(pixels_of(path, flux_hdu))
    ivar = None if ivar_hdu is None else np.atleast_2d(pixels_of(path, ivar_hdu))
    wave = pixels_of(path, wave_hdu).astype(float)
    if flux.ndim != 2 or wave.ndim != 1 or flux.shape[1] != wave.size or (ivar is not None and ivar.shape != flux.shape):
        raise ReadError(path, f"has FLUX of shape {flux.shape} but WAVE of {wave.shape}; export it again")
    wave, how = _in_vacuum(wave, wave_hdu.header, clean_unit(text(wave_hdu.header.get("BUNIT", ""))))
    unit = clean_unit(text(flux_hdu.header.get("BUNIT", "")))
    stem = path.name.split(".fits")[0]
    for i, row in enumerate(flux):
        spectrum = make(path, wave, row, None if ivar is None else ivar[i], None, survey=survey, unit=unit,
                        calibrated=unit is not None, history=(f"{path.name} HDU FLUX row {i + 1}", how))
        yield SkyObject(stem if len(flux) == 1 else f"{stem}-{i + 1}", spectra=(spectrum,), history=(path.name,))


# -- 1-D pixels with a WCS ------------------------------------------------------------------------------------------

def _is_plain(hdu: Any) -> bool:
    shape = shape_of(hdu)
    if not shape or shape[-1] < 10 or int(np.prod(shape[:-1])) > 16:
        return False
    header = hdu.header
    axis = text(header.get("CTYPE1", "")).upper()
    spectral = "COEFF0" in header or axis.split("-")[0] in _SPECTRAL or axis in _SPECTRAL or text(header.get("DC-FLAG",
                                                                                                             "")) != ""
    one = int(np.prod(shape[:-1])) == 1
    return ("CRVAL1" in header or "COEFF0" in header) and spectral and (one or axis[:4] != "LINE" or "COEFF0" in header
                                                                        or "DC-FLAG" in
                                                                       header)


def _plain(path: Path, hdus: fits.HDUList, survey: str | None) -> SkyObject:
    """The first 1-D spectrum of the file; further rows of its plane are told apart only where IRAF fixes their meaning."""
    hdu = next(h for h in hdus if _is_plain(h))
    header, data = hdu.header, pixels_of(path, hdu)
    rows = data.reshape(-1, data.shape[-1])
    wave, how = _axis(path, header, rows.shape[1])
    errors, ivar = None, None
    named = {name_of(h): h for h in hdus if h is not hdu and shape_of(h) and int(np.prod(shape_of(h))) == rows.shape[1]}
    for name, other in named.items():
        if re.fullmatch(r"IVAR|INVVAR", name):
            ivar = pixels_of(path, other).ravel()
        elif re.fullmatch(r"ERR(OR)?S?|SIGMA|NOISE|UNCERTAINTY|STD", name):
            errors = pixels_of(path, other).ravel().astype(float)
    if rows.shape[0] >= 4 and text(header.get("BANDID4", "")).lower().startswith("sigma"):  # IRAF apall
        errors = rows[3].astype(float)
    if errors is not None:
        with np.errstate(all="ignore"):
            ivar = np.where(errors > 0, 1.0 / errors**2, 0.0)
    unit = clean_unit(text(header.get("BUNIT", "")))
    found = find_survey(survey) if survey else None
    spectrum = make(path, wave, rows[0], ivar, None, survey=found.key if found else survey, unit=unit,
                    calibrated=unit is not None and unit not in (u.ct, u.adu, u.electron, u.DN),
                    history=(f"{path.name} HDU {name_of(hdu) or 0}", how, *_frame(header)))
    z = parts.redshift(header.get("Z", header.get("REDSHIFT")))
    return SkyObject(path.name.split(".fit")[0], _header_position(header), spectra=(spectrum,), scalars={"z": z} if z else {},
                     history=(f"{path.name}: 1-D spectrum",
                              *([f"{len(rows) - 1} further rows left out"] if len(rows) > 1 else [])))


def _axis(path: Path, header: fits.Header, count: int) -> tuple[NDArray[np.float64], str]:
    """Wavelengths in vacuum Angstrom of a linear or logarithmic first axis (Greisen et al. 2006, A&A 446, 747)."""
    start, step = number(header.get("CRVAL1", header.get("COEFF0"))), number(header.get("CD1_1", header.get("CDELT1",
                                                                                                       header.get("COEFF1"))))
    if "COEFF0" in header and "COEFF1" in header:
        start, step = number(header["COEFF0"]), number(header["COEFF1"])
    if start is None or step is None or step == 0:
        raise ReadError(path, "has no wavelength axis (CRVAL1 and CDELT1); add it, or save a table of wavelength and flux")
    if text(header.get("CTYPE1", "")).upper().startswith("MULTISPE"):
        raise ReadError(path, "is an IRAF multispec file whose axis is not read; save it as a table of wavelength and flux")
    pixel = np.arange(count) + 1.0 - (number(header.get("CRPIX1")) or 1.0)
    axis = text(header.get("CTYPE1", "")).upper()
    values = start * np.exp(step * pixel / start) if axis.endswith("-LOG") else start + step * pixel
    logarithmic = not axis.endswith("-LOG") and (
        str(header.get("DC-FLAG", 0)).strip() == "1" or "COEFF0" in header or axis.startswith("LOG")
        or (start < 6 and step < 0.01))
    unit = clean_unit(text(header.get("CUNIT1", "")))
    if logarithmic:
        values, unit = 10.0**values, u.AA
    return _in_vacuum(values, header, unit)


def _in_vacuum(wave: NDArray[Any], header: fits.Header, unit: Any) -> tuple[NDArray[np.float64], str]:
    """Wavelengths as vacuum Angstrom, and what the header said of them."""
    if unit is not None and unit.is_equivalent(u.AA):
        wave, note = wave * unit.to(u.AA), f"wavelengths in {unit}"
    else:
        note = "wavelengths taken as Angstrom (no unit stated)"
    said = text(header.get("AIRORVAC", "")).lower()
    axis = text(header.get("CTYPE1", "")).upper()
    if axis.startswith("AWAV") or said.startswith("air") or header.get("VACUUM") is False:
        return to_vacuum(wave), f"{note}, air converted to vacuum (Morton 2000)"
    stated = axis.startswith("WAVE") or said.startswith("vac") or header.get("VACUUM") is True or header.get("VACCUM") is True
    return wave, f"{note}, vacuum" + ("" if stated else " assumed (the header does not say)")


def _frame(header: fits.Header) -> tuple[str, ...]:
    said = text(header.get("SPECSYS", "")).upper()
    known = {"BARYCENT": "barycentric", "HELIOCEN": "heliocentric", "TOPOCENT": "of the observatory, not heliocentric"}
    return (f"wavelengths {known[said]}",) if said in known else ("rest frame not stated",)
