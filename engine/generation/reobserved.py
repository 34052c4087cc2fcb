"""What was generated, observed again with the telescope of a measurement, and how well both agree where no truth is known.

A generated image is brought to the measured one's bands, point spread and pixels, a generated spectrum to the measured one's
resolution and pixels, or to broad bands. What remains is divided by the measurement's noise.

Shape letters: B bands, N pixels of an image a side, m pixels of a spectrum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.generation import optics, photometry, spectrographs, unusual

if TYPE_CHECKING:
    from engine.objects import Image, Scalar, SkyObject, Spectrum

Array = NDArray[Any]
FLOOR = 0.05  # of the generated flux: what a codec may be off by and still be consistent
FEATURES = 0.3  # the same of how strong lines and breaks are: fibres of other widths see other parts of a galaxy
LIMIT = 0.01  # p-value below which the two are inconsistent
BROADER = 1.1  # times: a generated image this much broader than the measured one is what both are brought to
SEEN = 5.0  # times its noise, smoothed: measured light
TILT = 2  # order of the polynomial that stands for the light a fibre loses
CONTINUUM = 150.0  # Angstrom: what is broader than this is no feature


@dataclass(frozen=True)
class Reobserved:
    """A generated measurement beside the real one, on the same pixels.

    prediction, measured: both as they were compared, in the unit of the one whose pixels they are on (of photometry: scalars by
    name). chi: (measured - prediction) / noise, (B, N, N) for `bands`, (m,) of a spectrum, (B,) of photometry; NaN where it was
    not observed, is masked, or has no noise. chi2: the mean square of chi (of a spectrum and of photometry: with the free
    parameters taken off). pixels: how many were compared. significance: sigma by which the least fitting view of both differs
    by more than noise and `floor` allow; p_value: of that, corrected for the number of views; consistent: whether it is at
    least `LIMIT`. scale: measured over generated flux, by band, or of "aperture", which is free and taken out of the
    prediction, and of a spectrum's "features", lines and breaks above the continuum, where they can be told.
    notes: what was done, what could not be, and what is unusual about a measured image.
    """

    prediction: Image | Spectrum | Mapping[str, Scalar] = field(repr=False)
    measured: Image | Spectrum | Mapping[str, Scalar] = field(repr=False)
    bands: tuple[str, ...]
    chi: Array = field(repr=False)
    chi2: float
    pixels: int
    significance: float
    p_value: float
    scale: dict[str, float]
    floor: float
    notes: tuple[str, ...]

    @property
    def consistent(self) -> bool:
        return self.p_value >= LIMIT

    @property
    def allowed(self) -> str:
        """What the verdict allows for, in words; chi and chi2 count noise alone."""
        from engine.objects import Image, Spectrum

        share = f"{100 * self.floor:g} %"
        if isinstance(self.measured, Image):
            return f"noise, colour terms and {share} of flux and PSF width"
        if isinstance(self.measured, Spectrum):
            return f"noise, {share} of the flux and {100 * FEATURES:g} % of lines and breaks"
        return f"noise and {share} of the flux"

    def __str__(self) -> str:
        verdict = "consistent" if self.consistent else "inconsistent"
        return (f"{verdict} with the input: reduced chi2 {self.chi2:.3g} of {self.pixels:,} pixels counts noise alone; the "
                f"verdict allows for {self.allowed}, beyond which both differ by {self.significance:.1f} sigma "
                f"(p = {self.p_value:.2g}; inconsistent below {LIMIT:g})")


def reobserve(generated: Image | Spectrum, like: Image | Spectrum | SkyObject | Mapping[str, Scalar], *, floor: float = FLOOR
              ) -> Reobserved:
    """A generated image or spectrum as the measurement `like` would have recorded it, and how well the two agree.

    Image and image: convolved from the one's PSF to the other's (`optics.matching`), averaged over its pixels by their WCS, its
    bands as sums of the generated bands (`photometry.colour_term`; those without a counterpart are left out). If the generated
    one is the broader, which nothing can undo, the measured image is brought to it instead, noise and all.

    Spectrum and spectrum: to the coarser resolution and its pixels (`spectrographs.matrix`), times a smooth factor that is
    free, as fibres of two widths take in different light.

    Spectrum and object (or its scalars flux_g ... in DECam's, mag_g ... in HSC's filters): synthetic photometry, with one
    factor for the light that the fibre lost.

    floor: relative error of the flux, and of the widths of PSFs, that is allowed for; features of a spectrum may be off by
    `FEATURES`. Significance looks at up to three views, the worst of which counts: all pixels; those with light; and how bright
    the whole is, band by band (of a spectrum: how strong its features are). Sums of squares become sigma by Wilson & Hilferty
    1931 (PNAS 17, 684), with as many degrees of freedom as independent pixels: N / sum of squared noise correlations. The
    p-value is Bonferroni's: times the number of views. Strong emission lines at a filter's edge are beyond colour terms: a band
    that has one is off, even of a true image.

    Raises ValueError if the two cannot be compared: kinds, units, bands or places without overlap, an unknown PSF, a bad floor.
    """
    from engine.objects import Image, SkyObject, Spectrum

    if not np.isfinite(floor) or floor < 0:
        raise ValueError(f"floor is {floor!r}; it must be a number from 0, such as 0.05")
    if isinstance(generated, Image) and isinstance(like, SkyObject):
        raise ValueError(f"an image is compared with an image; name one of object {like.id}, such as its .image('legacy')")
    if isinstance(generated, Image) and isinstance(like, Image):
        return _image(generated, like, floor)
    if isinstance(generated, Spectrum) and isinstance(like, Spectrum):
        return _spectrum(generated, like, floor)
    if isinstance(generated, Spectrum) and isinstance(like, SkyObject | Mapping):
        return _photometry(generated, like.scalars if isinstance(like, SkyObject) else like, floor)
    raise ValueError(f"a {type(generated).__name__} cannot be observed again like a {type(like).__name__}; give an Image with "
                     "an Image, a Spectrum with a Spectrum or an object's fluxes")


# -------------------------------------------------------------------------------------------------------------- verdict


def sigmas(mean_square: float, freedom: float) -> float:
    """How far a mean of `freedom` squared normal numbers lies above 1 (Wilson & Hilferty 1931), in sigma of a normal number."""
    small = 2 / (9 * freedom)
    return float((np.cbrt(mean_square) - (1 - small)) / np.sqrt(small))


def verdict(views: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Of views (mean square, degrees of freedom): the worst one's significance, and its p-value times their number."""
    from scipy.stats import norm

    worst = max(sigmas(*view) for view in views)
    return {"significance": worst, "p_value": min(1.0, len(views) * float(norm.sf(worst)))}


# --------------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class Planes:
    """Images' bands on one grid, in nmgy: pixels, variance (B, N, N), NaN where nothing is; correlation: (B, L, L) of the
    noise of neighbouring pixels, 1 in the middle; scatter: (B,) relative error of the colour terms."""

    pixels: Array
    variance: Array
    correlation: Array
    scatter: Array
    notes: tuple[str, ...] = ()


def _image(generated: Image, observed: Image, floor: float) -> Reobserved:
    forward = [b for b in observed.bands if _term(generated, observed, b)]
    if not forward:
        raise ValueError(f"the bands {', '.join(generated.bands)} of {generated.survey} have no counterpart among "
                         f"{', '.join(observed.bands)} of {observed.survey}, so that the images cannot be compared")
    widths = [[optics.psf_of(image, b).fwhm for image in (generated, observed)] for b in forward]
    ratio = float(np.median([a / b for a, b in widths]))
    if ratio > BROADER:
        bands = [b for b in generated.bands if _term(observed, generated, b)]
        home, model, data = generated, _as_is(generated, bands, False), _brought(observed, generated, bands, True)
        notes: tuple[str, ...] = (f"the generated image is {ratio:.2f} times as broad as the measured one, which cannot be "
                                  "undone: the measured one was brought to it",)
    else:
        bands, home = forward, observed
        model, data, notes = _brought(generated, observed, bands, False), _as_is(observed, bands, True), ()
    dropped = [b for b in home.bands if b not in bands]
    for image in (generated, observed):
        if image.psf is None:
            notes += (f"no PSF of the {image.survey} image is known: the survey's usual one was taken",)
    notes += model.notes + data.notes + ((f"left out, without counterpart: {', '.join(dropped)}",) if dropped else ())
    return _judged(home, bands, model, data, floor, notes + unusual.notes(observed), (generated, observed))


def _term(source: Image, target: Image, band: str) -> photometry.ColourTerm | None:
    return photometry.colour_term(source.survey, source.bands, target.survey, band)


def _factor(image: Image, band: str) -> float:
    """nmgy of one unit. Raises ValueError if that is not known."""
    from engine import adapt_inputs
    from engine.io.surveys import find_survey
    from engine.objects import unit_of

    survey = find_survey(image.survey) if image.survey else None
    found = adapt_inputs.unit_factor(None if survey is None else survey.key, band, image) if image.calibrated else None
    if found is None:
        raise ValueError(f"the {image.survey} image's band {band} is {unit_of(image)}: "
                         "it is no flux that another could be compared with")
    return found


def _variance(image: Image, plane: int) -> Array:
    """(N, N) in the image's unit, squared; NaN where bad. Without inverse variance, from the scatter of neighbours."""
    from engine import adapt_inputs

    good = image.good[plane]
    pixels = np.where(good, image.pixels[plane], 0.0)
    ivar = (adapt_inputs.estimated_ivar(pixels[None], ~good[None])[0] if image.ivar is None else image.ivar[plane])
    good &= np.isfinite(ivar) & (ivar > 0)
    return np.where(good, 1 / np.where(good, ivar, 1.0).astype(np.float64), np.nan)


def _as_is(image: Image, bands: Sequence[str], noisy: bool) -> Planes:
    """Some bands of an image; noisy: with its noise."""
    pixels, variance, correlation, notes = [], [], [], list[str]()
    for band in bands:
        plane, factor = image.bands.index(band), _factor(image, band)
        values = np.where(image.good[plane], image.pixels[plane], np.nan).astype(np.float64)
        noise, shared = np.full(values.shape, np.nan), np.zeros((1, 1))
        if noisy:
            noise = _variance(image, plane)
            good = np.isfinite(noise)
            scaled = np.where(good, values / np.sqrt(np.where(good, noise, 1.0)), 0.0)
            sky = optics.empty_sky(scaled, good)
            shared = optics.noise_correlation(scaled, sky)
            if optics.enough(sky) < 1:
                notes = [f"too little of the {image.survey} image is empty to measure how much noise its pixels share: it was "
                         "taken to be less, so that the noise may be more than is said here"]
        pixels.append(values * factor)
        variance.append(noise * factor**2)
        correlation.append(shared)
    return Planes(np.stack(pixels), np.stack(variance), np.stack(correlation), np.zeros(len(bands)), tuple(notes))


def _brought(image: Image, target: Image, bands: Sequence[str], noisy: bool) -> Planes:
    """An image in another's bands, point spread and pixels; noisy: with what becomes of its noise."""
    grid = optics.grids(image, target)
    planes = {name: _as_is(image, [name], noisy) for name in image.bands}
    psfs = {name: optics.psf_of(image, name) for name in image.bands}
    pixels, variance, correlation, scatter, notes = [], [], [], [], list[str]()
    for band in bands:
        term = _term(image, target, band)
        assert term is not None
        there = optics.psf_of(target, band)
        shares, noise, shared = [], np.full(target.size, np.nan), np.zeros((1, 1))
        for name, weight in term.weights.items():
            own, kernel = planes[name], optics.matching(psfs[name], there, image.size, grid)
            good = np.isfinite(own.pixels[0]) & (np.isfinite(own.variance[0]) | (not noisy))
            notes.extend(own.notes)
            shares.append(optics.Share(weight, own.pixels[0], good, kernel))
            if kernel.clipped and name == band:
                notes.append(f"{band}: the target is sharper; what is missing was not restored")
            if noisy:
                more, own_shared = optics.moved_noise(np.where(good, own.variance[0], 0.0), kernel, grid, own.correlation[0])
                noise = more * weight**2 + np.where(np.isfinite(noise), noise, 0.0)
                shared = own_shared if name == band else shared
        pixels.append(optics.moved(shares, grid))
        variance.append(noise)
        correlation.append(shared)
        scatter.append(term.scatter)
    return Planes(np.stack(pixels), np.stack(variance), np.stack(correlation), np.array(scatter), tuple(dict.fromkeys(notes)))


def _judged(home: Image, bands: Sequence[str], model: Planes, data: Planes, floor: float, notes: tuple[str, ...],
            origin: tuple[Image, Image]) -> Reobserved:
    """Both on the pixels of `home`. origin: what was generated and what was measured.

    The floor is a share of the flux of every pixel, of that of every band, and of every PSF's width, which changes a pixel by
    that share of sigma^2 times its Laplacian.
    """
    from scipy.ndimage import laplace

    home_scale = home.pixel_scale or 1.0
    with np.errstate(invalid="ignore"):
        good = np.isfinite(model.pixels) & np.isfinite(data.pixels) & np.isfinite(data.variance) & (data.variance > 0)
    if not good.any():
        raise ValueError("the generated image and the measured one have no good pixel in common; check WCS and masks")
    scatter = np.hypot(model.scatter, data.scatter)
    allowed = np.hypot(floor, scatter)
    m, d, v = (np.where(good, x, fill) for x, fill in ((model.pixels, 0.0), (data.pixels, 0.0), (data.variance, 1.0)))
    chi = np.where(good, (d - m) / np.sqrt(v), np.nan)
    widths = [optics.psf_of(home, b).fwhm / spectrographs.FWHM / home_scale for b in bands]
    blur = np.stack([laplace(np.where(np.isfinite(one), one, 0.0)) * width**2
                     for one, width in zip(model.pixels, widths, strict=True)])
    lenient = (d - m) ** 2 / (v + allowed[:, None, None] ** 2 * (m**2 + blur**2))
    shared = (data.correlation**2).sum((1, 2))
    views = []
    for some in (good, good & _light(m / np.sqrt(v), d / np.sqrt(v), good)):
        freedom = float((some.sum((1, 2)) / shared).sum())
        if freedom >= 1:
            views.append((float(lenient[some].mean()), freedom))
    ratios, errors = zip(*(_amplitude(*one) for one in zip(m / np.sqrt(v), d / np.sqrt(v), data.correlation, strict=True)),
                         strict=True)
    known = np.isfinite(ratios)
    if known.any():
        ratio, error = np.array(ratios)[known], np.array(errors)[known]
        off = (ratio - 1) ** 2 / (error**2 + (allowed[known] * ratio) ** 2)
        views.append((float(off.mean()), float(known.sum())))
    unit = np.array([_factor(home, b) for b in bands])[:, None, None]
    as_image = partial(_planes_image, home, tuple(bands), unit)
    return Reobserved(as_image(model, origin[0], "observed again for comparison", True),
                      as_image(data, origin[1], "as it was compared", False), tuple(bands), chi, float(np.nanmean(chi**2)),
                      int(good.sum()), **verdict(views), scale=dict(zip(bands, map(float, ratios), strict=True)), floor=floor,
                      notes=notes)


def _light(predicted: Array, measured: Array, good: Array) -> Array:
    """Where there is light: the prediction alone exceeds a pixel's noise, or the smoothed measurement exceeds its own."""
    from scipy.ndimage import gaussian_filter

    smooth = np.stack([gaussian_filter(np.where(g, one, 0.0), 1.5) for one, g in zip(measured, good, strict=True)])
    level = [1.4826 * float(np.median(np.abs(one[g]))) if g.any() else np.inf for one, g in zip(smooth, good, strict=True)]
    found: Array = (np.abs(predicted) > 1) | (smooth > SEEN * np.array(level)[:, None, None])
    return found


def _amplitude(m: Array, d: Array, correlation: Array) -> tuple[float, float]:
    """By how much a prediction has to be multiplied to fit, and the error of that; both in units of the noise, 0 where bad."""
    from scipy.ndimage import convolve

    square = float((m**2).sum())
    if square < 25:  # nothing is to be seen of it: no ratio
        return float("nan"), float("nan")
    spread = float((m * convolve(m, correlation, mode="constant")).sum())
    return float((m * d).sum()) / square, max(spread, square) ** 0.5 / square


def _planes_image(home: Image, bands: tuple[str, ...], unit: Array, planes: Planes, of: Image, how: str, model: bool) -> Image:
    """As an image on the pixels of `home`, in its unit, with the history of what it was made of."""
    pixels = (planes.pixels / unit).astype(np.float32)
    ivar = None
    if not model:
        seen = np.isfinite(planes.variance) & (planes.variance > 0)
        ivar = np.where(seen, unit**2 / np.where(seen, planes.variance, 1.0), 0.0).astype(np.float32)
    chosen = [home.bands.index(b) for b in bands]
    return replace(home, pixels=pixels, bands=bands, ivar=ivar, mask=~np.isfinite(pixels),
                   psf=None if home.psf is None else home.psf[chosen], history=(*of.history, f"{how}, like {home.survey}"))


# -------------------------------------------------------------------------------------------------------------- spectra


def _flux(spectrum: Spectrum) -> tuple[Array, Array, Array]:
    """Flux, variance (1 without), good: (n,) in 1e-17 erg/s/cm2/A. Raises ValueError if it is no flux density."""
    from engine import adapt_inputs
    from engine.objects import unit_of

    factor = adapt_inputs.spectrum_factor(spectrum)
    if factor is None:
        raise ValueError(f"the {spectrum.survey} spectrum is {unit_of(spectrum)}: "
                         "it is no flux density that another could be compared with")
    flux = np.asarray(spectrum.flux, np.float64) * factor
    good = np.isfinite(flux) if spectrum.mask is None else np.isfinite(flux) & ~spectrum.mask
    variance = np.ones_like(flux)
    if spectrum.ivar is not None:
        ivar = np.asarray(spectrum.ivar, np.float64)
        good &= np.isfinite(ivar) & (ivar > 0)
        variance = factor**2 / np.where(good, ivar, 1.0)
    return np.where(good, flux, 0.0), variance, good


def _spectrum(generated: Spectrum, observed: Spectrum, floor: float) -> Reobserved:
    from scipy.sparse import diags_array

    from engine.io.surveys import SPECTRUM_UNIT

    if observed.ivar is None:
        raise ValueError(f"the {observed.survey} spectrum has no inverse variance; without its noise nothing can be compared")
    sigma = [spectrographs.widths(s) for s in (generated, observed)]
    (m, _, shown), (d, variance, good) = _flux(generated), _flux(observed)
    lam, onto = generated.wavelength, observed.wavelength
    covariance, notes = diags_array(variance), tuple[str, ...]()
    if np.median(np.interp(onto, lam, sigma[0]) / sigma[1]) > BROADER:
        home = generated
        spread = spectrographs.matrix(onto, sigma[1], lam, sigma[0])
        d = spectrographs.recorded(d, good, spread)
        covariance = spread @ diags_array(np.where(good, variance, 0.0)) @ spread.T
        m = np.where(shown, m, np.nan)
        notes = ("the generated spectrum is the coarser one, which cannot be undone: the measured one was brought to it",)
    else:
        home = observed
        m = spectrographs.recorded(m, shown, spectrographs.matrix(lam, sigma[0], onto, sigma[1]))
        d = np.where(good, d, np.nan)
    noise = covariance.diagonal()
    both = np.isfinite(m) & np.isfinite(d) & (noise > 0)
    if both.sum() < 100:
        raise ValueError(f"the generated spectrum and the measured one share {both.sum()} good pixels, too few to compare")
    m, d, noise = (np.where(both, x, fill) for x, fill in ((m, 0.0), (d, 0.0), (noise, 1.0)))
    factor = _smooth_factor(home.wavelength, m, d, noise, both)
    fitted = factor * m
    chi = np.where(both, (d - fitted) / np.sqrt(noise), np.nan)
    scaled = diags_array(np.where(both, noise, 1.0) ** -0.5)
    correlation = (scaled @ covariance @ scaled).tocsr()
    features = fitted - _continuum(home.wavelength, fitted, both)
    lenient = (d - fitted) ** 2 / (noise + (floor * fitted) ** 2 + (FEATURES * features) ** 2)
    pixels = int(both.sum())
    freedom = pixels - TILT - 1
    independent = freedom * pixels / max(float(correlation.power(2)[both][:, both].sum()), pixels)
    views, scale = [(float(lenient[both].sum()) / freedom, independent)], {"aperture": float(np.median(factor[both]))}
    strength = _strength(features, fitted - features, d, noise, both, correlation)
    if strength is not None:
        scale["features"] = strength[0]
        views.append(((strength[0] - 1) ** 2 / (strength[1] ** 2 + FEATURES**2), 1.0))
    compared = partial(replace, home, mask=~both, unit=SPECTRUM_UNIT)
    prediction = compared(flux=fitted.astype(np.float32), ivar=None,
                          history=(*generated.history, f"observed again for comparison, like {home.survey}"))
    measured = compared(flux=d.astype(np.float32), ivar=np.where(both, 1 / noise, 0.0).astype(np.float32),
                        history=(*observed.history, f"as it was compared, like {home.survey}"))
    return Reobserved(prediction, measured, (), chi, float(np.nansum(chi**2)) / freedom, pixels, **verdict(views), scale=scale,
                      floor=floor, notes=notes)


def _smooth_factor(wavelength: Array, m: Array, d: Array, noise: Array, good: Array) -> Array:
    """(m,): the polynomial of order `TILT` that brings a model to the data by least squares."""
    x = np.interp(wavelength, (wavelength[0], wavelength[-1]), (-1.0, 1.0))
    basis = np.polynomial.legendre.legvander(x, TILT)
    weighted = np.where(good, m / np.sqrt(noise), 0.0)[:, None] * basis
    found = np.linalg.lstsq(weighted, np.where(good, d / np.sqrt(noise), 0.0), rcond=None)[0]
    return np.asarray(basis @ found)


def _continuum(wavelength: Array, flux: Array, good: Array) -> Array:
    """(m,): without what is narrower than `CONTINUUM`."""
    from scipy.ndimage import gaussian_filter1d

    width = CONTINUUM / float(np.median(np.diff(wavelength)))
    smooth: Array = gaussian_filter1d(np.where(good, flux, 0.0), width)
    return smooth / np.maximum(gaussian_filter1d(good.astype(float), width), 1e-6)


def _strength(features: Array, continuum: Array, d: Array, noise: Array, good: Array, correlation: Any
              ) -> tuple[float, float] | None:
    """How strong the features of a model are in the data, 1 as in the model, and the error; None where that cannot be told."""
    design = np.where(good, np.stack([features, continuum]) / np.sqrt(noise), 0.0)
    normal = np.linalg.pinv(design @ design.T)
    found = normal @ (design @ np.where(good, d / np.sqrt(noise), 0.0))
    error = float(np.sqrt((normal @ (design @ (correlation @ design.T)) @ normal)[0, 0]))
    return (float(found[0]), error) if 0 < error < 1 else None


# ----------------------------------------------------------------------------------------------------------- photometry


def _photometry(generated: Spectrum, scalars: Mapping[str, Scalar], floor: float) -> Reobserved:
    import astropy.units as u

    from engine.objects import Scalar

    flux, _, good = _flux(generated)
    names, rows, lost = [], [], []
    for name, curve in {_scalar_name(*key): c for key, c in photometry.curves().items() if key[0] != "des"}.items():
        measured = _measured(name, scalars.get(name))
        if measured is None:
            continue
        model, share = photometry.synthetic(generated.wavelength, flux, good, curve)
        if np.isfinite(model):
            names.append(name)
            rows.append((model, *measured))
        else:
            lost.append(f"{name}: the spectrum covers {100 * share:.0f} % of the filter")
    if len(names) < 2:
        raise ValueError("a spectrum is compared with fluxes or magnitudes with errors in two of its bands at least (flux_g, "
                         f"mag_r ...); there are {len(names)}" + (f" ({'; '.join(lost)})" if lost else ""))
    m, d, noise = np.array(rows).T

    def scale(variance: Array) -> float:
        return max(float((m * d / variance).sum() / (m**2 / variance).sum()), 0.0)

    aperture = scale(noise**2)
    for _ in range(10):  # the floor is a share of what is predicted
        aperture = scale(noise**2 + (floor * aperture * m) ** 2)
    chi = (d - aperture * m) / noise
    freedom = len(names) - 1
    lenient = float(((d - aperture * m) ** 2 / (noise**2 + (floor * aperture * m) ** 2)).sum()) / freedom
    plain = (d - scale(noise**2) * m) / noise
    return Reobserved({n: Scalar(float(aperture * x), None, u.nmgy) for n, x in zip(names, m, strict=True)},
                      {n: Scalar(float(x), float(e), u.nmgy) for n, x, e in zip(names, d, noise, strict=True)}, tuple(names),
                      chi, float((plain**2).sum()) / freedom, len(names), **verdict([(lenient, float(freedom))]),
                      scale={"aperture": aperture}, floor=floor, notes=tuple(lost))


def _scalar_name(survey: str, band: str) -> str:
    """What `SkyObject.scalars` calls a survey's photometry."""
    return f"{'flux' if survey == 'legacy' else 'mag'}_{band}"


def _measured(name: str, scalar: Scalar | None) -> tuple[float, float] | None:
    """Flux and error in nmgy of a flux or an AB magnitude; None without error. What has no unit has that of its name."""
    import astropy.units as u

    from engine.codecs.border import in_unit

    if scalar is None or scalar.error is None or isinstance(scalar.value, (str, bool)) or not float(scalar.error) > 0:
        return None
    unit = scalar.unit if scalar.unit is not None else u.ABmag if name.startswith("mag") else u.nmgy
    flux = float(in_unit(scalar.value, unit, "nmgy", name))
    if unit == u.mag or isinstance(unit, u.function.FunctionUnitBase):
        return flux, flux * float(scalar.error) * np.log(10) / 2.5
    return flux, float(in_unit(scalar.error, unit, "nmgy", name))
