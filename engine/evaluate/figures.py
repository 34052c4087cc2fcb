"""Measured numbers with 95 % bootstrap intervals over objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Statistic = Callable[[Array], Array]  # rows of objects (..., n) -> (...)
BOOTSTRAPS = 1000
PIECE = 2_000_000  # numbers drawn at a time
SIGMA = 1.4826  # of a Gaussian, in median distances from the median


@dataclass(frozen=True)
class Figure:
    """One measured number and its 95 % bootstrap interval over test objects; chance: what luck gives; k: of the neighbours;
    n: objects it was measured on, where a table says it. An interval of NaN: there is none."""

    value: float
    low: float
    high: float
    chance: float | None = None
    k: int | None = None
    n: int | None = None

    def __str__(self) -> str:
        text = f"{number(self.value)} [{number(self.low)}, {number(self.high)}]" if self.low == self.low else number(self.value)
        text += f"  {self.value / self.chance:.1f}x chance" if self.chance else ""
        return text + (f"  k = {self.k}" if self.k else "")


def number(x: float) -> str:
    """Three decimals; of large numbers fewer, of small ones two digits."""
    if abs(x) >= 1000:
        return f"{x:.0f}"
    if abs(x) >= 100:
        return f"{x:.1f}"
    return f"{x:.1e}" if 0 < abs(x) < 0.002 else f"{x:.3f}"


def bootstrapped(count: int, statistic: Statistic, chance: float | None = None, k: int | None = None, n: int | None = None
                 ) -> Figure:
    """The statistic of `count` objects, with its interval: statistic gets rows (..., count) of their numbers. NaN in draws (of
    what some of them lack) is left out."""
    random = np.random.default_rng(0)
    size = max(1, PIECE // max(count, 1))
    drawn = [statistic(random.integers(0, count, (min(size, BOOTSTRAPS - i), count))) for i in range(0, BOOTSTRAPS, size)]
    low, high = np.nanquantile(np.concatenate(drawn), (0.025, 0.975))
    return Figure(float(statistic(np.arange(count))), float(low), float(high), chance, k, n)


def figure(values: Array, chance: float | None = None, statistic: Callable[..., Any] = np.mean) -> Figure:
    """The statistic of one value an object, with its interval."""
    values = np.asarray(values, float)
    return bootstrapped(len(values), lambda rows: statistic(values[rows], axis=-1), chance)


def r2_figure(truth: Array, predicted: Array, k: int | None = None) -> Figure:
    """R2 = 1 - squared error / variance, with its interval over objects."""
    return bootstrapped(len(truth), lambda rows: r2(truth[rows], predicted[rows]), k=k)


def r2_difference(truth: Array, predicted: Array, other: Array) -> Figure:
    """R2 of one prediction less that of another, both on the same objects in every draw."""
    return bootstrapped(len(truth), lambda rows: r2(truth[rows], predicted[rows]) - r2(truth[rows], other[rows]))


def r2(truth: Array, predicted: Array) -> Array:
    """(..., n), (..., n) -> (...)."""
    error = predicted - truth
    out: Array = 1 - (error**2).sum(-1) / ((truth - truth.mean(-1, keepdims=True)) ** 2).sum(-1)
    return out


def nmad(x: Array, axis: int = -1) -> Array:
    """A standard deviation that outliers do not touch: 1.4826 times the median distance from the median."""
    out: Array = SIGMA * np.median(np.abs(x - np.median(x, axis=axis, keepdims=True)), axis=axis)
    return out


def plain(value: float, n: int | None = None) -> Figure:
    """A number without an interval."""
    return Figure(value, float("nan"), float("nan"), n=n)
