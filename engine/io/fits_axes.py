"""The wavelength axis of FITS spectra: linear, logarithmic, in which unit, air or vacuum, in which rest frame."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import Angle, SkyCoord
from astropy.io import fits
from numpy.typing import NDArray

from engine.io import iraf, parts
from engine.io.errors import ReadError
from engine.io.fits_files import native, number, text
from engine.io.tablespectra import scaled, to_vacuum
from engine.io.units import clean_unit
from engine.objects import Spectrum


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


def header_position(header: fits.Header) -> SkyCoord | None:
    """RA and DEC of a header, degrees or sexagesimal hours and degrees; None if there are none."""
    ra, dec = header.get("RA", header.get("PLUG_RA")), header.get("DEC", header.get("PLUG_DEC"))
    if isinstance(ra, str) and ":" in ra:
        try:
            ra, dec = Angle(ra, u.hourangle).deg, Angle(str(dec), u.deg).deg
        except (ValueError, u.UnitsError):
            return None
    return parts.position(ra, dec)


def header_axis(path: Path, header: fits.Header, count: int, air: bool = False) -> tuple[NDArray[np.float64], str]:
    """Wavelengths in vacuum Angstrom of a linear or logarithmic first axis (Greisen et al. 2006, A&A 446, 747)."""
    kind = text(header.get("CTYPE1", "")).upper()
    if re.fullmatch(r".{4}-(TAB|GRI|GRA|F2W|V2W)", kind):
        raise ReadError(path, f"has a wavelength axis of kind {kind}, which is not read; save a table of wavelength and flux")
    start, step = number(header.get("CRVAL1")), number(header.get("CD1_1", header.get("CDELT1")))
    if "COEFF0" in header and "COEFF1" in header:
        start, step = number(header["COEFF0"]), number(header["COEFF1"])
    if start is None or step is None or step == 0:
        raise ReadError(path, "has no wavelength axis (CRVAL1 and CDELT1); add it, or save a table of wavelength and flux")
    first = number(header.get("CRPIX1"))
    pixel = np.arange(count) + 1.0 - (1.0 if first is None else first)
    unit = unit_of(header)
    if unit is None and start >= 900 and (kind == "LINEAR" or "DC-FLAG" in header):
        unit = u.AA  # IRAF's default
    values = start * np.exp(step * pixel / start) if kind.endswith("-LOG") else start + step * pixel
    logarithmic = not kind.endswith("-LOG") and (
        text(header.get("DC-FLAG", "")) == "1" or "COEFF0" in header or kind.startswith("LOG")
        or (unit is None and 2.5 < start < 6 and abs(step) < 0.01))
    return in_vacuum(path, 10.0**values if logarithmic else values, header, u.AA if logarithmic else unit, air)


def unit_of(header: fits.Header) -> Any:
    """The unit of the first axis: CUNIT1, or in brackets behind CTYPE1 ("WAVELENGTH [Ang]"), or IRAF's; None if unknown."""
    in_name = re.search(r"[\[(](\w+)[\])]", text(header.get("CTYPE1", "")))
    return clean_unit(text(header.get("CUNIT1", "")) or (in_name[1] if in_name else "") or iraf.unit_of(header))


def in_vacuum(path: Path, wave: NDArray[Any], header: fits.Header, unit: Any, air: bool = False
              ) -> tuple[NDArray[np.float64], str]:
    """Wavelengths as vacuum Angstrom, and what the header said of them. air: what they are if the header does not say."""
    wave, note = scaled(path, wave, unit)
    said = text(header.get("AIRORVAC", "")).lower()
    kind = re.split(r"[^A-Z]", text(header.get("CTYPE1", "")).upper())[0]  # FITS's WAVE is vacuum; "WAVELENGTH" says nothing
    vacuum = next((v for v in (header.get("VACUUM"), header.get("VACCUM")) if v in (True, False, "T", "F")), None)
    if kind == "WAVE" or said.startswith("vac") or vacuum in (True, "T"):
        return wave, f"{note}, vacuum"
    if kind == "AWAV" or said.startswith("air") or vacuum in (False, "F"):
        return to_vacuum(wave), f"{note}, air converted to vacuum (Morton 2000)"
    if air:
        return to_vacuum(wave), f"{note}, air assumed as is usual there and converted to vacuum (Morton 2000)"
    return wave, f"{note}, vacuum assumed (the header does not say)"


def frame(header: fits.Header) -> str:
    """What the header says of the rest frame of its wavelengths."""
    said = text(header.get("SPECSYS", "")).upper()
    known = {"BARYCENT": "barycentric", "HELIOCEN": "heliocentric", "TOPOCENT": "of the observatory, not heliocentric"}
    return f"wavelengths {known[said]}" if said in known else "rest frame not stated"
