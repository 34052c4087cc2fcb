"""Whether a distribution of redshifts is one: PIT, coverage, CRPS and log score, beside plain distributions on the same bins.

Shape letters: n objects, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluate.figures import Figure, bootstrapped
from engine.evaluate.sky import OmniSky
from engine.evaluate.views import View

Array = NDArray[Any]
Rows = dict[str, dict[str, Figure]]
SHARES = (0.68, 0.95)
FLOOR = 1e-9  # of a probability in a log score
NEIGHBOURS, WIDTHS, EVERYONE = (16, 32, 64, 128), (1.0, 2.0, 4.0, 8.0), 0.03  # of the kNN baseline; widths in bins
SELECTED = 500  # objects that its settings are chosen on


def rows(sky: OmniSky, views: Mapping[str, View], edges: tuple[Array, Array]) -> Rows:
    """Every object of the sky is asked for, since nothing of the model was fitted on any of them; baselines leave the object
    itself out. Quartiles are of the r magnitude. Truth is the catalogue's redshift."""
    z, magnitude = sky.values["s_z"], sky.magnitudes[:, 1]
    bins = bins_of(z, edges)
    made: Rows = {}
    for name, view in views.items():
        if view.redshift is None or not view.there.any():
            continue
        there = view.there
        made[name] = scores(view.redshift[there], bins[there], z[there], edges)
        if name == "Legacy image + magnitudes":
            limits = np.quantile(magnitude, (0.25, 0.5, 0.75))
            for quarter in range(4):
                some = there & (np.searchsorted(limits, magnitude) == quarter)
                made[f"  of them, quartile {quarter + 1} of r"] = scores(view.redshift[some], bins[some], z[some], edges)
    made["baseline: n(z) for everyone"] = scores(everyone(bins, len(edges[0])), bins, z, edges)
    made["baseline: kNN on magnitudes"] = scores(neighbours(sky.magnitudes, bins, len(edges[0])), bins, z, edges)
    return made


def bins_of(z: Array, edges: tuple[Array, Array]) -> NDArray[np.int64]:
    """(n,): the bin of each redshift; what lies beyond is in the nearest. A bin holds its upper end."""
    return np.clip(np.searchsorted(edges[1], z, side="left"), 0, len(edges[1]) - 1)


def scores(p: Array, bins: NDArray[np.int64], z: Array, edges: tuple[Array, Array]) -> dict[str, Figure]:
    """Figures of distributions (n, K) of which (n,) bins are true. "off": the coverage less what it should be, in standard
    deviations of a binomial. This and KS, which objects drawn twice make larger, have no interval."""
    n = len(bins)
    pit = randomised(p, bins)
    out = {"KS": Figure(float(distance(pit)), np.nan, np.nan, n=n)}
    for share in SHARES:
        inside = np.abs(pit - 0.5) <= share / 2
        out[f"in {share:.0%}"] = bootstrapped(n, lambda some, inside=inside: inside[some].mean(-1))  # type: ignore[misc]
        sigma = np.sqrt(share * (1 - share) / n)
        out[f"{share:.0%} off (sigma)"] = Figure(float((inside.mean() - share) / sigma), np.nan, np.nan)
    ranked, likely = crps(p, z, edges), log_score(p, bins)
    return out | {"CRPS": bootstrapped(n, lambda some: ranked[some].mean(-1)),
                  "log score": bootstrapped(n, lambda some: likely[some].mean(-1))}


def randomised(p: Array, bins: NDArray[np.int64]) -> Array:
    """(n,) from 0 to 1: the probability below the true bin and a random share of the bin's own (Czado, Gneiting & Held 2009,
    Biometrics 65, 1254): uniform if the distributions are right, however coarse the bins."""
    at = np.arange(len(bins))
    own = p[at, bins].astype(np.float64)
    below = np.cumsum(p, axis=1, dtype=np.float64)[at, bins] - own
    return np.asarray(np.clip(below + np.random.default_rng(0).random(len(bins)) * own, 0, 1))


def distance(pit: Array) -> Array:
    """(..., n) -> (...): Kolmogorov and Smirnov's distance from the uniform."""
    ordered = np.sort(pit, axis=-1)
    n = ordered.shape[-1]
    above, below = np.arange(1, n + 1) / n - ordered, ordered - np.arange(n) / n
    return np.asarray(np.maximum(above, below).max(-1))


def crps(p: Array, z: Array, edges: tuple[Array, Array]) -> Array:
    """(n,) continuous ranked probability scores, in redshift: the integral of (F - step at the truth)^2 (Gneiting & Raftery
    2007, eq. 20), with F linear within a bin."""
    lower, upper = edges
    width = upper - lower
    after = np.cumsum(p, axis=1, dtype=np.float64)
    before = after - p
    share = np.clip((z[:, None] - lower) / width, 0, 1)  # of the bin that lies below the truth
    middle = before + share * p
    left = share * (before**2 + before * middle + middle**2) / 3
    a, b = 1 - middle, 1 - after
    right = (1 - share) * (a**2 + a * b + b**2) / 3
    return np.asarray(((left + right) * width).sum(1))


def log_score(p: Array, bins: NDArray[np.int64]) -> Array:
    """(n,): log of the true bin's probability, in nats; more is better."""
    return np.asarray(np.log(np.maximum(p[np.arange(len(bins)), bins], FLOOR)))


# ---------------------------------------------------------------------------------------------------------- baselines


def everyone(bins: NDArray[np.int64], count: int) -> Array:
    """(n, K): how all others are distributed, with one more spread over all bins."""
    counts = np.bincount(bins, minlength=count) + 1.0 / count
    p = np.repeat(counts[None], len(bins), axis=0)
    p[np.arange(len(bins)), bins] -= 1
    return np.asarray(p / p.sum(1, keepdims=True), np.float32)


def neighbours(magnitudes: Array, bins: NDArray[np.int64], count: int) -> Array:
    """(n, K): redshifts of the nearest others in magnitude and colours, each spread over some bins, mixed with those of all.
    How many and how far is what scores best on a few hundred."""
    from scipy.ndimage import gaussian_filter1d

    x = np.concatenate([magnitudes[:, 1:2], np.diff(magnitudes, axis=1)], axis=1)
    x = (x - x.mean(0)) / x.std(0)
    most = min(max(NEIGHBOURS), len(x) - 1)
    order = _nearest(x, most)
    background = everyone(bins, count)

    def spread(rows: NDArray[np.int64], k: int, width: float) -> Array:
        p = np.zeros((len(rows), count), np.float32)
        np.add.at(p, (np.arange(len(rows))[:, None], bins[order[rows, :k]]), 1.0 / min(k, most))
        p = gaussian_filter1d(p, width, axis=1, mode="nearest")
        return np.asarray((1 - EVERYONE) * p / p.sum(1, keepdims=True) + EVERYONE * background[rows])

    some = np.random.default_rng(0).permutation(len(x))[:SELECTED]
    k, width = max(((k, w) for k in NEIGHBOURS for w in WIDTHS),
                   key=lambda of: float(log_score(spread(some, *of), bins[some]).mean()))
    return spread(np.arange(len(x)), k, width)


def _nearest(x: Array, k: int) -> NDArray[np.int64]:
    """(n, k): the others, nearest first."""
    out = np.empty((len(x), k), np.int64)
    norms = (x**2).sum(1)
    for start in range(0, len(x), 512):
        square = norms[start : start + 512, None] + norms - 2 * x[start : start + 512] @ x.T
        square[np.arange(len(square)), start + np.arange(len(square))] = np.inf
        near = np.argpartition(square, k - 1, axis=1)[:, :k]
        out[start : start + 512] = np.take_along_axis(near, np.argsort(np.take_along_axis(square, near, 1), axis=1), 1)
    return out
