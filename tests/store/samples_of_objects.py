"""Objects with everything that an object can have, for the tests of the store."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.time import Time
from astropy.wcs import WCS

from engine.objects import Catalog, Image, LightCurve, Scalar, SkyObject, Spectrum


def wcs_at(ra: float, dec: float, scale: float, size: int) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(size + 1) / 2] * 2
    wcs.wcs.cd = np.diag([-scale / 3600, scale / 3600])
    wcs.wcs.set()
    return wcs


def make_image(rng: np.random.Generator, bands: str, survey: str, scale: float, size: int = 32, **changes) -> Image:
    shape = (len(bands), size, size)
    sigma = rng.uniform(0.01, 0.1, len(bands))[:, None, None]
    mask = rng.random(shape) < 0.01
    return Image(**{
        "pixels": (rng.normal(size=shape) * sigma).astype(np.float32), "bands": tuple(bands), "survey": survey,
        "wcs": wcs_at(150.1, 2.2, scale, size), "unit": u.Unit("nmgy"),
        "ivar": np.broadcast_to(1 / sigma**2, shape).astype(np.float32), "mask": mask,
        "psf": np.ones((len(bands), 7, 7), np.float32), "history": ("a.fits[1]", "nothing changed"), **changes})


def make_object(i: int, seed: int = 0) -> SkyObject:
    """One object with everything that an object can have."""
    rng = np.random.default_rng([seed, i])
    n = 200
    spectrum = Spectrum(3600 + 0.8 * np.arange(n), rng.normal(size=n).astype(np.float32),
                        rng.random(n).astype(np.float32), rng.random(n) < 0.1, 2000.0, "desi",
                        u.Unit("1e-17 erg / (s cm2 Angstrom)"), history=("coadd.fits",))
    other = Spectrum(10 ** (3.58 + 1e-4 * np.arange(i % 3, 150 + i % 3)), rng.normal(size=150), None, None,
                     rng.random(150), "sdss", None, False)
    curve = LightCurve(Time(59000 + np.sort(rng.random(5)), format="mjd", scale="tdb"), rng.normal(size=5),
                       rng.random(5).astype(np.float32), "g", u.nJy, history=("lc.csv",))
    catalog = Catalog({"x": rng.random(3), "name": np.array(["a", "bc", "d"]), "cov": rng.random((3, 2, 2))},
                      {"x": u.pix}, history=("scene.npz",))
    scalars = {"z": Scalar(float(rng.random()), 0.01), "flux_g": Scalar(rng.normal(), 0.1, u.Unit("nmgy")),
               "class": Scalar("GALAXY"), "flag": Scalar(bool(i % 2)), "count": Scalar(i), "xp_bp": Scalar(rng.normal(size=55)),
               "wide": Scalar(rng.normal(size=(2, 3)).astype(np.float32), np.ones((2, 3)))}
    position = SkyCoord(rng.uniform(0, 360), rng.uniform(-90, 90), unit="deg")
    images = (make_image(rng, "griz", "legacy", 0.262), make_image(rng, "grizy", "hsc", 0.168, unit=u.Unit("3630.78 nJy")))
    return SkyObject(f"obj-{seed}-{i}", position, images, (spectrum, other), (curve,), scalars, catalog,
                     history=("made for a test",))
