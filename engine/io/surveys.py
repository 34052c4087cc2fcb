"""The one table of surveys: bands, zero points, units, pixel scales, how to colour them, and where each number is from.

A `Band.zero_point` is the AB magnitude of one unit of the survey's pixels (Oke & Gunn 1983), so that
flux[nmgy] = value * 10**(0.4 * (22.5 - zero_point)). Effective wavelengths and widths (full width at half maximum) are
in Angstrom, computed from the published filter curves (speclite 0.20: DECam 2014, HSC 2017, SDSS 2010, LSST 2023,
WISE 2010, ...) unless the survey's `source` says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import numpy as np
from numpy.typing import ArrayLike, NDArray

SPECTRUM_UNIT = u.Unit("1e-17 erg / (s cm2 Angstrom)")
AB_ZERO_FLUX = 10 ** (-48.6 / 2.5) * 1e23  # Jy of AB magnitude zero: 3630.7805, so that 1 nmgy = 3630.78 nJy
MAGGIES = u.zero_point_flux(AB_ZERO_FLUX * u.Jy)  # as equivalency: maggies, Jy and AB magnitudes turn into one another
LUPTITUDE_SOFTENING = {"u": 1.4e-10, "g": 0.9e-10, "r": 1.2e-10, "i": 1.8e-10, "z": 7.4e-10}


def ab_unit(zero_point: float) -> u.UnitBase:
    """The flux of one count at this AB zero point, as a unit: (5 * ab_unit(27.0)).to(u.nmgy) works."""
    return u.nmgy if zero_point == 22.5 else u.Unit(10 ** (0.4 * (22.5 - zero_point)) * u.nmgy)


def nanojansky(value: ArrayLike, unit: u.UnitBase) -> NDArray[np.floating[Any]]:
    """Fluxes in maggies (of any scale) or Jy as nJy. Raises UnitConversionError for what is not a flux density."""
    return np.asarray((np.asarray(value) * u.Unit(unit)).to_value(u.nJy, MAGGIES))


@dataclass(frozen=True)
class Band:
    """One filter. wavelength, width: Angstrom; zero_point: AB magnitude of one unit, None where each file has its own."""

    name: str
    wavelength: float
    zero_point: float | None
    width: float


@dataclass(frozen=True)
class Survey:
    """One survey or instrument. pixel_scale: arcsec; rgb: bands, red first; stretch (in `unit`) and q: Lupton et al. 2004.

    `unit` is what a file of this survey holds when it does not say; `aliases` are other names people and headers use.
    """

    key: str
    title: str
    bands: Mapping[str, Band]
    unit: u.UnitBase | None
    pixel_scale: float | None
    rgb: tuple[str, ...]
    stretch: float
    q: float
    source: str
    aliases: tuple[str, ...] = field(default=())

    def nearest(self, wavelength: float) -> Band:
        """The band whose effective wavelength is nearest (in the logarithm) to this one in Angstrom. KeyError if none."""
        if not self.bands:
            raise KeyError(f"{self.key} has no bands")
        return min(self.bands.values(), key=lambda band: abs(np.log(band.wavelength / wavelength)))

    def band(self, name: str) -> Band:
        """The band of this name, in any spelling ("HSC-R2", "f115w", "i.MP9702"). Raises KeyError if there is none."""
        found = match_band(name, self.bands)
        if found is None:
            raise KeyError(f"{self.key} has no band {name!r}; it has {', '.join(self.bands) or 'none'}")
        return self.bands[found]


def match_band(name: str, bands: Mapping[str, Band]) -> str | None:
    """Which of `bands` a header's or file's name for a filter means, or None; exact case first ("y" is not "Y")."""
    text = str(name).strip()
    if text in bands:
        return text
    tokens = [t for t in re.split(r"[^A-Za-z0-9]+", text) if t]
    for token in tokens:
        if token in bands:
            return token
    lower = {key.lower(): key for key in bands}
    for token in tokens:
        if token.lower() in lower:
            return lower[token.lower()]
        if re.fullmatch(r"[ugrizy][0-9sp]", token.lower()) and token[0].lower() in lower:  # r2, gs, rp: same band, later
            return lower[token[0].lower()]
    return None


def _bands(names: str, wavelengths: str, widths: str, zero_points: str | float | None) -> dict[str, Band]:
    """Rows of blank-separated values, one a band; one zero point for all, one a band, or None."""
    keys = names.split()
    if isinstance(zero_points, str):
        zeros: list[float | None] = [float(z) for z in zero_points.split()]
    else:
        zeros = [zero_points] * len(keys)
    rows = zip(keys, wavelengths.split(), zeros, widths.split(), strict=True)
    return {key: Band(key, float(wave), zero, float(width)) for key, wave, zero, width in rows}


_WISE = ("W1 W2 W3 W4", "34003 46520 128103 223753", "7900 11000 86700 45500")
_DECAM = ("u g r i z Y", "3965 4890 6470 7848 9196 9893", "250 1290 1470 1470 1470 660")
_ELECTRONS = u.electron / u.s

_ALL = (
    Survey("legacy", "DESI Legacy Imaging Surveys",
           _bands(*_DECAM, 22.5) | _bands(*_WISE, 22.5), u.nmgy, 0.262, ("z", "r", "g"), 0.08, 8.0,
           "Dey et al. 2019, AJ 157, 168; legacysurvey.org/dr9/description: coadds in nanomaggies per pixel (AB)",
           ("decals", "legacysurvey", "legacysurveys", "legacy-survey", "ls", "ls-dr9", "ls-dr10", "mzls", "bass")),
    Survey("decam-exposure", "DECam community pipeline exposure",
           _bands(*_DECAM, None), None, 0.262, ("z", "r", "g"), 20.0, 8.0,
           "NOIRLab DECam Community Pipeline (Valdes et al. 2014): counts, zero point MAGZERO in each header",
           ("decam",)),
    Survey("hsc", "Hyper Suprime-Cam SSP",
           _bands("g r i z y", "4844 6259 7730 8912 9787", "1370 1490 1510 760 730", 27.0), ab_unit(27.0), 0.168,
           ("i", "r", "g"), 1.5, 8.0,
           "Aihara et al. 2018, PASJ 70, S8: coadds have the common zero point 27.0 (header FLUXMAG0 = 10**(0.4*27.0))",
           ("hyper suprime-cam", "subaru-hsc", "hsc-ssp", "pdr2", "pdr3")),
    Survey("sdss", "Sloan Digital Sky Survey",
           _bands("u g r i z", "3614 4749 6206 7526 8947", "500 1240 1140 1240 980", 22.5), u.nmgy, 0.396,
           ("i", "r", "g"), 0.3, 8.0,
           "Eisenstein et al. 2011, AJ 142, 72; data model of frame-*.fits: nanomaggies (u: AB minus 0.04, z: plus 0.02); "
           "spectra in 1e-17 erg/s/cm2/A, vacuum, heliocentric", ("boss", "eboss", "segue", "sdss-spectrum")),
    Survey("des", "Dark Energy Survey", _bands(*_DECAM, 30.0), ab_unit(30.0), 0.263, ("i", "r", "g"), 60.0, 8.0,
           "Abbott et al. 2021, ApJS 255, 20: coadds have the zero point MAGZERO = 30", ("des-dr2", "y6")),
    Survey("kids", "Kilo-Degree Survey",
           _bands("u g r i", "3550 4790 6270 7530", "460 1340 1300 1480", 0.0), ab_unit(0.0), 0.2,
           ("i", "r", "g"), 4e-11, 8.0,
           "Kuijken et al. 2019, A&A 625, A2; de Jong et al. 2015, A&A 582, A62: coadds have ZEROPNT = 0 (maggies); OmegaCAM",
           ("omegacam",)),
    Survey("cfhtls", "CFHT Legacy Survey",
           _bands("u g r i z", "3818 4824 6425 7721 9005", "655 1523 1453 1514 720", 30.0), ab_unit(30.0), 0.186,
           ("i", "r", "g"), 40.0, 8.0,
           "T0007 documentation (Hudelot et al. 2012), section 'stacks': zero point 30.0 (AB) after rescaling",
           ("megacam", "megaprime", "cfht")),
    Survey("jwst-nircam", "JWST NIRCam",
           _bands("F070W F090W F115W F150W F200W F277W F356W F410M F444W",
                  "7040 9010 11540 15010 19900 27860 35630 40920 44210",
                  "1280 1940 2250 3180 4610 6720 7870 4360 10240", None), u.MJy / u.sr, 0.03,
           ("F444W", "F277W", "F150W"), 0.1, 8.0,
           "JDox NIRCam filters (pivot wavelengths and bandwidths); JWST pipeline level 3 images and "
           "the CEERS mosaics of 0.03 arcsec are in MJy/sr; mosaics of other makers (10 nJy) say so in BUNIT; "
           "CEERS: Bagley et al. 2023, ApJL 946, L12", ("ceers", "nircam", "jwst", "jades", "cosmos-web", "primer")),
    Survey("hst-acs", "HST Advanced Camera for Surveys",
           _bands("F435W F475W F606W F775W F814W F850LP", "4330 4747 5922 7693 8046 9033", "940 1400 2340 1530 2500 2090",
                  "25.665 26.059 26.493 25.667 25.947 24.858"), _ELECTRONS, 0.03, ("F814W", "F606W", "F606W"), 0.05, 8.0,
           "ACS Data Handbook and Zeropoints Calculator (AB magnitude of 1 electron/s, WFC, epoch 2004); pivot wavelengths",
           ("acs", "hst", "cosmos-acs", "hubble", "aegis")),
    Survey("hst-wfc3", "HST Wide Field Camera 3, infrared",
           _bands("F105W F110W F125W F140W F160W", "10551 11534 12486 13923 15369", "2650 4430 2850 3840 2680",
                  "26.264 26.819 26.232 26.450 25.936"), _ELECTRONS, 0.06, ("F160W", "F125W", "F105W"), 0.05, 8.0,
           "WFC3 Instrument Handbook, table of photometric zero points (AB magnitude of 1 electron/s); pivot wavelengths",
           ("wfc3", "candels")),
    Survey("rubin", "Vera C. Rubin Observatory LSST",
           _bands("u g r i z y", "3746 4846 6249 7579 8691 9767", "463 1485 1399 1286 1040 862", 31.4), u.nJy, 0.2,
           ("i", "r", "g"), 150.0, 8.0,
           "Rubin Data Products Definition Document LSE-163: calibrated fluxes in nJy (zero point 31.4)",
           ("lsst", "dp0", "dp1", "rsp")),
    Survey("euclid", "Euclid",
           _bands("VIS Y J H", "7150 10809 13673 17714", "3640 2627 3994 4999", 23.9), u.uJy, 0.1, ("H", "Y", "VIS"),
           0.1, 8.0, "Euclid Collaboration: Schirmer et al. 2022, A&A 662, A92 (NISP centre and width); Mellier et al. 2025 "
           "(VIS); MER mosaics have MAGZERO = 23.9", ("euclid-vis", "euclid-nisp", "nisp")),
    Survey("panstarrs", "Pan-STARRS1 3pi",
           _bands("g r i z y", "4900 6241 7564 8690 9645", "1240 1400 1280 1020 620", None), None, 0.25,
           ("i", "r", "g"), 100.0, 8.0,
           "Waters et al. 2020, ApJS 251, 4: stacks are asinh-compressed (BOFFSET, BSOFTEN), zero point 25 + 2.5 lg EXPTIME",
           ("ps1", "pan-starrs", "pan-starrs1", "pan_starrs")),
    Survey("2mass", "Two Micron All Sky Survey",
           _bands("J H Ks", "12408 16514 21656", "2140 2470 2710", None), u.DN, 1.0, ("Ks", "H", "J"), 20.0, 8.0,
           "Skrutskie et al. 2006, AJ 131, 1163: counts, Vega zero point MAGZP in each header", ("twomass",)),
    Survey("unwise", "unWISE coadds of WISE",
           _bands(*_WISE, "25.199 25.839 27.674 29.120"), u.ct, 2.75, ("W2", "W2", "W1"), 30.0, 8.0,
           "Lang 2014, AJ 147, 108: Vega nanomaggies; AB = Vega + 2.699, 3.339, 5.174, 6.620 (Cutri et al. 2012)",
           ("wise", "neowise", "allwise")),
    Survey("galex", "Galaxy Evolution Explorer",
           _bands("FUV NUV", "1547 2343", "159 748", "18.82 20.08"), u.ct / u.s, 1.5, ("NUV", "NUV", "FUV"), 0.01, 8.0,
           "Morrissey et al. 2007, ApJS 173, 682: counts/s, AB zero points 18.82 and 20.08", ()),
    Survey("desi", "Dark Energy Spectroscopic Instrument", {}, SPECTRUM_UNIT, None, (), 1.0, 8.0,
           "DESI Collaboration 2024, AJ 168, 58 (EDR); data model: vacuum, barycentric, 1e-17 erg/s/cm2/A",
           ("desi-edr", "desi-dr1")),
    Survey("deimos", "Keck DEIMOS (DEEP2)", {}, u.ct, None, (), 1.0, 8.0,
           "Newman et al. 2013, ApJS 208, 5; spec1d: counts, wavelengths in air", ("deep2", "keck-deimos", "deep3")),
    Survey("lamost", "LAMOST", {}, None, None, (), 1.0, 8.0,
           "Luo et al. 2015, RAA 15, 1095: vacuum, heliocentric, relative flux calibration only", ()),
    Survey("gaia", "Gaia DR3",
           _bands("G BP RP", "6720 5320 7939", "4540 2650 2920", "25.8010 25.3540 25.1040"), _ELECTRONS, None, (), 1.0, 8.0,
           "Riello et al. 2021, A&A 649, A3 (AB zero points of 1 electron/s); De Angeli et al. 2023, A&A 674, A2 (XP)",
           ("gaia-dr3", "gaia-edr3", "gaiadr3")),
    Survey("ztf", "Zwicky Transient Facility",
           _bands("g r i", "4753 6369 7915", "1230 1490 1540", None), u.mag(u.AB), 1.01, ("i", "r", "g"), 30.0, 8.0,
           "Bellm et al. 2019, PASP 131, 018002; Masci et al. 2019: AB magnitudes, zero point MAGZP of each image", ()),
    Survey("snana", "SNANA light curves (any survey)",
           _bands("u g r i z y", "3700 4800 6250 7600 8900 9800", "600 1400 1400 1400 1200 900", 27.5), ab_unit(27.5), None,
           (), 1.0, 8.0, "Kessler et al. 2009, PASP 121, 1028: FLUXCAL has the zero point 27.5; "
           "wavelengths nominal, they depend on the survey", ("fluxcal",)),
)

SURVEYS: dict[str, Survey] = {survey.key: survey for survey in _ALL}


def find_survey(name: str) -> Survey | None:
    """The survey of this key, title or alias, upper and lower case alike; None if it is not in the table."""
    wanted = str(name).strip().lower().replace("_", "-")
    for survey in _ALL:
        if wanted in (survey.key, survey.title.lower(), *survey.aliases):
            return survey
    return None


def nanomaggies_per_unit(survey: str, band: str, unit: u.UnitBase | None = None,
                         pixel_scale: float | None = None) -> float | None:
    """How many nanomaggies one unit of a pixel is, or None where that cannot be known.

    unit: of the pixels (the survey's own if None); a surface brightness needs pixel_scale in arcsec.
    Raises KeyError for an unknown survey.
    """
    row = SURVEYS[survey]
    unit = row.unit if unit is None else u.Unit(unit)
    if unit is None:
        return None
    if unit.is_equivalent(u.Jy, MAGGIES):
        return float(unit.to(u.nmgy, equivalencies=MAGGIES))
    if unit.is_equivalent(u.Jy / u.sr) and pixel_scale is not None:
        pixel = ((pixel_scale * u.arcsec) ** 2).to_value(u.sr)
        return float((unit * u.sr).to(u.nmgy, equivalencies=MAGGIES)) * pixel
    found = match_band(band, row.bands)
    zero = row.bands[found].zero_point if found is not None else None
    return None if zero is None or unit != row.unit else 10 ** (0.4 * (22.5 - zero))


def luptitudes_to_nanomaggies(magnitude: ArrayLike, band: str) -> NDArray[np.floating[Any]]:
    """SDSS asinh magnitudes as fluxes in nmgy, negative ones too (Lupton, Gunn & Szalay 1999, AJ 118, 1406, eq. 3).

    m = -2.5/ln 10 [asinh(f / 2b) + ln b] with f in maggies. Raises KeyError for a band without softening b.
    """
    b = LUPTITUDE_SOFTENING[band]
    x = np.asarray(magnitude, dtype=float) * (-np.log(10) / 2.5) - np.log(b)
    return 2e9 * b * np.sinh(x)


def nanomaggies_to_luptitudes(flux: ArrayLike, band: str) -> NDArray[np.floating[Any]]:
    """The inverse of `luptitudes_to_nanomaggies`: flux in nmgy of either sign as an SDSS asinh magnitude."""
    b = LUPTITUDE_SOFTENING[band]
    return -2.5 / np.log(10) * (np.arcsinh(np.asarray(flux, dtype=float) / (2e9 * b)) + np.log(b))
