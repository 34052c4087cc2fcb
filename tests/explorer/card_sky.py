"""A small sky for the card and the strip: each object's image and spectrum are known, and so are its neighbours."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.time import Time
from astropy.wcs import WCS

from engine import maps
from engine.embeddings import Embeddings
from engine.io.surveys import SPECTRUM_UNIT, SURVEYS
from engine.objects import Image, LightCurve, Scalar, SkyObject, Spectrum
from engine.store import Store

GALAXIES = 24  # rows 0 to 23; then one with nothing, two sightings of one at the same place, one without an image
NASTY = "<img src=x onerror=document.title='broken'>"


def redshift(i: int) -> float:
    return 0.02 + 0.01 * i


def position(i: int) -> SkyCoord:
    return SkyCoord(150 + 0.1 * i, 2, unit="deg")


def image(i: int, survey: str, bands: str, scale: float, brightness: float) -> Image:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150 + 0.1 * i, 2], [24.5, 24.5]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    y, x = np.indices((48, 48)) - 23.5
    light = brightness * np.exp(-(x**2 + y**2) / (2 * (3 + i % 5) ** 2))
    noise = np.random.default_rng(i).normal(0, brightness / 60, (len(bands), 48, 48))
    pixels = light * (1 + 0.1 * np.arange(len(bands)))[:, None, None] + noise
    return Image(pixels.astype(np.float32), tuple(bands), survey, wcs, SURVEYS[survey].unit)


def spectrum(i: int, survey: str, wave: np.ndarray) -> Spectrum:
    flux = 1 + 9 * np.exp(-0.5 * ((wave / (1 + redshift(i)) - 6564.61) / 4) ** 2)
    flux += np.random.default_rng(i).normal(0, 0.1, len(wave))
    return Spectrum(wave, flux.astype(np.float32), np.full(len(wave), 100, np.float32), None, 3000.0, survey, SPECTRUM_UNIT)


def galaxy(i: int) -> SkyObject:
    spectra = [spectrum(i, "desi", 3600 + 0.8 * np.arange(7781))]
    if i == 1:
        spectra.append(spectrum(i, "sdss", 10 ** (3.58 + 1e-4 * np.arange(3800))))
    curve = LightCurve(Time([58000.0, 58010, 58020], format="mjd"), np.array([18.0, 17.0, 18.5]), np.full(3, 0.1), "g", u.ABmag)
    scalars = {"z": Scalar(redshift(i), 1.2e-5), "class": Scalar(NASTY if i == 2 else "galaxy"),
               "mag_r": Scalar(18.0 + 0.1 * i, 0.013, u.ABmag), "log_mstar": Scalar(10.5, 0.1, u.dex(u.Msun))}
    pictures = (image(i, "legacy", "grz", 0.262, 1.0), image(i, "hsc", "grizy", 0.168, 30.0))
    return SkyObject(f"galaxy-{i:02d}", position(i), pictures, tuple(spectra), (curve,) if i == 1 else (), scalars,
                     history=(NASTY if i == 2 else f"drawn for a test, number {i}",))


def vectors() -> tuple[np.ndarray, np.ndarray]:
    """On a circle: an image's nearest images lie beside it, its nearest spectra a quarter further on."""
    angle = 2 * np.pi * np.arange(GALAXIES) / GALAXIES
    image = np.stack([np.cos(angle), np.sin(angle)] + [np.zeros(GALAXIES)] * 6, 1)
    spectrum = np.stack([np.cos(angle - np.pi / 2), np.sin(angle - np.pi / 2)] + [np.zeros(GALAXIES)] * 6, 1)
    none = np.full(8, np.nan)
    return (np.stack([*image, none, image[0], image[0], none]).astype(np.float32),
            np.stack([*spectrum, none, spectrum[0], spectrum[0], spectrum[3]]).astype(np.float32))


def build(path: Path) -> Path:
    """The sky, with vectors and one map a space."""
    same = image(0, "legacy", "grz", 0.262, 1.0)
    twins = [SkyObject(f"twin-{k}", SkyCoord(155, 2 + k / 3600, unit="deg"), (same,)) for k in (0, 1)]
    only = SkyObject("spectrum-only", SkyCoord(156, 2, unit="deg"), (), (spectrum(3, "desi", 3600 + 0.8 * np.arange(7781)),))
    objects = [*(galaxy(i) for i in range(GALAXIES)), SkyObject("bare"), *twins, only]
    store = Store.create(path)
    store.append(objects, ["test"] * len(objects))
    for space, known in zip(("image", "spectrum"), vectors(), strict=True):
        about = {"space": space, "model": "none", "checksum": "a" * 64, "inputs": {}, "version": 1}
        Embeddings.create(path / "embeddings" / space, known.shape[1], about).append(known)
        name = f"pca-{space}"
        maps.fit(known, "pca", name=name, about={"space": space, "checksum": "a" * 64}).save(path / "maps" / name)
    return path
