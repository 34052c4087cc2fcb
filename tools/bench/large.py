"""A sky of a million rows, server side: opening it, its columns, finding, searching, tiles; milliseconds and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import engine
from engine.tiles import Tiles
from engine.zorder import ZIndex
from tools.bench import million
from tools.bench.measure import Bench, Row, each, repeated

TILE = 512


def opening(bench: Bench) -> Iterator[Row]:
    """Opening, ids, columns, finding an object, the sorted index on the sky."""
    path = bench.million
    yield repeated(lambda: engine.open(path), times=10, warm=1).row(f"open a sky of {bench.rows:,} rows")
    yield repeated(lambda: engine.open(path).ids, times=5, warm=1).row("all ids", note="of a sky just opened")
    yield repeated(lambda: engine.open(path).column("z"), times=5, warm=1).row("one column", note="of a sky just opened")
    sky = engine.open(path)
    rows = np.random.default_rng(1).integers(0, len(sky), 300)
    names = [str(sky.ids[r]) for r in rows]
    yield each(sky.row, names).row("row of an id")
    places = [f"{ra:.6f} {dec:+.6f}" for ra, dec in zip(sky.column("ra")[rows], sky.column("dec")[rows], strict=True)]
    yield each(sky.find, places).row("nearest object to a position")
    yield each(lambda r: sky[int(r)], rows).row("one whole object, anywhere",
                                                note=f"pixels of {million.STORED:,} stored objects")


def memory(bench: Bench) -> Iterator[Row]:
    """What a process holds after all a page asks for has been asked (measured in a process of its own)."""
    code = ("import sys, psutil, engine\nfrom engine.tiles import Tiles\n"
            "sky = engine.open(sys.argv[1]); sky.ids; sky.row(str(sky.ids[-1])); sky.find('10 10')\n"
            "tiles = Tiles(sky.zindex(sky.maps[0]), sky.column)\n"
            "[tiles.png(3, 2, 2, c) for c in (None, 'z', 'class')]\n"
            "[sky.near(7, q, a) for q in sky.spaces for a in sky.spaces]\n"
            "print(psutil.Process().memory_info().rss)")
    done = subprocess.run([sys.executable, "-c", code, str(bench.million)], capture_output=True, text=True, check=True)
    yield Row("memory of a process that did all that", int(done.stdout) / 2**30, "GiB",
              note="ids, three columns, tiles, four searches")


def search(bench: Bench) -> Iterator[Row]:
    """Nearest neighbours: in the million, and exactly, beside a matrix product."""
    from engine.search import EXACT, Index

    sky = engine.open(bench.million)
    rows = np.random.default_rng(2).integers(0, len(sky), 103).tolist()
    for query in sky.spaces:
        for among in sky.spaces:
            found = each(partial(sky.near, query=query, among=among, k=8), rows)
            yield found.row(f"eight neighbours, {query} -> {among}")
    n = min(EXACT - 1, len(sky))
    vectors = np.asarray(sky.vectors("image")[:n], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = Index.build(sky.vectors("image")[:n])
    queries = [vectors[r][None] for r in np.random.default_rng(3).integers(0, n, 43)]
    theirs = each(lambda q: _matmul(vectors, q, 8), queries)
    yield each(lambda q: index.search(q, 8), queries).row(f"exact search among {n:,}", "NumPy matrix product", theirs)
    yield from _recall(sky, n=200)


def _matmul(vectors: NDArray[Any], query: NDArray[Any], k: int) -> NDArray[Any]:
    similarity = vectors @ query[0]
    best = np.argpartition(-similarity, k)[:k]
    return best[np.argsort(-similarity[best])]


def _recall(sky: Any, n: int) -> Iterator[Row]:
    """How many of the true ten nearest the large index finds."""
    import faiss

    index = sky.index("image")
    vectors = np.asarray(sky.vectors("image"), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[np.random.default_rng(4).integers(0, len(vectors), n)]
    exact = faiss.knn(queries, vectors, 10, metric=faiss.METRIC_INNER_PRODUCT)[1]
    found, _ = index.search(queries, 10)
    hits = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    yield Row("recall of the ten nearest", 100 * float(hits), "%", note=f"{index.kind} index, {n} queries")


def tiles(bench: Bench) -> Iterator[Row]:
    """Tiles, taps and lassos, beside datashader on the same points and windows."""
    sky = engine.open(bench.million)
    chart = sky.map(sky.maps[0])
    yield repeated(lambda: ZIndex.build(chart.xy), times=5, warm=1).row("sort the map's points", note="once a map")
    index = sky.zindex(sky.maps[0])
    made = Tiles(index, sky.column)
    windows = _windows(index)
    for colour, text in ((None, "density"), ("z", "mean of a column"), ("class", "commonest class")):
        made.png(0, 0, 0, colour)
        ours = each(partial(_tile, made, colour), windows)
        peer = _datashader(sky, chart.xy, index, windows, colour)
        yield ours.row(f"map tile, {text}", "datashader" if peer else None, peer, "" if peer else "datashader is not installed")
    rng = np.random.default_rng(5)
    spots = chart.xy[rng.integers(0, len(chart.xy), 203)]
    yield each(lambda p: index.tap(float(p[0]), float(p[1])), spots).row("nearest point to a click")
    turn = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    loop = np.stack([np.cos(turn), np.sin(turn)], 1) * 0.2 * index.extent.side + [0, 0]
    yield repeated(lambda: index.lasso(loop)).row("lasso", note=f"{int(index.lasso(loop).sum()):,} points inside")
    red = sky.column("z") > 0.5
    yield repeated(lambda: index.keep(red)).row("a new filter", note="all levels of the map")


def _tile(made: Tiles, colour: str | None, window: tuple[int, int, int]) -> bytes:
    return made.png(*window, colour)


def _windows(index: Any) -> list[tuple[int, int, int]]:
    """Tiles that hold points, from the whole map to a thousandth of its side."""
    rng = np.random.default_rng(6)
    xy = index.xy[rng.integers(0, len(index.xy), 103)]
    out = []
    for i, (x, y) in enumerate(xy):
        z = i % 11
        size = index.extent.side / 2**z
        out.append((z, int((x - index.extent.x0) / size), int((y - index.extent.y0) / size)))
    return out


def _datashader(sky: Any, xy: NDArray[Any], index: Any, windows: list[tuple[int, int, int]], colour: str | None) -> Any:
    """The same windows through what `hv.rasterize` calls: aggregate, shade, PNG; None where datashader is not installed."""
    try:
        import datashader as ds
        import datashader.transfer_functions as tf
        import pandas as pd
    except ImportError:
        return None
    frame = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1]})
    how = ds.count()
    if colour is not None:
        values = sky.column(colour)
        frame[colour] = pd.Categorical(values) if values.dtype.kind == "U" else values
        how = ds.count_cat(colour) if values.dtype.kind == "U" else ds.mean(colour)

    def draw(window: tuple[int, int, int]) -> None:
        z, i, j = window
        size = index.extent.side / 2**z
        x0, y0 = index.extent.x0 + i * size, index.extent.y0 + j * size
        canvas = ds.Canvas(TILE, TILE, x_range=(x0, x0 + size), y_range=(y0, y0 + size))
        tf.shade(canvas.points(frame, "x", "y", how)).to_bytesio()

    return each(draw, windows)


def environment() -> dict[str, Any]:
    """What the numbers were measured on."""
    import platform

    return {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count(),
            "load": os.getloadavg()[0], "system": platform.system()}
