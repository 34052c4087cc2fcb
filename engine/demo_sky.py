"""The simulated sky as objects: what `engine.simulate.render` draws, with positions, WCS and units, as from a reader."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.time import Time
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.special import erf

from engine.io.surveys import SPECTRUM_UNIT, SURVEYS
from engine.objects import Image, LightCurve, Scalar, SkyObject, Spectrum

if TYPE_CHECKING:
    from torch import Tensor

SEED = 2026
VERSION = 2  # raise it when the simulator makes another sky of the same seed: skies kept on disk are named by it
BATCH = 64
PSF_SIDE = 15  # pixels; odd, so that the peak is in the middle of one
LIGHT_CURVE_BANDS = ("g", "r", "i")
PLAIN = {  # scalar -> (key of the renderer, unit)
    "z": ("s_z", None), "ebv": ("s_ebv", u.mag), "log_mstar": ("s_log_mstar", u.dex(u.Msun)), "sfr": ("s_sfr", u.Msun / u.yr),
    "shape_r": ("s_shape_r", u.arcsec), "shape_e1": ("s_shape_e1", None), "shape_e2": ("s_shape_e2", None),
}
WITH_ERRORS = {f"flux_{b}": u.nmgy for b in "griz"} | {f"mag_{b}": u.ABmag for b in "grizy"}


def object_id(number: int) -> str:
    """The name of object `number`."""
    return f"demo-{number:06d}"


def objects(seed: int, start: int, count: int, batch: int = BATCH) -> Iterator[SkyObject]:
    """Objects start to start + count - 1 of the simulated sky with this seed, rendered `batch` at a time."""
    import torch

    from engine.simulate import render

    for first in range(start, start + count, batch):
        index = torch.arange(first, min(first + batch, start + count))
        rendered = render(seed, index)
        for i in range(len(index)):
            yield one(rendered, i, int(index[i]), seed)


def batches(seed: int, start: int, stop: int) -> Iterator[list[SkyObject]]:
    """The same objects, start to stop - 1, `BATCH` at a time, rendered by a child process a few batches ahead."""
    from engine.simulate import stream

    for first, rendered in zip(range(start, stop, BATCH), stream.rendered(seed, start, stop, BATCH), strict=True):
        yield [one(rendered, i, first + i, seed) for i in range(len(rendered["s_ra"]))]


def one(rendered: dict[str, Tensor], i: int, number: int, seed: int) -> SkyObject:
    """Row i of a rendered batch."""
    def value(key: str) -> Any:
        return rendered[key][i].numpy()

    history = (made(seed, number),)
    ra, dec = float(value("s_ra")), float(value("s_dec"))
    images = tuple(image(value, survey, ra, dec, history) for survey in ("legacy", "hsc") if value(f"has_{survey}"))
    spectra = tuple(spectrum(value, survey, history) for survey in ("desi", "sdss") if value(f"has_{survey}"))
    return SkyObject(object_id(number), SkyCoord(ra, dec, unit="deg"), images, spectra, lightcurves(value, history),
                     scalars(value), history=history)


def made(seed: int, number: int) -> str:
    """What an object's history says of it."""
    return f"simulated sky, version {VERSION}, seed {seed}, object {number}"


def image(value: Any, survey: str, ra: float, dec: float, history: tuple[str, ...]) -> Image:
    """One survey's cutout, north up and east left."""
    from engine.simulate import BANDS, CAMERAS

    camera = next(c for c in CAMERAS if c.name == survey)
    pixels = value(survey)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra, dec]
    wcs.wcs.crpix = [(pixels.shape[2] + 1) / 2, (pixels.shape[1] + 1) / 2]
    wcs.wcs.cdelt = [-camera.scale / 3600, camera.scale / 3600]
    return Image(pixels, BANDS[survey], survey, wcs, SURVEYS[survey].unit, value(f"{survey}_ivar"), value(f"{survey}_mask"),
                 psf_stamps(value(f"{survey}_fwhm"), survey, camera.scale), history=history)


def psf_stamps(fwhm: NDArray[np.float32], survey: str, scale: float) -> NDArray[np.float32]:
    """(bands, 15, 15): light of a point in the middle that falls on each pixel, as `render` spreads it.

    fwhm: (bands,) arcsec; scale: arcsec a pixel. Over all the sky they would sum to 1.
    """
    from engine.simulate.population import tables

    weight, sigma = (tables()[f"psf_{survey}_{what}"].numpy() for what in ("weight", "sigma"))
    edges = (np.arange(PSF_SIDE + 1) - PSF_SIDE / 2) * scale
    row = 0.5 * np.diff(erf(edges / (np.sqrt(2) * sigma[:, None] * fwhm[:, None, None])), axis=-1)  # (bands, Gaussians, 15)
    return np.einsum("g,fgy,fgx->fyx", weight, row, row).astype(np.float32)


def spectrum(value: Any, survey: str, history: tuple[str, ...]) -> Spectrum:
    """One spectrograph's spectrum, vacuum wavelengths."""
    wavelength, power = spectrograph(survey)
    return Spectrum(wavelength, value(survey), value(f"{survey}_ivar"), value(f"{survey}_mask"), power, survey,
                    SPECTRUM_UNIT, history=history)


@lru_cache
def spectrograph(survey: str) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Wavelengths (n,) in Angstrom and resolving power (n,) of one spectrograph."""
    from engine.simulate import GRIDS, POWERS
    from engine.simulate.light import resolution

    wavelength = GRIDS[survey]()
    return wavelength.numpy(), resolution(wavelength, *POWERS[survey]).numpy().astype(np.float32)


def lightcurves(value: Any, history: tuple[str, ...]) -> tuple[LightCurve, ...]:
    """Light curves in g, r, i of what varies; none for all else."""
    time, flux, error = value("lc_time"), value("lc_flux"), value("lc_error")
    if not np.isfinite(time[0]):
        return ()
    epochs = Time(time.astype(np.float64), format="mjd")
    return tuple(LightCurve(epochs, flux[k], error[k], band, u.nmgy, history=history)
                 for k, band in enumerate(LIGHT_CURVE_BANDS))


def scalars(value: Any) -> dict[str, Scalar]:
    """The catalogue's values; what was not measured is absent."""
    from engine.simulate import CLASSES, RARE

    out = {name: Scalar(float(value(key)), None, unit) for name, (key, unit) in PLAIN.items() if np.isfinite(value(key))}
    for name, unit in WITH_ERRORS.items():
        if np.isfinite(value(f"s_{name}")):
            out[name] = Scalar(float(value(f"s_{name}")), float(value(f"s_{name}_error")), unit)
    out["class"] = Scalar(CLASSES[int(value("class"))])
    if int(value("rare")):
        out["rare"] = Scalar(RARE[int(value("rare"))])
    for arm in ("xp_bp", "xp_rp"):
        if np.isfinite(value(arm)[0]):
            out[arm] = Scalar(value(arm))
    return out
