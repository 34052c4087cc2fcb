"""Which rows of skies are the same object: by position (each the other's nearest, within a radius) or by id.

Surveys that were read into skies of their own, or into one sky from files that say nothing of each other, have a row each of
an object. Here rows are only told to belong together; who reads them, such as training, joins what they have.

Rows of all skies are numbered one after another. Shape letters: R rows of all skies, N of one, M of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
STRIPS = 500  # a unit of the sine of declination
How = float | Literal["id"]  # arcsec, or by id


def nearest(a: NDArray[Any], b: NDArray[Any], radius: float) -> tuple[Rows, Rows]:
    """Rows of a (N, 2) and of b (M, 2) that are each other's nearest and at most `radius` arcsec apart, a's increasing.

    Positions are right ascension and declination in degrees, NaN where unknown: those pair with nothing.
    """
    from engine.positions import unit_vectors

    known_a, known_b = (np.flatnonzero(np.isfinite(x).all(1)) for x in (a, b))
    here, there = (unit_vectors(*x[known].T) for x, known in ((a, known_a), (b, known_b)))
    if len(here) > len(there):
        rows_b, rows_a = nearest(b, a, radius)
        order = np.argsort(rows_a)
        return rows_a[order], rows_b[order]
    chord = 2 * np.sin(np.radians(radius / 3600) / 2)
    to_a, close = _nearest_of(here, there, chord)
    to_a, known_b, there = to_a[close], known_b[close], there[close]  # only who has someone near can be someone's partner
    to_b, close = _nearest_of(there, here, chord)
    ours = np.flatnonzero(close)
    ours = ours[to_a[to_b[ours]] == ours]
    return known_a[ours], known_b[to_b[ours]]


def _nearest_of(some: NDArray[np.float64], points: NDArray[np.float64], chord: float) -> tuple[Rows, NDArray[np.bool_]]:
    """Which of some unit vectors is nearest to each of the points, and which points have one within the chord."""
    from scipy.spatial import cKDTree

    if not len(some) or not len(points):
        return np.zeros(len(points), np.int64), np.zeros(len(points), bool)
    tree = cKDTree(some, balanced_tree=False, compact_nodes=False)
    order = np.lexsort((points[:, 0], np.floor(points[:, 2] * STRIPS)))  # neighbours in turn: a quarter of the time
    index, close = np.zeros(len(points), np.int64), np.zeros(len(points), bool)
    distance, index[order] = tree.query(points[order], distance_upper_bound=np.nextafter(chord, 4.0), workers=-1)
    close[order] = np.isfinite(distance)
    return index, close


def same(a: NDArray[Any], b: NDArray[Any]) -> tuple[Rows, Rows]:
    """Rows of a (N,) and of b (M,) that have the same id, a's increasing; of those called alike the first. "" pairs not."""
    found, rows_a, rows_b = np.intersect1d(a, b, return_indices=True)
    rows_a, rows_b = rows_a[found != ""], rows_b[found != ""]
    order = np.argsort(rows_a)
    return rows_a[order].astype(np.int64), rows_b[order].astype(np.int64)


def leaders(skies: Sequence[NDArray[Any]], how: How, surveys: Sequence[Rows] | None = None) -> Rows:
    """(R,) of each row the row that leads its object: itself, if it has no partner before it.

    skies: of each its positions (N, 2) in degrees or, for how="id", its ids (N,); how: else the radius in arcsec. Each sky is
    matched with the objects of those before it, at the position of their leader. surveys: of each sky (N,) bits that say what
    its rows are of; then rows of one sky are matched, too, if no survey is in both. Raises ValueError for no radius.
    """
    if how != "id" and not 0 < how < np.inf:
        raise ValueError(f"objects are paired within a radius in arcsec, got {how}")
    match = same if how == "id" else partial(nearest, radius=how)
    of_all = np.concatenate(skies)
    led = np.arange(len(of_all), dtype=np.int64)
    heads = np.zeros(0, np.int64)
    start = 0
    for number, sky in enumerate(skies):
        bits = np.zeros(len(sky), np.int64) if surveys is None else np.asarray(surveys[number], np.int64)
        taken = np.zeros(len(of_all), bool)  # objects that have a row of this sky
        shown = np.zeros(len(of_all), np.int64)  # and the surveys that those rows are of
        for value in _in_order(bits):
            rows = start + np.flatnonzero(bits == value)
            free = heads[~taken[heads] | ((shown[heads] & value) == 0) & (surveys is not None)]
            ours, new = match(of_all[free], of_all[rows])
            led[rows[new]] = free[ours]
            taken[led[rows]] = True
            shown[led[rows]] |= value
            heads = np.concatenate([heads, rows[led[rows] == rows]])
        start += len(sky)
    return led


def _in_order(bits: Rows) -> Rows:
    """The values there are, in the order in which they appear."""
    values, first = np.unique(bits, return_index=True)
    return values[np.argsort(first)]


def places_of(sky: Path, rows: int) -> NDArray[np.float64]:
    """(rows, 2) right ascension and declination of a sky's first rows in degrees, NaN where unknown."""
    from engine.store import Store

    table = Store(sky).table(["ra", "dec"])
    return np.stack([np.asarray(table.column(n).to_numpy(), np.float64)[:rows] for n in ("ra", "dec")], 1)


def ids_of(sky: Path, rows: int) -> NDArray[Any]:
    """(rows,) ids as the files had them: not as a sky told two of the same name apart."""
    import pyarrow.compute as pc

    from engine.store import Store

    table = Store(sky).table(["id", "_id"])
    return np.asarray(pc.coalesce(table.column("_id"), table.column("id")).to_numpy(), str)[:rows]
