"""A sky of a million rows to measure on: clusters and filaments in which map, vectors and columns agree.

Every row has its own id, position, columns and vectors; its cutouts and spectra are those of one of 3,000 simulated objects
that are really stored (a million would take 200 GB). It is built once in a cache folder; a build that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine import demo_sky, jobs
from engine.embeddings import Embeddings
from engine.files import read_json
from engine.maps import Map
from engine.steps import Step
from engine.store import Store
from engine.store.rows import NESTED, healpix_29

STORED = 3000
DIM = 64
SPACES = ("image", "spectrum")
SEED = 11
CHUNK = 50_000
PART = 1000  # rows a commit
SAMPLE = 10_000
MAP = "umap-image"
CLUSTERS, FILAMENTS = 60, 40
CELL = 0.35  # map units over which vectors change: a few times the width of a cluster


def places(rows: NDArray[np.int64], seed: int = SEED) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Where on the map rows lie, (n, 2), and in which structure: 65 % in Gaussian clusters, 32 % in filaments, 3 % alone."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-10, 10, (CLUSTERS, 2))
    width = 10 ** rng.uniform(-1.5, -0.1, CLUSTERS)
    ends = rng.uniform(-10, 10, (FILAMENTS, 3, 2))
    out = np.empty((len(rows), 2))
    which = np.empty(len(rows), np.int64)
    for chunk in np.unique(rows // CHUNK):  # by fixed chunks, so that a row does not depend on who asks for it
        draw = np.random.default_rng([seed, int(chunk)])
        share, kind = draw.random(CHUNK), draw.random(CHUNK)
        normal, along, alone = draw.normal(size=(CHUNK, 2)), draw.random((CHUNK, 1)), draw.uniform(-11, 11, (CHUNK, 2))
        cluster, filament = (kind * CLUSTERS).astype(int), (kind * FILAMENTS).astype(int)
        a, b, c = (ends[filament, i] for i in range(3))
        curve = (1 - along) ** 2 * a + 2 * along * (1 - along) * b + along**2 * c  # a quadratic Bezier curve
        xy = np.where((share < 0.65)[:, None], centre[cluster] + width[cluster, None] * normal, curve + 0.04 * normal)
        xy = np.where((share > 0.97)[:, None], alone, xy)
        structure = np.where(share < 0.65, cluster, CLUSTERS + filament)
        mine = rows // CHUNK == chunk
        out[mine], which[mine] = xy[rows[mine] % CHUNK], structure[rows[mine] % CHUNK]
    return out.astype(np.float32), which


def vectors(xy: NDArray[np.float32], space: str, rows: range, seed: int = SEED) -> NDArray[np.float32]:
    """Vectors (n, DIM) that are alike where the places are near: random Fourier features (Rahimi & Recht 2007) of the place,
    the same for both spaces, with noise of each space's own."""
    rng = np.random.default_rng([seed, 1])
    wave, phase = rng.normal(size=(2, DIM)) / CELL, rng.uniform(0, 2 * np.pi, DIM)
    noise = np.random.default_rng([seed, 2, SPACES.index(space), rows.start]).normal(size=(len(xy), DIM))
    out = np.cos(xy @ wave + phase) + 0.25 * noise
    return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)


def table(template: pa.Table, rows: range, seed: int = SEED) -> pa.Table:
    """Rows of their own, pointing to the pixels of template rows."""
    rng = np.random.default_rng([seed, 3, rows.start])
    pick = rng.integers(0, len(template), len(rows))
    xy, structure = places(np.arange(rows.start, rows.stop), seed)
    ra, dec = rng.uniform(0, 360, len(rows)), np.degrees(np.arcsin(rng.uniform(-1, 1, len(rows))))
    new = {"id": pa.array([f"synthetic-{i:07d}" for i in rows]), "ra": pa.array(ra), "dec": pa.array(dec),
           "_healpix_29": pa.array(healpix_29(ra, dec)), "_origin": pa.array([f"synthetic-{seed}"] * len(rows)),
           "_id": pa.nulls(len(rows), pa.string())}
    some = template.take(pa.array(pick))
    columns = []
    for field in template.schema:
        if field.name in new:
            columns.append(new[field.name])
        elif field.name == "z":
            z = 0.5 + 0.3 * np.sin(0.4 * xy[:, 0]) * np.cos(0.3 * xy[:, 1]) + 0.02 * structure / CLUSTERS
            columns.append(pa.array(np.abs(z + rng.normal(scale=0.02, size=len(rows)))))
        elif pa.types.is_floating(field.type) and not field.name.startswith("_"):
            values = some.column(field.name).to_numpy(zero_copy_only=False)
            jittered = values * (1 + 0.05 * rng.normal(size=len(rows)))
            columns.append(pa.array(jittered, field.type, mask=np.isnan(values)))
        else:
            columns.append(some.column(field.name))
    return pa.Table.from_arrays(columns, schema=template.schema)


def build(folder: Path, n: int = 1_000_000) -> Iterator[Step]:
    """Make the sky in `folder`, or what is missing of it."""
    store = Store.create(folder)
    while len(store) < STORED:
        objects = list(demo_sky.objects(SEED, len(store), min(demo_sky.BATCH, STORED - len(store))))
        store.append(objects, ["simulated"] * len(objects))
        yield Step(0.2 * len(store) / STORED, f"simulated {len(store):,} of {STORED:,} objects")
    template = store.table([*store.schema.names, *NESTED]).slice(0, STORED).combine_chunks()
    while len(store) < n:
        rows = range(len(store), min((len(store) // CHUNK + 1) * CHUNK, n))
        made = table(template, rows)
        for first in range(0, len(made), PART):
            store.append_table(made.slice(first, PART))
        yield Step(0.2 + 0.3 * len(store) / n, f"{len(store):,} of {n:,} rows")
    for space in SPACES:
        yield from _embed(folder, space, n)
    about = folder / "maps" / MAP / "manifest.json"
    if not about.is_file() or read_json(about)["rows"] != n:
        _map(folder, n)
    yield Step(0.7, "map")
    for step in jobs.index(folder):
        yield Step(0.7 + 0.3 * step.fraction, step.note)


def _embed(folder: Path, space: str, n: int) -> Iterator[Step]:
    place = folder / "embeddings" / space
    manifest = {"space": space, "model": "random Fourier features", "checksum": f"synthetic-{SEED}-{DIM}", "inputs": [],
                "version": 1}
    made = Embeddings.open(place) if (place / "manifest.json").is_file() else Embeddings.create(place, DIM, manifest)
    while len(made) < n:
        rows = range(len(made), min(len(made) + CHUNK, n))
        xy, _ = places(np.arange(rows.start, rows.stop))
        made.append(vectors(xy, space, rows))
        yield Step(0.5 + 0.1 * len(made) / n, f"{space}: {len(made):,} of {n:,} vectors")


def _map(folder: Path, n: int) -> None:
    """The places as a map, with a sample of the vectors as the anchors that newcomers are placed by."""
    xy, _ = places(np.arange(n))
    made = Embeddings.open(folder / "embeddings" / "image")
    some = np.sort(np.random.default_rng(SEED).permutation(n)[:SAMPLE])
    manifest = {"kind": "umap", "space": "image", "dim": DIM, "rows": n, "seed": SEED, "sample": len(some),
                "checksum": made.manifest["checksum"]}
    Map(MAP, xy, {"anchors": np.asarray(made.vectors[some]), "anchors_xy": xy[some]}, manifest).save(folder / "maps" / MAP)


if __name__ == "__main__":
    import sys

    for step in build(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000):
        print(f"{100 * step.fraction:5.1f} %  {step.note}", flush=True)
