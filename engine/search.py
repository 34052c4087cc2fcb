"""Nearest neighbours within and across modalities: FAISS over one space's vectors, the same thing seen twice left out.

Vectors are compared by their cosine, in float16 as they are stored. Up to `EXACT` of them every one is looked at; above, an
inverted file (Jegou, Douze & Schmid 2011) looks at the lists nearest to the query. A saved index is FAISS's own format
beside a manifest that holds its checksum; a file that does not match it is never given to FAISS.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine import positions
from engine.files import commit, read_json, write_json
from engine.steps import Step

if TYPE_CHECKING:
    from engine.embeddings import Embeddings
    from engine.sky import Sky

Array = NDArray[Any]
FORMAT = 1
EXACT = 200_000
CHUNK = 16_384
PROBES = 48
TRAINING = 40  # vectors a list that the inverted file is trained on
NEIGHBOURS = 64


@dataclass(frozen=True)
class Neighbours:
    """Answers of a search, best first. dropped: how many were left out as the query or a better answer seen again."""

    ids: tuple[str, ...]
    rows: tuple[int, ...]
    similarity: tuple[float, ...]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[str, int, float]]:
        return zip(self.ids, self.rows, self.similarity, strict=True)


def _chunks(vectors: Array, start: int = 0) -> Iterator[tuple[Array, Array]]:
    """Rows that have a vector and their vectors at unit length in float32, a chunk at a time."""
    for first in range(start, len(vectors), CHUNK):
        some = np.asarray(vectors[first : first + CHUNK], np.float32)
        there = np.flatnonzero(np.isfinite(some[:, 0]))
        some = some[there]
        yield there + first, some / np.linalg.norm(some, axis=1, keepdims=True).clip(1e-12)


def _known(vectors: Array) -> Array:
    """Rows that have a vector; of a mapped array no more than a column is held."""
    return np.flatnonzero(np.isfinite(vectors[:, 0]))


class Index:
    """A FAISS index over the rows of a space that have a vector; numbers it gives are rows of the sky."""

    def __init__(self, faiss_index: Any, kind: str, rows: int) -> None:
        self.faiss, self.kind, self.rows = faiss_index, kind, rows

    def __len__(self) -> int:
        """How many vectors can be found."""
        return int(self.faiss.ntotal)

    @classmethod
    def build(cls, vectors: Array, kind: str | None = None) -> Index:
        """Over vectors (n, dim), NaN where absent; kind: "exact" or "ivf", by their number if None."""
        made = cls._empty(vectors, kind or kind_for(len(_known(vectors))))
        made.extend(vectors)
        return made

    @classmethod
    def _empty(cls, vectors: Array, kind: str) -> Index:
        import faiss

        dim = vectors.shape[1]
        half = faiss.ScalarQuantizer.QT_fp16  # as stored: half the memory of float32, and twice as fast to scan
        if kind == "exact":
            return cls(faiss.IndexIDMap2(faiss.IndexScalarQuantizer(dim, half, faiss.METRIC_INNER_PRODUCT)), kind, 0)
        known = _known(vectors)  # a sky of many rows may have few vectors
        lists = int(2 ** round(math.log2(4 * math.sqrt(len(known)))))
        index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(dim), dim, lists, half, faiss.METRIC_INNER_PRODUCT)
        step = max(1, len(known) // (lists * TRAINING))
        index.train(np.concatenate([v for _, v in _chunks(vectors[known[::step]])]))
        index.nprobe = PROBES
        return cls(index, kind, 0)

    def extend(self, vectors: Array) -> None:
        """Take in the rows of `vectors` that came after those it knows."""
        for rows, some in _chunks(vectors, self.rows):
            if len(rows):
                self.faiss.add_with_ids(some, rows.astype(np.int64))
        self.rows = len(vectors)

    def search(self, queries: Array, k: int) -> tuple[Array, Array]:
        """Rows and cosines, (q, k) each, of unit queries (q, dim); row -1 where there are no more."""
        import faiss

        faiss.omp_set_num_threads(1 if len(queries) == 1 else os.cpu_count() or 1)  # to share one query out costs more than it
        similarity, rows = self.faiss.search(np.ascontiguousarray(queries, np.float32), min(k, max(len(self), 1)))
        return rows, similarity

    @classmethod
    def open(cls, sky: str | Path, space: str, embeddings: Embeddings) -> Index:
        """The saved index if it belongs to these vectors, brought up to date in memory; else an exact one made in memory, which
        a million rows still answer in some 20 ms (`omnisky index` makes the faster one)."""
        vectors = embeddings.vectors
        saved = cls._load(_path(sky, space), embeddings)
        if saved is None:
            return cls.build(vectors, "exact")
        saved.extend(vectors)
        return saved

    @classmethod
    def _load(cls, path: Path, embeddings: Embeddings) -> Index | None:
        import faiss

        manifest = _manifest(path, embeddings)
        if manifest is None or _digest(path) != manifest.get("checksum"):
            return None
        return cls(faiss.read_index(str(path)), manifest["kind"], int(manifest["rows"]))

    def save(self, sky: str | Path, space: str, embeddings: Embeddings) -> None:
        """Write index/<space>.faiss and, last, its manifest."""
        import faiss

        path = _path(sky, space)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        faiss.write_index(self.faiss, str(temporary))
        digest = _digest(temporary)
        path.with_suffix(".json").unlink(missing_ok=True)
        commit(temporary, path)
        write_json(path.with_suffix(".json"), {
            "format": FORMAT, "space": space, "kind": self.kind, "rows": self.rows, "dim": embeddings.dim,
            "vectors": embeddings.manifest["checksum"], "checksum": digest})


def _manifest(path: Path, embeddings: Embeddings) -> dict[str, Any] | None:
    """What is said beside a saved index; None if there is none of these vectors."""
    about = path.with_suffix(".json")
    if not (path.is_file() and about.is_file()):
        return None
    try:
        manifest: dict[str, Any] = read_json(about)
    except (ValueError, OSError):
        return None
    ours = (manifest.get("format"), manifest.get("vectors"), manifest.get("dim")) == (
        FORMAT, embeddings.manifest["checksum"], embeddings.dim)
    return manifest if ours and manifest.get("rows", 0) <= len(embeddings) else None


def saved_rows(sky: str | Path, space: str, embeddings: Embeddings) -> int:
    """How many of a space's rows its saved index knows; 0 without one."""
    manifest = _manifest(_path(sky, space), embeddings)
    return 0 if manifest is None else int(manifest["rows"])


def _path(sky: str | Path, space: str) -> Path:
    return Path(sky) / "index" / f"{space}.faiss"


def kind_for(known: int) -> str:
    """The kind of index that a number of vectors gets."""
    return "exact" if known < EXACT else "ivf"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_and_save(sky: str | Path, space: str, embeddings: Embeddings) -> Iterator[Step]:
    """Make a space's index and save it; one that is up to date already is left alone."""
    vectors, kind = embeddings.vectors, kind_for(embeddings.known())
    index = Index._load(_path(sky, space), embeddings)
    if index is None or index.kind != kind:
        index = Index._empty(vectors, kind)
    elif index.rows == len(vectors):
        yield Step(1.0, f"{space}: the index is up to date")
        return
    while index.rows < len(vectors):
        index.extend(vectors[: index.rows + 16 * CHUNK])
        yield Step(0.99 * index.rows / len(vectors), f"{space}: indexed {index.rows:,} of {len(vectors):,}")
    index.save(sky, space, embeddings)
    yield Step(1.0, f"{space}: indexed {len(index):,} vectors ({index.kind})")


def near(sky: Sky, vector: Array, among: str, k: int, radius: float | None = 5.0, row: int | None = None) -> Neighbours:
    """The k rows whose `among` vectors are most like `vector` (dim,), best first.

    row: the query's own, which is never an answer. Objects within `radius` arcsec of it or of a better answer are dropped and
    counted; with None they are kept.
    Raises ValueError if k < 1, or the vector is of another dimension.
    """
    if k < 1:
        raise ValueError(f"ask for at least one neighbour, not {k}")
    index = sky.index(among)
    query = np.asarray(vector, np.float32)
    if query.shape != (index.faiss.d,):
        raise ValueError(f"the vectors of {among!r} have {index.faiss.d} dimensions, the query has shape {query.shape}")
    query = query / max(float(np.linalg.norm(query)), 1e-12)
    wanted = k + 8
    while True:
        rows, similarity = (x[0] for x in index.search(query[None], wanted))
        keep, dropped = _distinct(sky, rows, k, radius, row)
        if len(keep) == k or wanted >= len(index):
            break
        wanted = min(4 * wanted, max(len(index), 1))
    chosen = rows[keep]
    return Neighbours(tuple(str(i) for i in sky.ids[chosen]), tuple(int(r) for r in chosen),
                      tuple(float(s) for s in similarity[keep]), dropped)


def _distinct(sky: Sky, rows: Array, k: int, radius: float | None, own: int | None) -> tuple[list[int], int]:
    """Places in `rows` of the first k that are not the query or each other seen again, and how many were passed over."""
    if radius is None:
        return [i for i, r in enumerate(rows) if r >= 0 and r != own][:k], 0
    ra, dec = sky.column("ra"), sky.column("dec")
    limit = (2 * math.sin(math.radians(radius / 3600) / 2)) ** 2
    there = rows >= 0
    where = positions.unit_vectors(ra[rows], dec[rows])
    taken = [] if own is None else [positions.unit_vectors(ra[own], dec[own])]
    keep: list[int] = []
    dropped = 0
    for i in np.flatnonzero(there):
        same = rows[i] == own or any(float(((where[i] - t) ** 2).sum()) <= limit for t in taken)
        if same:
            dropped += 1
            continue
        keep.append(int(i))
        taken.append(where[i])
        if len(keep) == k:
            break
    return keep, dropped


def regress(known: Array, values: Array, asked: Array, k: int = NEIGHBOURS) -> Array:
    """Values (m,) at vectors `asked` (m, d) from those at `known` (n, d): k nearest on standardised columns, weighted by
    1 / distance (the "zero-shot" protocol of Parker et al. 2024, MNRAS 531, 4990)."""
    known, asked = np.asarray(known, np.float64), np.asarray(asked, np.float64)
    mean, scatter = known.mean(0), known.std(0)
    scatter = np.where(scatter > 0, scatter, 1.0)
    a, b = (asked - mean) / scatter, (known - mean) / scatter
    k = min(k, len(known))
    out = np.empty(len(a))
    norms = (b**2).sum(1)
    for start in range(0, len(a), 1024):
        some = a[start : start + 1024]
        square = (some**2).sum(1)[:, None] + norms - 2 * some @ b.T
        nearest = np.argpartition(square, k - 1, axis=1)[:, :k]
        weight = 1.0 / np.sqrt(np.clip(np.take_along_axis(square, nearest, 1), 1e-12, None))
        out[start : start + 1024] = (values[nearest] * weight).sum(1) / weight.sum(1)
    return out


def best_k(known: Array, values: Array, choices: tuple[int, ...] = (4, 8, 16, 32, 64, 128), seed: int = 0) -> int:
    """The k with the least squared error on a fifth of `known` that is set aside."""
    order = np.random.default_rng(seed).permutation(len(known))
    cut = max(1, len(order) // 5)
    test, rest = order[:cut], order[cut:]
    error = [float(((regress(known[rest], values[rest], known[test], k) - values[test]) ** 2).mean()) for k in choices]
    return choices[int(np.argmin(error))]


def split(sky: Sky, fraction: float = 0.2, seed: int = 0, order: int = 6) -> Array:
    """(n,) bool: True for the test part, whole HEALPix pixels of `order` (55' at 6), so that neighbours on the sky stay
    together. Objects without a position are never in the test part."""
    cells = pc.fill_null(sky.store.table(["_healpix_29"]).column("_healpix_29"), -1).to_numpy()
    there = cells >= 0
    pixel = cells >> (2 * (29 - order))
    unique = np.unique(pixel[there])
    chosen = np.random.default_rng(seed).random(len(unique)) < fraction
    return there & np.isin(pixel, unique[chosen])
