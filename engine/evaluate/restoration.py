"""Plain ways from a Legacy image to HSC's pixels: resampling, smoothing, deconvolution; a gain of each band is fitted.

Shape letters: B images, C bands (g, r, i, z), N pixels a side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.evaluate import images
from engine.simulate.images import HSC, LEGACY, gaussians

SIGMAS = (0.7, 1.0, 1.5, 2.0)  # pixels, of smoothing
NOISES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)  # over signal, of Wiener's filter
ROUNDS = (2, 5, 10, 20)  # of Richardson and Lucy's
SHARED = 4  # bands that both surveys have

Method = Callable[[Tensor, Tensor], Tensor]  # Legacy pixels (B, C, N, N) in nmgy, seeing (B, C) arcsec -> HSC pixels


@dataclass(frozen=True)
class Fitted:
    """A method with its setting and a gain of each band (C,), chosen on objects that are not tested."""

    method: Method
    gain: Tensor

    def __call__(self, legacy: Tensor, seeing: Tensor) -> Tensor:
        return self.method(legacy, seeing) * self.gain[:, None, None]


def resampled(legacy: Tensor, seeing: Tensor) -> Tensor:
    """By bicubic interpolation, flux a pixel."""
    side, ratio = legacy.shape[-1], HSC.scale / LEGACY.scale
    at = ((torch.arange(side) + 0.5) * 2 / side - 1) * ratio
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).expand(len(legacy), -1, -1, -1)
    return F.grid_sample(legacy, grid, mode="bicubic", padding_mode="border", align_corners=False) * ratio**2


def smoothed(sigma: float, legacy: Tensor, seeing: Tensor) -> Tensor:
    k2 = _waves(legacy.shape[-1])
    return _filtered(resampled(legacy, seeing), torch.exp(-2 * (math.pi * sigma * HSC.scale) ** 2 * k2))


def wiener(noise: float, legacy: Tensor, seeing: Tensor) -> Tensor:
    """Divided by the Legacy point spread, as far as noise allows, and blurred to HSC's usual one."""
    blur, wanted = spread(LEGACY.name, seeing), spread(HSC.name, usual(seeing))
    return _filtered(resampled(legacy, seeing), wanted * blur / (blur**2 + noise))


def richardson_lucy(rounds: int, legacy: Tensor, seeing: Tensor) -> Tensor:
    """Richardson 1972; Lucy 1974; then blurred to HSC's usual point spread."""
    blur, wanted = spread(LEGACY.name, seeing), spread(HSC.name, usual(seeing))
    data = resampled(legacy, seeing)
    lift = 3 * (data - data.flatten(2).median(2).values[..., None, None]).abs().flatten(2).median(2).values[..., None, None]
    lift = lift + 1e-4  # makes nearly all pixels positive, as the method wants them
    data = (data + lift).clamp_min(1e-6)
    found = data
    for _ in range(rounds):
        found = found * _filtered(data / _filtered(found, blur).clamp_min(1e-6), blur).clamp_min(0)
    return _filtered(found, wanted) - lift


def usual(seeing: Tensor) -> Tensor:
    return torch.tensor(HSC.seeing[:SHARED]).expand_as(seeing)


def spread(survey: str, fwhm: Tensor) -> Tensor:
    """(B, C, N, N / 2 + 1): the transform of a camera's point spread on HSC's pixels."""
    weight, sigma = gaussians(HSC if survey == HSC.name else LEGACY, "cpu")
    width = 2 * (math.pi * sigma * fwhm[..., None]) ** 2  # (B, C, G)
    return (weight[:, None, None] * torch.exp(-width[..., None, None] * _waves(96))).sum(2)


def _waves(side: int) -> Tensor:
    """(N, N / 2 + 1): squares of frequencies, arcsec^-2."""
    return torch.fft.fftfreq(side, HSC.scale)[:, None] ** 2 + torch.fft.rfftfreq(side, HSC.scale) ** 2


def _filtered(x: Tensor, transfer: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=x.shape[-2:])


def fitted(legacy: Tensor, seeing: Tensor, truth: Tensor, seen: Tensor) -> dict[str, Fitted]:
    """Every method with the setting that has the best PSNR on these objects, HSC's truth (B, C, N, N) and what is seen."""
    families: dict[str, tuple[Callable[..., Tensor], tuple[float, ...] | tuple[int, ...]]] = {
        "smoothing": (smoothed, SIGMAS), "Wiener deconvolution": (wiener, NOISES),
        "Richardson-Lucy deconvolution": (richardson_lucy, ROUNDS)}
    trials: dict[str, list[Method]] = {"resampling": [resampled]}
    for (name, (method, _)), setting in ((item, s) for item in families.items() for s in item[1][1]):
        trials.setdefault(name, []).append(partial(method, setting))
    out = {}
    for name, methods in trials.items():
        made = [Fitted(method, gains(method(legacy, seeing), truth)) for method in methods]
        out[name] = max(made, key=lambda one: float(images.psnr(one(legacy, seeing), truth, seen).nanmedian()))
    return {"resampling": out["resampling"], **{("resampling + " + name if name == "smoothing" else name): one
                                                for name, one in out.items() if name != "resampling"}}


def gains(made: Tensor, truth: Tensor) -> Tensor:
    """(C,): truth over made, of the light in the middle, the median of brighter objects."""
    ours, true = (images.light(x, images.APERTURE, HSC.scale) for x in (made, truth))
    bright = true[:, 1] >= true[:, 1].median()
    return (true[bright] / ours[bright].clamp_min(1e-3)).median(0).values
