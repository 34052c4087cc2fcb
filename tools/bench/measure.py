"""What a measurement is, and how one is taken: warm-up first, then enough repeats for a median and a 95th percentile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """One line of the table. ratio: how many times better than the peer in the same run (> 1: ours is better)."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Bench:
    """Where the benchmark keeps its skies, and how large they are."""

    cache: Path
    rows: int = 1_000_000
    model: Path | None = None

    @property
    def million(self) -> Path:
        """The large sky; `tools.bench.million.build` makes it."""
        return self.cache / f"synthetic-{self.rows}.sky"


@dataclass(frozen=True)
class Times:
    """Milliseconds of single runs."""

    ms: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.ms))

    @property
    def p95(self) -> float:
        return float(np.percentile(self.ms, 95))

    @property
    def note(self) -> str:
        return f"p95 {self.p95:.3g} ms, {len(self.ms)} runs"

    def row(self, name: str, peer: str | None = None, other: Times | None = None, note: str = "") -> Row:
        """The median as a line, beside the peer's median."""
        ratio = None if other is None else other.median / max(self.median, 1e-9)
        beside = "" if other is None else f"{peer}: {other.median:.3g} ms"
        return Row(name, self.median, "ms", peer, ratio, "; ".join(filter(None, (self.note, beside, note))))


def each(function: Callable[[Any], Any], arguments: Iterable[Any], warm: int = 3) -> Times:
    """Time of every call, the first `warm` ones not counted."""
    taken = []
    for i, argument in enumerate(arguments):
        start = time.perf_counter()
        function(argument)
        if i >= warm:
            taken.append(1e3 * (time.perf_counter() - start))
    return Times(tuple(taken))


def repeated(function: Callable[[], Any], times: int = 20, warm: int = 3) -> Times:
    """As `each`, of the same call again and again."""
    return each(lambda _: function(), range(times + warm), warm)


def rate(name: str, count: int, times: Times, peer: str | None = None, other: float | None = None, note: str = "") -> Row:
    """Objects a second from the time of `count` objects; other: the peer's objects a second."""
    ours = 1e3 * count / times.median
    beside = "" if other is None else f"{peer}: {other:.3g} objects/s"
    slow = f"p95 {1e3 * count / times.p95:.3g} objects/s, {len(times.ms)} runs of {count}"
    ratio = None if other is None else ours / other
    return Row(name, ours, "objects/s", peer, ratio, "; ".join(filter(None, (slow, beside, note))))
