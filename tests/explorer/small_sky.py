"""A small sky with everything the page shows, made in a second: two surveys, spectra, numbers, vectors, maps, an index.

Object i is a round galaxy whose colour, redshift and vectors come from one number, so that neighbours are alike. Six
objects stand alone on the map "umap-image", at places that tests know; one bears markup in every text it has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from engine import jobs, maps
from engine.embeddings import Embeddings
from engine.objects import Image, Scalar, SkyObject, Spectrum
from engine.store import Store

COUNT = 160
DIM = 8
ALONE = np.array([(-7.3, 4.1), (6.2, 5.3), (4.4, -6.8), (-5.1, -3.9), (7.4, -1.2), (-1.7, 7.1)])  # of rows 0 to 5
EVIL = 7  # the row whose texts are markup
MARKUP = '<img src="x" onerror="window.hacked=1">'
WITHOUT_Z = 9
SURVEYS = {"legacy": ("griz", 0.262, 24), "hsc": ("grizy", 0.168, 36)}
MANIFEST = {"model": "by hand", "checksum": "0" * 8, "version": 1}


def build(path: Path, count: int = COUNT) -> Path:
    """Write the sky; returns its folder."""
    store = Store.create(path)
    store.append([galaxy(i) for i in range(count)], ["by hand"] * count)
    vectors = {space: vectors_of(count, seed) for seed, space in enumerate(("image", "spectrum"))}
    for space, values in vectors.items():
        Embeddings.create(path / "embeddings" / space, DIM, {**MANIFEST, "space": space, "inputs": []}).append(values)
        about = {"space": space, "checksum": MANIFEST["checksum"]}
        maps.fit(values, "pca", name=f"pca-{space}", about=about).save(path / "maps" / f"pca-{space}")
        by_hand(f"umap-{space}", values, about).save(path / "maps" / f"umap-{space}")
    list(jobs.index(path))
    return path


def hidden(i: int) -> float:
    """The number behind object i, 0 to 1."""
    return (i * 0.6180339887) % 1


def galaxy(i: int) -> SkyObject:
    t = hidden(i)
    ra, dec = 150 + 0.02 * (i % 20), 2 + 0.02 * (i // 20)
    rng = np.random.default_rng(i)
    images = [stamp(survey, ra, dec, t, rng) for survey in SURVEYS]
    wave = 3600 + 16.0 * np.arange(380)
    flux = 2 + t * wave / 5000 + 8 * np.exp(-(((wave - 6562.8 * (1 + 0.4 * t)) / 20) ** 2)) + rng.normal(0, 0.2, wave.size)
    spectrum = Spectrum(wave, flux.astype(np.float32), ivar=np.full(wave.size, 25, np.float32), survey="desi",
                        unit="1e-17 erg / (s cm2 Angstrom)")
    scalars = {"mag_r": Scalar(18 + 4 * t, 0.02, "mag(AB)"), "class": Scalar("spiral" if t < 0.5 else "elliptical"),
               "shape_r": Scalar(1 + t, None, "arcsec")}
    if i != WITHOUT_Z:
        scalars["z"] = Scalar(round(0.4 * t, 4), 0.0001)
    if i == EVIL:
        scalars["class"] = Scalar(MARKUP)
    name = MARKUP if i == EVIL else f"small:{i}"
    return SkyObject(name, SkyCoord(ra, dec, unit="deg"), tuple(images), (spectrum,), scalars=scalars)


def stamp(survey: str, ra: float, dec: float, t: float, rng: np.random.Generator) -> Image:
    bands, scale, size = SURVEYS[survey]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [ra, dec], [(size + 1) / 2] * 2
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    axis = (np.arange(size) - (size - 1) / 2) * scale
    profile = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * (0.6 + t) ** 2))
    unit, bright = ("nanomaggy", 2.0) if survey == "legacy" else (None, 120.0)
    pixels = bright * profile * (1 + t * np.arange(len(bands)))[:, None, None]
    pixels = pixels + rng.normal(0, bright / 100, pixels.shape)
    history = (MARKUP,) if t == hidden(EVIL) else ()
    return Image(pixels.astype(np.float32), tuple(bands), survey, wcs, unit, history=history)


def vectors_of(count: int, seed: int) -> np.ndarray:
    """(count, DIM) float32 of unit length: alike where the hidden number is."""
    t = np.array([hidden(i) for i in range(count)])
    waves = [np.cos(2 * t), np.sin(2 * t), *(0.25 * np.cos((k + 3) * t + seed) for k in range(DIM - 2))]
    vectors = np.stack(waves, axis=1).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(name: str, vectors: np.ndarray, about: dict[str, str]) -> maps.Map:
    """A map whose places are known: a round cloud, and the six that stand alone."""
    rng = np.random.default_rng(len(name))
    xy = rng.normal(0, 0.8, (len(vectors), 2)).astype(np.float32)
    xy[:len(ALONE)] = ALONE
    manifest = {"kind": "umap", "dim": DIM, "rows": len(xy), "seed": 0, "sample": len(xy), **about}
    return maps.Map(name, xy, {"anchors": vectors.astype(np.float16), "anchors_xy": xy}, manifest,
                    maps.preserved(vectors, xy))
