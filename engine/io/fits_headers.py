"""What the headers of survey images mean: survey, band, unit and zero point, coordinates, bad-pixel bits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame

from engine.io.fits_files import number, quiet, text
from engine.io.surveys import SURVEYS, ab_unit, find_survey, match_band
from engine.io.units import clean_unit

# What headers write -> our survey, first match wins; looked for in SURVEY, then telescope and instrument keywords.
_SURVEY_WORDS = (
    ("cfhtls", "cfhtls"), ("canada-france-hawaii legacy", "cfhtls"), ("decals", "legacy"), ("mzls", "legacy"),
    ("legacysurvey", "legacy"), ("legacy survey", "legacy"), ("unwise", "unwise"), ("wise", "unwise"), ("galex", "galex"),
    ("2mass", "2mass"), ("sdss", "sdss"), ("kids", "kids"), ("ps1", "panstarrs"), ("pan-starrs", "panstarrs"),
    ("euclid", "euclid"), ("hsc", "hsc"), ("lsst", "rubin"), ("ceers", "jwst-nircam"),
)
_INSTRUMENT_WORDS = (
    ("omegacam", "kids"), ("hyper suprime", "hsc"), ("hsc", "hsc"),
    ("nircam", "jwst-nircam"), ("wfc3", "hst-wfc3"), ("acs", "hst-acs"), ("galex", "galex"), ("wise", "unwise"),
    ("2mass", "2mass"), ("gpc1", "panstarrs"), ("ps1", "panstarrs"), ("ztf", "ztf"), ("lsst", "rubin"),
    ("euclid", "euclid"), ("nisp", "euclid"), ("sdss", "sdss"), ("decam", "decam-exposure"),
)
_TELESCOPES = ("hst", "jwst")  # in a file's name they do not say with which of their cameras
_BAND_KEYS = ("BAND", "FILTER", "FILT_ID", "FILTNAM", "FILTNAME", "FILTERID", "PASSBAND", "BANDNAME", "FILTER1", "FILTER2",
              "HIERARCH FPA.FILTER", "HIERARCH FPA.FILTERID", "FPA.FILTER", "FPA.FILTERID", "INSFILTE", "PUPIL")
_BAND_ALIASES: Mapping[str, Mapping[str, str]] = {
    "hst-acs": {"b": "F435W", "v": "F606W", "i": "F814W", "z": "F850LP"},
    "hst-wfc3": {"j": "F125W", "h": "F160W", "y": "F105W"},
    "2mass": {"k": "Ks", "k_s": "Ks"},
    "unwise": {"1": "W1", "2": "W2", "3": "W3", "4": "W4"},
    "galex": {"1": "NUV", "2": "FUV", "nd": "NUV", "fd": "FUV"},
}
_ANY_BAND = re.compile(r"[ugrizyY]|[uvgrizy]p?|[UBVRIJHK]|Ks|W[1-4]|[NF]UV|VIS|[fF]\d{3,4}[wWmMnNlLpP]{1,2}")
# Bits of HSC and Rubin mask planes (header MP_<name>) that mean the pixel's value is wrong; DETECTED and the like do not.
_BAD_PLANES = ("BAD", "SAT", "CR", "NO_DATA", "SUSPECT", "UNMASKEDNAN")


@dataclass(frozen=True)
class Calibration:
    """unit of the pixels, None if unknown; calibrated: whether they can be turned into a flux; note: for the history."""

    unit: u.UnitBase | None
    calibrated: bool
    note: str


def survey_of(headers: list[fits.Header], path: Path, asked: str | None) -> tuple[str | None, str]:
    """(key of the survey or None, how it is known): asked for, from the headers, else from the file's name."""
    if asked:
        found = find_survey(asked)
        return (found.key if found else asked), "as asked for"
    for keys, words in ((("SURVEY", "LEGPIPEV"), _SURVEY_WORDS),
                        (("INSTRUME", "TELESCOP", "ORIGIN", "CAMERA"), _INSTRUMENT_WORDS)):
        for header in headers:
            said = " ".join(text(header.get(key, "")) for key in keys).lower()
            for word, key in words:
                if word in said:
                    return _which_decam(key, headers), "from the header"
    if any(text(h.get("FILTER", "")).startswith("HSC-") for h in headers):
        return "hsc", "from the header's FILTER"
    if any("MP_DETECTED" in h and "FLUXMAG0" in h for h in headers):
        return "hsc", "from the header's mask planes and FLUXMAG0"
    if any("BANDS" in h and "BAND0" in h for h in headers):
        return "legacy", "from the header's BANDS, as the Legacy Surveys viewer writes it"
    for token in [*re.split(r"[^a-z0-9]+", path.name.lower()), path.stem.lower()]:
        found = find_survey(token) if len(token) > 2 and token not in _TELESCOPES else None
        if found:
            return found.key, "from the file's name"
    return None, "unknown"


def _which_decam(key: str, headers: list[fits.Header]) -> str:
    """DECam pixels are a single exposure, or a coadd of the Dark Energy Survey."""
    if key == "decam-exposure" and any("DESFNAME" in h or "tile" in text(h.get("FILETYPE", "")).lower() or "coadd" in
                                       text(h.get("FILETYPE", "")).lower() for h in headers):
        return "des"
    return key


def known_band(name: str, survey: str | None) -> str | None:
    """The survey's own name for a band; for an unknown survey, the word itself if it is a band's name anywhere."""
    row = SURVEYS.get(survey or "")
    if row is None or not row.bands:
        tokens = [t for t in re.split(r"[^A-Za-z0-9]+", name) if t]
        return next((t for t in tokens if _ANY_BAND.fullmatch(t)), None)
    found = match_band(name, row.bands)
    if found is None:
        aliases = _BAND_ALIASES.get(row.key, {})
        tokens = [name.strip().lower(), *re.split(r"[^a-z0-9]+", name.lower())]
        found = next((aliases[t] for t in tokens if t in aliases), None)
    return found


def band_of(headers: list[fits.Header], survey: str | None) -> str | None:
    """The band a header names, or None. An instrument's own name that the survey's table lacks is kept as it is."""
    unknown = None
    for header in headers:
        for key in _BAND_KEYS:
            said = text(header.get(key, ""))
            if not said or said.upper().startswith(("CLEAR", "OPEN", "N/A", "NONE")):
                continue
            found = known_band(said, survey)
            if found:
                return found
            if re.fullmatch(r"[A-Za-z][\w.+-]{0,15}", said):
                unknown = unknown or said
        name = text(header.get("EXTNAME", ""))
        if name and survey in SURVEYS and len(name) > 1 and known_band(name, survey) and not unknown:
            return known_band(name, survey)
        if name and len(name) == 1 and known_band(name.lower(), survey):
            return known_band(name.lower(), survey)
    return unknown


def band_in_name(stem: str, survey: str | None) -> tuple[str, str] | None:
    """(token, band) of the last word of a file's name that is a band, or None. "ceers_f115w_10983" -> ("f115w", "F115W")."""
    subaru = re.search(r"HSC-([GRIZY])\d?(?![A-Za-z0-9])", stem)  # HSC's own way to name filters, the only capitals
    if subaru:
        return subaru[0], subaru[1].lower()
    for token in reversed([t for t in re.split(r"[^A-Za-z0-9]+", stem) if t]):
        if token.isdigit():
            continue
        if _ANY_BAND.fullmatch(token) or token.lower() in ("v", "i", "b", "nuv", "fuv", "w1", "w2", "w3", "w4", "vis"):
            found = known_band(token, survey)
            if found:
                return token, found
    return None


def zero_point(headers: list[fits.Header], survey: str | None) -> tuple[float, str] | None:
    """(AB magnitude of one unit of the pixels, the header's words for it), or None. Vega zero points are not taken.

    MAGZPT is one: that of the Cambridge pipeline for WFCAM, VIRCAM and INT, and for one second at that.
    """
    for header in headers:
        flux0 = number(header.get("FLUXMAG0"))
        if flux0 is not None and flux0 > 0:
            return 2.5 * np.log10(flux0), f"FLUXMAG0 = {flux0:g}"
        if survey == "panstarrs":
            exposure = number(header.get("EXPTIME"))
            if exposure:
                return 25.0 + 2.5 * np.log10(exposure), f"25 + 2.5 lg EXPTIME ({exposure:g} s)"
        if survey in ("2mass", "unwise"):
            continue
        for key in ("MZP_AB", "ABMAGZP", "MAGZERO", "MAGZP", "ZEROPNT", "ZP", "PHOTZP", "SIMPLE_ZP"):
            value = number(header.get(key))
            if value is not None and (10.0 < value < 40.0 or (value == 0.0 and survey == "kids" and key == "ZEROPNT")):
                return value, f"{key} = {value:g}"
        flam, plam = number(header.get("PHOTFLAM")), number(header.get("PHOTPLAM"))
        if flam and plam and flam > 0 and plam > 0:  # STScI: AB zero point from PHOTFLAM and the pivot wavelength
            return -2.5 * np.log10(flam) - 21.10 - 5 * np.log10(plam) + 18.6921, "PHOTFLAM, PHOTPLAM"
    return None


def calibration(headers: list[fits.Header], survey: str | None, band: str | None, whole: bool = False,
                scaled: bool = False) -> Calibration:
    """The unit of an image's pixels: BUNIT, a zero point in the header, else the survey's own, "assumed"; None if unknown.

    whole: the pixels are whole numbers, as a detector counts them; what a survey's coadds hold is not assumed of them.
    scaled: every band was divided by its own mean; nor of these.
    """
    row = SURVEYS.get(survey or "")
    known = row.bands.get(band or "") if row is not None else None
    said = next((text(h["BUNIT"]) for h in headers if text(h.get("BUNIT", ""))), "")
    unit = clean_unit(said.lower() if said.upper() == said and len(said) > 1 else said) if said else None
    if unit is None and said:
        unit = clean_unit(said)
    zero = zero_point(headers, survey)
    if unit is not None and (unit.is_equivalent(u.Jy) or unit.is_equivalent(u.Jy / u.sr) or unit.is_equivalent(u.nmgy)
                             or unit.is_equivalent(u.Unit("erg / (s cm2 Angstrom)"))):
        return Calibration(unit, True, f"unit {unit} from BUNIT")
    per_second = row is not None and row.unit is not None and row.unit.is_equivalent(u.electron / u.s)
    if zero is not None and not per_second:
        return Calibration(ab_unit(zero[0]), True, f"counts of AB zero point {zero[0]:.4f} ({zero[1]})")
    if unit is not None:
        has_zero = zero is not None or (row is not None and unit == row.unit and known is not None
                                        and known.zero_point is not None)
        note = f"unit {unit} from BUNIT" + (f", AB zero point {zero[0]:.4f} ({zero[1]})" if zero else "")
        return Calibration(unit, has_zero, note)
    if unit is None and zero is None and any(number(h.get("FLUXMAG0")) == 0 for h in headers):
        return Calibration(None, False, "unit unknown: FLUXMAG0 = 0, the exposure was not calibrated")
    if whole and row is not None and row.unit not in (None, u.ct, u.adu, u.DN):
        return Calibration(None, False, f"unit unknown: whole numbers are not the {row.unit} of {row.title}, and no BUNIT")
    if scaled:
        return Calibration(None, False, "unit unknown: every band has the mean 1, so each was divided by its own, and no BUNIT")
    if row is not None and row.unit is not None:
        why = f"no BUNIT{f' that is understood ({said!r})' if said else ''} in the header"
        usable = row.unit.is_equivalent(u.nmgy) or row.unit.is_equivalent(u.Jy) or row.unit.is_equivalent(u.Jy / u.sr) or (
            known is not None and known.zero_point is not None)
        return Calibration(row.unit, usable, f"unit assumed: {row.unit} as in {row.title} ({why})")
    return Calibration(None, False, "unit unknown: the header names none" if not said else f"unit {said!r} is not understood")


def wcs_of(header: fits.Header) -> tuple[WCS | None, str]:
    """(celestial WCS or None, what to say about it). TAN, TPV, SIP and all that astropy knows."""
    if not any(str(header.get(f"CTYPE{i}", "")).strip() for i in (1, 2)):
        return None, "no WCS in the header"
    try:
        with quiet():
            wcs = WCS(header, relax=True)
            if not wcs.has_celestial:
                return None, "the header's WCS is not on the sky"
            wcs = wcs.celestial
            wcs_to_celestial_frame(wcs)  # raises for the Sun and the planets
            ny, nx = wcs.array_shape or (1, 1)
            corner = wcs.pixel_to_world_values([0.0, nx - 1.0], [0.0, ny - 1.0])
            step = np.linalg.det(wcs.pixel_scale_matrix)
    except Exception as problem:
        return None, f"the header's WCS is not usable ({' '.join(str(problem).split())[:80]})"
    if not np.all(np.isfinite(corner)) or not np.isfinite(step) or step == 0:
        return None, "the header's WCS is singular"
    return wcs, f"WCS {wcs.wcs.ctype[0].strip()[-3:]}"


def bad_bits(header: fits.Header, survey: str | None) -> int | None:
    """Which bits of a mask plane mean a bad pixel; None: any bit."""
    planes = {key[3:]: header[key] for key in header if key.startswith("MP_") and isinstance(header[key], int)}
    if planes:
        return int(sum(1 << int(planes[name]) for name in _BAD_PLANES if name in planes and 0 <= planes[name] < 31))
    if survey == "jwst-nircam" or text(header.get("TELESCOP", "")).upper() == "JWST":
        return 1  # DO_NOT_USE (JWST data quality flags)
    return None


def made_up(headers: list[fits.Header]) -> list[str]:
    """The line of history of pixels or rows that a model generated (GENERATED = T), else none."""
    for header in headers:
        if header.get("GENERATED") is True:
            said = text(header.get("MADE_BY", ""))
            return [said if said.startswith("generated by ") else f"generated by {said or 'an unknown model'}"]
    return []
