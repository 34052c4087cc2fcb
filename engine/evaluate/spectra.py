"""SDSS spectra as DESI spectra: the typical generation beside a spline, a Wiener filter, and the codec's own ceiling.

Shape letters: B objects, n pixels of DESI, m of SDSS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from engine.codecs import spectrum as codec_of_spectra
from engine.evaluate import lines
from engine.evaluate.figures import Figure, bootstrapped
from engine.evaluate.translation import expected
from engine.evaluate.views import DESI, HSC, LEGACY, SDSS
from engine.simulate import GRIDS
from engine.simulate.population import STAR

if TYPE_CHECKING:
    from engine.checkpoints import OmniBundle
    from engine.objects import SkyObject

Array = NDArray[Any]
Measured = dict[str, dict[str, Array]]
Rows = dict[str, dict[str, Figure]]
Rendered = Mapping[str, Tensor]
CONTINUUM = 151  # pixels, 120 Angstrom: what is broader is continuum, what is sharper is detail
MODEL, CEILING = "model, typical", "ceiling: DESI's own tokens, decoded"
WITH_IMAGE = "model, typical, with the Legacy image"


def able(bundle: OmniBundle) -> bool:
    return SDSS in bundle.codecs and DESI in bundle.codecs and DESI in bundle.model.outputs


@dataclass(frozen=True)
class Interpolations:
    """Fitted on objects that are not tested. share: of the light in SDSS's fibre that DESI's takes in; power (F,): of the
    signal, over the square of the level, as transforms of a spectrum that is 0 on average have it."""

    share: float
    power: Array

    def spline(self, rendered: Rendered) -> Tensor:
        """Cubic, through every pixel."""
        return self._on_desi(bridged(rendered))

    def wiener(self, rendered: Rendered) -> Tensor:
        """Every wave by its signal over signal and noise (Wiener 1949), then a cubic spline."""
        flux = bridged(rendered)
        level = flux.mean(1, keepdims=True)
        ivar = np.where(rendered["sdss_mask"], np.nan, rendered["sdss_ivar"].double().numpy())
        noise = np.nanmean(1 / ivar, axis=1, keepdims=True) * flux.shape[1]
        signal = self.power * level**2
        kept = np.fft.irfft(np.fft.rfft(flux - level) * signal / (signal + noise), n=flux.shape[1])
        return self._on_desi(kept + level)

    def _on_desi(self, flux: Array) -> Tensor:
        sdss, desi = (GRIDS[name]().numpy() for name in ("sdss", "desi"))
        return torch.from_numpy(CubicSpline(sdss, flux, axis=1)(np.clip(desi, sdss[0], sdss[-1])) * self.share).float()


def fitted(rendered: Rendered) -> Interpolations:
    """From the truth of all of them; the share from those that SDSS has observed, if there are any."""
    clean = rendered["sdss_truth"].double().numpy()
    level = clean.mean(1, keepdims=True)
    power = (np.abs(np.fft.rfft(clean / level - 1)) ** 2).mean(0)
    shares = rendered["desi_truth"].mean(1).numpy() / level[:, 0]
    chosen = rendered["has_sdss"].numpy()
    return Interpolations(float(np.median(shares[chosen] if chosen.any() else shares)), power)


def bridged(rendered: Rendered) -> Array:
    """(B, m): bad pixels by a straight line between their neighbours."""
    flux = rendered["sdss"].float()
    bad = rendered["sdss_mask"] | ~torch.isfinite(flux)
    return np.asarray(codec_of_spectra.bridge(flux, bad, GRIDS["sdss"]().float()).double().numpy())


def compared(bundle: OmniBundle, rendered: Rendered, some: list[SkyObject], ways: Interpolations) -> Measured:
    """Of the objects that SDSS has a spectrum of."""
    has = bundle.tokenize(some, [SDSS])[1].get(SDSS)
    rows = [] if has is None else torch.nonzero(~has.all(1))[:, 0].tolist()
    if not rows:
        return {}
    part = {name: value[rows] for name, value in rendered.items()}
    own = [some[row] for row in rows]
    made = {MODEL: typical(bundle, own, [SDSS])}
    if LEGACY in bundle.codecs:
        made[WITH_IMAGE] = typical(bundle, own, [SDSS, LEGACY])
    made |= {"baseline: spline": ways.spline(part), "baseline: Wiener interpolation": ways.wiener(part)}
    codec: Any = bundle.codecs[DESI]
    of_sdss: Any = bundle.codecs[SDSS]
    wavelength = GRIDS["desi"]().float()
    drawn, _ = of_sdss.detokenize(of_sdss.encode(own, survey="sdss"), wavelength)
    made["baseline: SDSS's own tokens, decoded"] = drawn * ways.share
    made[CEILING], _ = codec.detokenize(codec.encode(own, survey="desi"), wavelength)
    return {name: measured(flux, part) for name, flux in made.items()}


def from_images(bundle: OmniBundle, rendered: Rendered, some: list[SkyObject]) -> Measured:
    """DESI spectra from images of each survey: HSC's is never shown together with one in training."""
    ways = {"Legacy image": LEGACY, "HSC image (never seen with a DESI spectrum)": HSC}
    if DESI not in bundle.codecs or DESI not in bundle.model.outputs:
        return {}
    return {name: measured(typical(bundle, some, [key]), rendered) for name, key in ways.items() if key in bundle.codecs}


def typical(bundle: OmniBundle, some: list[SkyObject], keys: list[str]) -> Tensor:
    """(B, n): the typical DESI spectrum of each object."""
    return torch.stack([torch.from_numpy(np.array(one.flux)).float() for one in expected(bundle, some, keys, DESI)])


def measured(flux: Tensor, rendered: Rendered) -> dict[str, Array]:
    """Of each object (B,): R2 of the noise-free DESI spectrum in all, times the factor that suits best, in continuum, in
    detail, where SDSS looks and DESI's pixels are good; and the lines of galaxies."""
    wavelength, good = GRIDS["desi"](), observed(rendered)
    truth = rendered["desi_truth"].float()
    a, b, there = flux.double().numpy(), truth.double().numpy(), good.numpy()
    smooth_a, smooth_b = (uniform_filter1d(x, CONTINUUM, axis=1, mode="nearest") for x in (a, b))
    z = torch.where(rendered["class"] < STAR, rendered["s_z"], torch.nan).float()
    ivar = torch.where(rendered["desi_mask"], 0.0, rendered["desi_ivar"]).float()
    best = (a * b * there).sum(1) / np.maximum((a * a * there).sum(1), 1e-12)
    return {"R2": explained(a, b, there), "level free": explained(a * best[:, None], b, there),
            "continuum": explained(smooth_a, smooth_b, there), "detail": explained(a - smooth_a, b - smooth_b, there),
            **lines.measured(flux.float(), truth, ivar, good, wavelength.float(), z)}


def observed(rendered: Rendered) -> Tensor:
    wavelength, ends = GRIDS["desi"](), GRIDS["sdss"]()[[0, -1]]
    return ~rendered["desi_mask"] & (rendered["desi_ivar"] > 0) & (wavelength >= ends[0]) & (wavelength <= ends[1])


def explained(found: Array, truth: Array, there: Array) -> Array:
    """(B,): R2 over the pixels of each spectrum."""
    count = there.sum(1).clip(1)
    middle = (truth * there).sum(1) / count
    off, spread = ((found - truth) ** 2 * there).sum(1), ((truth - middle[:, None]) ** 2 * there).sum(1)
    return np.asarray(1 - off / np.maximum(spread, 1e-12))


def rows(found: Measured) -> Rows:
    names = {"R2": "R2 (median)", "level free": "R2, level free", "continuum": "R2 of continuum", "detail": "R2 of detail"}
    return {row: {said: bootstrapped(
        len(of[name]), lambda some, x=of[name]: np.median(x[some], axis=-1), n=len(of[name]))  # type: ignore[misc]
        for name, said in names.items()} for row, of in found.items()}


def line_rows(found: Measured) -> Rows:
    return {row: lines.figures(of) for row, of in found.items()}


def bin_rows(found: Measured) -> Rows:
    made = {row: lines.bin_figures(of) for row, of in found.items()}
    return {row: figures for row, figures in made.items() if figures}
