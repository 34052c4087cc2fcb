"""Vectors -> places in the plane: PCA and UMAP, fitted once on a sample, saved as arrays and JSON, open to newcomers.

PCA is a linear projection. UMAP (McInnes, Healy & Melville 2018) is fitted on at most `sample` vectors, started from
their PCA so that its orientation and coarse shape are reproducible (Kobak & Linderman 2021). Everything else, newcomers
too, goes to the weighted geometric median (Weiszfeld 1937) of the places of its 15 nearest fitted vectors: unlike their
mean, it never lies in the void between two groups. Vectors are taken at unit length; rows with a NaN are not placed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.files import read_json, write_json

FORMAT = 1
NEIGHBOURS = 15
MIN_DIST = 0.1
EPOCHS = 200
FEW = 8  # below this many vectors there is nothing for UMAP to learn; their PCA is the map
CHUNK = 8192
PRESERVED_NEIGHBOURS = 20
PRESERVED_ROWS = 20_000

Array = NDArray[Any]


@dataclass(frozen=True)
class Map:
    """Places of the rows of one space. xy: (n, 2) float32, NaN where not placed; model: the arrays that place newcomers.

    preserved: (n,) float32, the share of each row's 20 nearest vectors that are also among its 20 nearest on the map;
    NaN where it was not measured. manifest: kind, space, seed, rows and what else is needed to tell how it was made.
    """

    name: str
    xy: NDArray[np.float32]
    model: Mapping[str, Array]
    manifest: Mapping[str, Any]
    preserved: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    def place(self, vectors: ArrayLike) -> NDArray[np.float32]:
        """Places (k, 2) of newcomers with vectors (k, dim); the map itself stays as it is.

        Raises ValueError if the vectors have another dimension than those it was fitted on.
        """
        new = np.asarray(vectors)
        if new.ndim != 2 or new.shape[1] != self.manifest["dim"]:
            raise ValueError(f"map {self.name!r} places vectors of dimension {self.manifest['dim']}, got {new.shape}")
        out = np.full((len(new), 2), np.nan, np.float32)
        for start, unit, known in _chunks(new):
            out[start + known] = _place(self.kind, self.model, unit[known])
        return out

    def grow(self, vectors: ArrayLike) -> Map:
        """The map with newcomers appended as further rows."""
        xy = np.concatenate([self.xy, self.place(vectors)])
        preserved = np.full(len(xy), np.nan, np.float32)
        preserved[:len(self.preserved)] = self.preserved
        return Map(self.name, xy, self.model, {**self.manifest, "rows": len(xy)}, preserved)

    def save(self, folder: Path | str) -> None:
        """Write into a folder (maps/<name>): model.npz, places and, last, the manifest that names how many rows count."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / "model.npz", lambda file: np.savez(file, allow_pickle=False, **self.model))
        _replace(folder / "xy.npy", lambda file: np.save(file, self.xy, allow_pickle=False))
        _replace(folder / "preserved.npy", lambda file: np.save(file, self.preserved, allow_pickle=False))
        write_json(folder / "manifest.json", {**self.manifest, "format": FORMAT, "name": self.name})

    @classmethod
    def open(cls, folder: Path | str) -> Map:
        """Open a saved map. Raises FileNotFoundError if there is none, ValueError if it is damaged or of another format."""
        folder = Path(folder)
        manifest = read_json(folder / "manifest.json")
        if manifest.get("format") != FORMAT:
            raise ValueError(f"{folder}: map format {manifest.get('format')} is not {FORMAT}; run `omnisky map` again")
        try:
            with np.load(folder / "model.npz", allow_pickle=False) as arrays:
                model = dict(arrays)
            xy, preserved = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("xy", "preserved"))
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise ValueError(f"{folder} is damaged ({error}); run `omnisky map` again") from error
        rows = manifest["rows"]
        if len(xy) < rows:
            raise ValueError(f"{folder}: {len(xy)} places for {rows} rows; run `omnisky map` again")
        return cls(manifest["name"], xy[:rows], model, manifest, preserved[:rows])


def fit(vectors: ArrayLike, kind: str = "umap", sample: int = 10_000, *, seed: int = 0, name: str | None = None,
        about: Mapping[str, Any] | None = None, start: Map | None = None) -> Map:
    """Fit a map on a seeded sample of the vectors (n, dim) and place all n rows.

    about: further lines of the manifest (space, model checksum); start: an earlier map of the same rows in the same
    order, whose places UMAP starts from, so that a map that has grown can be fitted again and keeps its shape.
    Raises ValueError for an unknown kind, or if no vector is finite.
    """
    if kind not in ("pca", "umap"):
        raise ValueError(f"there is no map of kind {kind!r}; choose pca or umap")
    everything = np.asarray(vectors)
    known = np.concatenate([start_ + rows for start_, _, rows in _chunks(everything)] or [np.empty(0, int)])
    if not len(known):
        raise ValueError("there is no finite vector to make a map of; run `omnisky embed` first")
    chosen = known if len(known) <= sample else np.sort(np.random.default_rng(seed).permutation(known)[:sample])
    unit = _unit(everything[chosen])
    model = _fit_pca(unit)
    fitted = _place("pca", model, unit)
    if kind == "umap":
        if start is not None and len(start.xy) > chosen[-1] and np.isfinite(start.xy[chosen]).all():
            fitted = start.xy[chosen]
        fitted = _fit_umap(unit, fitted, seed) if len(unit) >= FEW else fitted
        model = {"anchors": unit.astype(np.float16), "anchors_xy": fitted}
    manifest = {"kind": kind, "dim": int(everything.shape[1]), "rows": len(everything), "seed": seed,
                "sample": len(chosen), **({"neighbours": NEIGHBOURS, "min_dist": MIN_DIST, "epochs": EPOCHS}
                                          if kind == "umap" else {}), **(about or {})}
    made = Map(name or kind, np.empty((0, 2), np.float32), model, manifest)
    xy = made.place(everything)
    xy[chosen] = fitted
    return Map(made.name, xy, model, manifest, preserved(everything, xy, seed=seed))


def preserved(vectors: ArrayLike, xy: NDArray[np.float32], *, seed: int = 0) -> NDArray[np.float32]:
    """Share of each row's 20 nearest vectors that are among its 20 nearest places, (n,); 0 to 1.

    Measured among at most 20,000 rows chosen by the seed; NaN for the others and for rows without a place.
    """
    out = np.full(len(xy), np.nan, np.float32)
    rows = np.flatnonzero(np.isfinite(xy).all(axis=1))
    if len(rows) > PRESERVED_ROWS:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:PRESERVED_ROWS])
    k = min(PRESERVED_NEIGHBOURS, len(rows) - 1)
    if k < 1:
        return out
    from scipy.spatial import cKDTree

    unit = _unit(np.asarray(vectors)[rows])
    _, near = _search(unit, unit, k + 1)
    _, shown = cKDTree(xy[rows]).query(xy[rows], k + 1)
    me = np.arange(len(rows))[:, None]
    near, shown = np.where(near == me, -1, near), np.where(shown == me, -2, shown)  # oneself is no neighbour
    both = (near[:, :, None] == shown[:, None, :]).any(axis=2).sum(axis=1)
    out[rows] = np.minimum(both / k, 1)
    return out


def warm_up() -> None:
    """Import and compile UMAP (some 7 s of one core), so that the first fit does not wait for it."""
    _fit_umap(_unit(np.random.default_rng(0).normal(size=(64, 8))), np.zeros((64, 2), np.float32), 0)


def _unit(vectors: Array) -> NDArray[np.float32]:
    """(n, dim) float32 at unit length; a zero vector stays zero."""
    wide = np.asarray(vectors, np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def _chunks(vectors: Array) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.intp]]]:
    """(start, unit vectors, which of them are finite), so that a memory map of any length is read in bounded memory."""
    for start in range(0, len(vectors), CHUNK):
        unit = _unit(vectors[start:start + CHUNK])
        yield start, unit, np.flatnonzero(np.isfinite(unit).all(axis=1))


def _fit_pca(unit: NDArray[np.float32]) -> dict[str, Array]:
    """Mean and the two directions of largest variance, each with its largest component positive; scaled to rms 1."""
    mean = unit.mean(axis=0, dtype=np.float64)
    centred = unit - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    if axes.shape[1] < 2:  # vectors of one number
        axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(2)] < 0, -1, 1)
    rms = np.sqrt(np.mean(np.sum((centred @ axes) ** 2, axis=1)))
    return {"mean": mean.astype(np.float32), "axes": (axes / max(rms, 1e-12)).astype(np.float32)}


def _fit_umap(unit: NDArray[np.float32], start: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Places (n, 2) by UMAP from exact neighbours, turned back to where it started: centred, same axes, rms 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tensorflow is absent, and that a seed means one thread: both are meant
        import umap

        k = min(NEIGHBOURS, len(unit) - 1)
        similarity, near = _search(unit, unit, k)
        distance = np.sqrt(np.maximum(2 - 2 * similarity, 0)).astype(np.float32)
        rng = np.random.default_rng(seed)  # equal vectors need a hair between them, or the layout cannot part them
        begin = start * 3 + rng.normal(scale=1e-3, size=start.shape)
        made = umap.UMAP(n_neighbors=k, min_dist=MIN_DIST, n_epochs=EPOCHS, random_state=seed, n_jobs=1,
                         init=begin.astype(np.float32), precomputed_knn=(near.astype(np.int32), distance),
                         force_approximation_algorithm=True).fit(unit)
    return _upright(np.asarray(made.embedding_, np.float64), start.astype(np.float64)).astype(np.float32)


def _upright(xy: Array, like: Array) -> Array:
    """Rotate, mirror, centre and scale (to rms 1) so that xy lies over `like` as well as it can (Schoenemann 1966)."""
    xy, like = xy - np.nanmean(xy, axis=0), like - like.mean(axis=0)
    xy = np.nan_to_num(xy)  # UMAP gives NaN to a vector without any neighbour
    u, _, v = np.linalg.svd(xy.T @ like)
    return xy @ (u @ v) / max(np.sqrt(np.mean(np.sum(xy ** 2, axis=1))), 1e-12)


def _search(queries: NDArray[np.float32], among: NDArray[np.float32], k: int) -> tuple[Array, Array]:
    """Cosine similarity and index (q, k) of the nearest unit vectors, exactly, nearest first."""
    import faiss

    index = faiss.IndexFlatIP(among.shape[1])
    index.add(np.ascontiguousarray(among, np.float32))
    return index.search(np.ascontiguousarray(queries, np.float32), k)


def _place(kind: str, model: Mapping[str, Array], unit: NDArray[np.float32]) -> NDArray[np.float32]:
    """Places (k, 2) of finite unit vectors (k, dim)."""
    if kind == "pca":
        return ((unit - model["mean"]) @ model["axes"]).astype(np.float32)
    anchors, places = np.asarray(model["anchors"], np.float32), model["anchors_xy"].astype(np.float64)
    if not len(unit):
        return np.empty((0, 2), np.float32)
    similarity, near = _search(unit, _unit(anchors), min(NEIGHBOURS, len(anchors)))
    distance = np.sqrt(np.maximum(2 - 2 * similarity, 0)).astype(np.float64)
    beyond = distance - distance[:, :1]  # as UMAP: the nearest counts fully, the others fade with their excess
    weight = np.exp(-beyond / np.maximum(beyond.mean(axis=1, keepdims=True), 1e-12))
    return _geometric_median(places[near], weight).astype(np.float32)


def _geometric_median(points: Array, weight: Array, steps: int = 12) -> Array:
    """The place (q, 2) with the least weighted distance to points (q, k, 2), by Weiszfeld's iteration from their mean."""
    at = np.einsum("qk,qkd->qd", weight, points) / weight.sum(axis=1)[:, None]
    spread = np.sqrt(((points - at[:, None]) ** 2).sum(-1).mean(axis=1))[:, None]
    for _ in range(steps):
        pull = weight / np.sqrt(((points - at[:, None]) ** 2).sum(-1) + (0.1 * spread) ** 2 + 1e-24)
        at = np.einsum("qk,qkd->qd", pull, points) / pull.sum(axis=1)[:, None]
    return at


def _replace(path: Path, write: Any) -> None:
    """Write a file beside its name and rename it there, so that a reader sees the old or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        write(file)
    temporary.replace(path)
