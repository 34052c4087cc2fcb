"""Noise-aware rounding: pixels become multiples of a step far below the noise, so that they compress.

Pence, White & Seaman 2010 (PASP 122, 1065) for FITS tile compression: the bits below sigma/q hold only noise and
decide the compressed size. Here the step is the largest power of two <= sigma/16, so multiples of it are exact in float32.
The added error is at most step/2 <= sigma/32, which raises the noise by less than 2e-4 (uniform error: step^2/12).
Inverse variances keep eight binary digits after the first: 0.2 % of a weight, 0.1 % of a sigma, far below what any
survey knows of its noise. As they come, they take more space than the pixels they belong to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS_A_SIGMA = 16
IVAR_BITS = 8
_INTEGERS: dict[int, Any] = {2: np.uint16, 4: np.uint32, 8: np.uint64}
_NORMAL_MAD = 1.4826  # sigma of a Gaussian over its median absolute deviation


def noise_sigma(plane: NDArray[Any], ivar: NDArray[Any] | None = None, mask: NDArray[Any] | None = None) -> float:
    """The smallest noise of one band (ny, nx), in its unit: from the largest ivar of a good pixel, else from the
    scatter of neighbouring pixels' differences (which the object itself hardly enters). 0 where it cannot be told."""
    good = np.isfinite(plane) if mask is None else np.isfinite(plane) & ~mask
    if ivar is not None:
        weights = ivar[good & np.isfinite(ivar) & (ivar > 0)]
        return float(1 / np.sqrt(weights.max(initial=0.0))) if len(weights) else 0.0
    both = good[:, 1:] & good[:, :-1]
    differences = (plane[:, 1:].astype(np.float64) - plane[:, :-1])[both] if both.any() else np.zeros(0)
    differences = differences[differences != 0]  # saturated, padded and interpolated regions say nothing about noise
    if len(differences) < 16:
        return 0.0
    return float(_NORMAL_MAD * np.median(np.abs(differences)) / np.sqrt(2))


def power_of_two_step(sigma: float) -> float:
    """The largest power of two <= sigma / 16; 0 (no rounding) where sigma is 0 or not finite."""
    if not (np.isfinite(sigma) and sigma > 0):
        return 0.0
    return float(2.0 ** np.floor(np.log2(sigma / STEPS_A_SIGMA)))


def round_to_noise(pixels: NDArray[Any], ivar: NDArray[Any] | None = None, mask: NDArray[Any] | None = None,
                   ) -> tuple[NDArray[Any], tuple[float, ...]]:
    """Pixels (bands, ny, nx) rounded to a step a band, and the steps (0 where a band was left as it is).

    NaN and infinities stay. Values too large for the step to be resolved in their dtype stay as they are.
    """
    steps = tuple(
        power_of_two_step(noise_sigma(plane, None if ivar is None else ivar[b], None if mask is None else mask[b]))
        for b, plane in enumerate(pixels))
    out = pixels.copy()
    for plane, step in zip(out, steps, strict=True):
        if step:
            plane *= plane.dtype.type(1 / step)
            np.rint(plane, out=plane)
            plane *= plane.dtype.type(step)
    return out, steps


def round_ivar(ivar: NDArray[Any]) -> NDArray[Any]:
    """Inverse variances rounded to nearest (ties to even) at `IVAR_BITS` bits after the leading one: relative error
    <= 2^-9. Zero, NaN and infinities stay, and so does what would round to infinity."""
    drop = np.finfo(ivar.dtype).nmant - IVAR_BITS
    if drop <= 0:
        return ivar
    kind = _INTEGERS[ivar.dtype.itemsize]
    bits = np.ascontiguousarray(ivar).view(kind)
    last = (bits >> kind(drop)) & kind(1)
    out = ((bits + (last + kind((1 << (drop - 1)) - 1))) & ~kind((1 << drop) - 1)).view(ivar.dtype)
    finite = np.isfinite(out)
    return out if finite.all() else np.where(finite & np.isfinite(ivar), out, ivar)
