"""Emission lines: what was predicted of those that are there, and what of those that are not.

Shape letters: B spectra, n pixels, J lines, S samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.evaluate.figures import Figure, bootstrapped, plain
from engine.train.codec_figures import SIGNIFICANT
from engine.train.codec_figures import lines as strengths

Array = NDArray[Any]
BINS = 3
ABSENT, FOUND = 2.0, 3.0  # sigma: below it a true line is none; above it a predicted one is found


def measured(flux: Tensor, truth: Tensor, ivar: Tensor, good: Tensor, wavelength: Tensor, z: Tensor) -> dict[str, Array]:
    """Flux of each line in prediction and truth, and the noise of a DESI spectrum there, (B, J) each; inf where not seen."""
    true, error = strengths(truth, ivar, good, wavelength, z)
    ours, _ = strengths(flux, ivar, good, wavelength, z)
    return {name: value.double().numpy() for name, value in (("line", ours), ("true line", true), ("line error", error))}


def figures(of: dict[str, Array]) -> dict[str, Figure]:
    """Over all lines of (B, J); objects are drawn, with all their lines. "false": of lines predicted at 5 sigma those that are
    below 2; "found": of true ones at 5 sigma those that are predicted above 3."""
    ours, true, error = of["line"], of["true line"], of["line error"]
    seen = np.isfinite(error)
    real, said = seen & (true >= SIGNIFICANT * error), seen & (ours >= SIGNIFICANT * error)
    false, found = said & (true < ABSENT * error), real & (ours >= FOUND * error)
    scale = np.where(seen, np.abs(ours - true) / np.where(real, true, 1.0), np.nan)
    return {"completeness": _share(found, real), "false": _share(false, said),
            "median |error|": plain(float(np.median(scale[real])) if real.any() else float("nan"), n=int(real.sum()))}


def _share(hits: NDArray[np.bool_], of: NDArray[np.bool_]) -> Figure:
    """Of what was counted; n is how many."""
    a, b = hits.sum(1), of.sum(1)
    return bootstrapped(len(a), lambda some: a[some].sum(-1) / np.maximum(b[some].sum(-1), 1), n=int(b.sum()))


def bin_figures(of: dict[str, Array]) -> dict[str, Figure]:
    """mean(truth - prediction) of true lines at 5 sigma in bins of prediction, in 1e-17 erg/s/cm2: 0 if predictions are means
    of what is possible."""
    ours, true, error = of["line"], of["true line"], of["line error"]
    real = np.isfinite(error) & (true >= SIGNIFICANT * error)
    if real.sum() < 4 * BINS:
        return {}
    limits = np.quantile(ours[real], np.linspace(0, 1, BINS + 1)[1:-1])
    out = {}
    for i in range(BINS):
        inside = real & (np.searchsorted(limits, ours) == i)
        off, count = np.where(inside, true - ours, 0.0).sum(1), inside.sum(1)
        figure = bootstrapped(len(off), lambda some, off=off, count=count:  # type: ignore[misc]
                              off[some].sum(-1) / np.maximum(count[some].sum(-1), 1), n=int(count.sum()))
        out[f"where {np.median(ours[inside]):.1f} is predicted"] = figure
    return out


def inside(samples: Array, truth: Array) -> NDArray[np.bool_]:
    """Whether truth (...) lies between the least and the largest of samples (S, ...); it should for (S - 1) / (S + 1)."""
    return np.asarray((truth >= samples.min(0)) & (truth <= samples.max(0)))
