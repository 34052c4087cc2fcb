"""Spectra that FITS files keep as rows of pixels: one with a WCS, FLUX and WAVE planes, IRAF's orders, the fibres of 2dF.

What a further row means is known where there is a plane of wavelengths, a table of fibres or IRAF's word for it; else it is
left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from engine.io import iraf, parts
from engine.io.errors import ReadError
from engine.io.fits_axes import frame, header_axis, header_position, in_vacuum, make, unit_of
from engine.io.fits_files import columns_of, is_table, name_of, native, pixels_of, rows_of, shape_of, text
from engine.io.surveys import find_survey
from engine.io.units import clean_unit, is_flux
from engine.objects import Scalar, SkyObject, Spectrum

MIN_PIXELS = 10
_SPECTRAL = re.compile(r"(WAVE|AWAV|LAMB|LINEAR|LOG)[^/]*")
_OWN = re.compile(r"(WAVE|AWAV|LAMB|LOG)[^/]*")  # LINEAR alone says nothing of a plane: detectors have linear axes too
_NOISE = (("ivar", r"IVAR|INVVAR"), ("variance", r"VAR(IANCE)?|STAT"),
          ("sigma", r"ERR(OR)?S?|SIGMA|NOISE|UNCERT(AINTY)?|STD(DEV)?"))


def is_spectra(hdu: Any, hdus: fits.HDUList) -> bool:
    """Whether the rows of an image HDU are spectra."""
    shape = shape_of(hdu)
    if not shape or shape[-1] < MIN_PIXELS:
        return False
    header = hdu.header
    if iraf.is_multispec(header) or (name_of(hdu) == "FLUX" and _wave_hdu(hdus, hdu) is not None):
        return True
    axis, others = text(header.get("CTYPE1", "")).upper(), int(np.prod(shape[:-1]))
    calibrated = "COEFF0" in header or text(header.get("DC-FLAG", "")) not in ("", "-1")
    if "CRVAL1" not in header and "COEFF0" not in header:
        return False
    if others > 1:
        named = bool(_OWN.fullmatch(axis)) or calibrated
        return named and (others <= 16 or _fibres(hdus, others) is not None)
    return bool(_SPECTRAL.fullmatch(axis)) or calibrated or not axis


def objects_of(path: Path, hdus: fits.HDUList, survey: str | None) -> Iterator[SkyObject]:
    """The objects of the file's first HDU of spectra. Raises ReadError if none has a usable pixel."""
    hdu = next(h for h in hdus if is_spectra(h, hdus))
    data = pixels_of(path, hdu)
    if iraf.is_multispec(hdu.header):
        yield from _multispec(path, hdu, data, survey)
        return
    rows = data.reshape(-1, data.shape[-1])
    fibres = _fibres(hdus, len(rows))
    if fibres is not None:
        yield from _of_fibres(path, hdus, hdu, rows, fibres, survey)
        return
    beside = _wave(path, hdus, hdu, 0, False)
    for i, row in enumerate(rows if beside else rows[:1]):
        wave, how = _wave(path, hdus, hdu, i, False) or header_axis(path, hdu.header, rows.shape[1])
        ivar, mask = _noise(path, hdus, hdu, i)
        if ivar is None and _sigma_band(hdu.header) is not None and len(rows) > (at := _sigma_band(hdu.header) or 0):
            ivar = inverse(rows[at], "sigma")
        made = _spectrum(path, hdu, wave, row, ivar, mask, survey, how)
        further = (f"{len(rows) - 1} further rows left out",) if len(rows) > 1 and not beside else ()
        yield _object(parts.stem(path) if len(rows) == 1 or not beside else f"{parts.stem(path)}-{i + 1}", hdu.header, (made,),
                      (f"{path.name}: 1-D spectrum", *further))


def _spectrum(path: Path, hdu: Any, wave: Any, flux: Any, ivar: Any, mask: Any, survey: str | None, how: str) -> Spectrum:
    unit = clean_unit(text(hdu.header.get("BUNIT", "")))
    found = find_survey(survey) if survey else None
    return make(path, wave, flux, ivar, mask, survey=found.key if found else survey, unit=unit,
                calibrated=is_flux(unit),
                history=(f"{path.name} HDU {name_of(hdu) or 0}", how, frame(hdu.header)))


def _object(id: str, header: fits.Header, spectra: tuple[Spectrum, ...], history: tuple[str, ...]) -> SkyObject:
    z, name = parts.redshift(header.get("Z", header.get("REDSHIFT"))), text(header.get("OBJECT", ""))
    scalars = {"z": z, "object": Scalar(name) if name else None}
    return SkyObject(id, header_position(header), spectra=spectra, scalars={n: s for n, s in scalars.items() if s is not None},
                     history=history)


def _wave(path: Path, hdus: fits.HDUList, hdu: Any, row: int, air: bool) -> tuple[NDArray[np.float64], str] | None:
    """The wavelengths that an HDU beside gives for a row, and how; None if there is none."""
    other = _wave_hdu(hdus, hdu)
    if other is None:
        return None
    values = pixels_of(path, other).reshape(-1, shape_of(hdu)[-1])
    said = other.header if {"AIRORVAC", "VACUUM"} & set(other.header) else hdu.header
    return in_vacuum(path, values[min(row, len(values) - 1)].astype(float), said,
                     clean_unit(text(other.header.get("BUNIT", ""))), air)


def _wave_hdu(hdus: fits.HDUList, hdu: Any) -> Any:
    """The HDU that holds the wavelengths of these fluxes, one for all rows or one a row; None if there is none."""
    shapes = (shape_of(hdu), shape_of(hdu)[-1:])
    return next((h for h in hdus if name_of(h) in ("WAVE", "WAVELENGTH", "LAMBDA") and shape_of(h) in shapes), None)


def _noise(path: Path, hdus: fits.HDUList, hdu: Any, row: int) -> tuple[Any, Any]:
    """(ivar, mask) of a row from the HDUs beside that have the shape of the fluxes."""
    ivar, mask, shape = None, None, shape_of(hdu)
    for other in hdus:
        if other is hdu or shape_of(other) != shape:
            continue
        name = name_of(other)
        values = pixels_of(path, other).reshape(-1, shape[-1])[row]
        kind = next((k for k, pattern in _NOISE if re.fullmatch(pattern, name)), None)
        if kind is not None and ivar is None:
            ivar = values if kind == "ivar" else inverse(values, kind)
        elif re.fullmatch(r"(BAD)?MASK|DQ|FLAGS?", name):
            mask = values != 0
    return ivar, mask


def inverse(values: NDArray[Any], kind: str) -> NDArray[np.float64]:
    """Inverse variances from variances or sigmas, 0 where there is none."""
    values = np.asarray(values, float)
    with np.errstate(all="ignore"):
        return np.where(np.isfinite(values) & (values > 0), 1.0 / (values if kind == "variance" else values**2), 0.0)


# -- IRAF -----------------------------------------------------------------------------------------------------------

def _sigma_band(header: fits.Header) -> int | None:
    """Which plane holds the errors by its BANDIDn, as apall writes them; counted from 0."""
    return next((int(k[6:]) - 1 for k in header if re.fullmatch(r"BANDID\d+", k)
                 and text(header[k]).lower().startswith("sigma")), None)


def _multispec(path: Path, hdu: Any, data: NDArray[Any], survey: str | None) -> Iterator[SkyObject]:
    """The orders of an echelle as the spectra of one object; apertures of the same wavelengths as an object each."""
    header = hdu.header
    bands = data.reshape(-1, *data.shape[-2:]) if data.ndim > 1 else data[None, None]
    waves = iraf.wavelengths(path, header, data.shape[-1])
    sigma = _sigma_band(header)
    spectra: list[tuple[int, Spectrum]] = []
    for i, (wave, flux) in enumerate(zip(waves, bands[0], strict=False)):
        ivar = inverse(bands[sigma][i], "sigma") if sigma is not None and sigma < len(bands) else None
        if wave is None or not np.isfinite(flux[np.isfinite(wave)]).any():
            continue
        found, how = in_vacuum(path, wave, header, unit_of(header))
        spectra.append((i, _spectrum(path, hdu, found, flux, ivar, None, survey, f"row {i + 1} of IRAF multispec, {how}")))
    if not spectra:
        raise ReadError(path, "holds no spectrum with a finite flux; leave it out")
    note = f"{path.name}: {len(waves)} rows of IRAF multispec"
    if len(spectra) == 1 or not _same_range(spectra[0][1], spectra[1][1]):
        yield _object(parts.stem(path), header, tuple(s for _, s in spectra), (note,))
        return
    for i, spectrum in spectra:
        name = text(header.get(f"APID{i + 1}", ""))
        one = SkyObject(f"{parts.stem(path)}-{i + 1}", spectra=(spectrum,), scalars={"object": Scalar(name)} if name else {},
                        history=(note, "an aperture each; no position: the header's is that of the field"))
        yield one


def _same_range(a: Spectrum, b: Spectrum) -> bool:
    """Whether two spectra cover mostly the same wavelengths."""
    shared = min(a.wavelength[-1], b.wavelength[-1]) - max(a.wavelength[0], b.wavelength[0])
    return bool(shared > 0.8 * max(np.ptp(a.wavelength), np.ptp(b.wavelength)))


# -- fibres ---------------------------------------------------------------------------------------------------------

def _fibres(hdus: fits.HDUList, count: int) -> Any:
    """The table of fibres beside `count` rows: NAME, RA, DEC (radians) and TYPE, as the pipeline of 2dF and AAOmega writes."""
    needed = {"name", "ra", "dec", "type"}
    return next((h for h in hdus if is_table(h) and rows_of(h) == count and needed <= set(columns_of(h))), None)


def _of_fibres(path: Path, hdus: fits.HDUList, hdu: Any, rows: NDArray[Any], table: Any, survey: str | None
               ) -> Iterator[SkyObject]:
    """An object a fibre that was on a target (TYPE P). Wavelengths are air unless VACUUM says otherwise (2dfdr)."""
    names = columns_of(table)
    kinds = [text(v) for v in table.data[names["type"]]]
    targets = [i for i, k in enumerate(kinds) if k == "P" and np.isfinite(rows[i]).any()]
    if not targets:
        raise ReadError(path, f"holds {len(kinds)} fibres, none of them on a target (TYPE P); choose another file")
    ra, dec = (native(table.data[names[n]]).astype(float) for n in ("ra", "dec"))
    unit = clean_unit(table.columns[names["ra"]].unit) or u.rad
    left = len(kinds) - len(targets)
    notes = (f"{left} fibres that are on the sky, guide stars or nothing left out",) if left else ()
    for i in targets:
        wave, how = _wave(path, hdus, hdu, i, True) or header_axis(path, hdu.header, rows.shape[1], air=True)
        ivar, mask = _noise(path, hdus, hdu, i)
        made = _spectrum(path, hdu, wave, rows[i], ivar, mask, survey, how)
        name = text(table.data[names["name"]][i])
        place = parts.position((ra[i] * unit).to_value(u.deg), (dec[i] * unit).to_value(u.deg))
        yield SkyObject(name or f"{parts.stem(path)}-{i + 1}", place, spectra=(made,),
                        history=(f"{path.name}: fibre {i + 1}", *notes))
