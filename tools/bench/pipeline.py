"""The stages from nothing to a map: simulate, store, embed, map, draw; objects a second."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine import demo_sky
from engine.objects import SkyObject
from tools.bench.measure import Bench, Row, each, rate, repeated

SEED = 23
BATCH = demo_sky.BATCH


def simulate(_: Bench) -> Iterator[Row]:
    """The renderer beside GalSim, which draws a bulge and a disc through the same seeing in the same nine bands."""
    import torch

    from engine.simulate import render

    ours = each(lambda first: render(SEED, torch.arange(first, first + BATCH)), range(0, 10 * BATCH, BATCH), warm=2)
    try:
        theirs = repeated(_galsim_one, times=20, warm=2)
    except ImportError:
        yield rate("simulate", BATCH, ours, note="GalSim is not installed (extra dev)")
        return
    yield rate("simulate", BATCH, ours, "GalSim", 1e3 / theirs.median,
               "ours: images with arms, bars, neighbours and noise, two spectra; GalSim: a bulge and a disc in the images only")


def _galsim_one() -> None:
    import galsim

    from engine.simulate import BANDS, CAMERAS

    for camera in CAMERAS:
        psf = galsim.Moffat(beta=3.0, fwhm=1.0)
        for _ in BANDS[camera.name]:
            bulge = galsim.Sersic(4, half_light_radius=0.7).shear(e1=0.1, e2=0.05)
            disc = galsim.Exponential(half_light_radius=2.0).shear(e1=0.3, e2=0.1)
            galsim.Convolve(0.3 * bulge + 0.7 * disc, psf).drawImage(nx=96, ny=96, scale=camera.scale)


def rendered(count: int) -> list[SkyObject]:
    """Simulated objects as a reader would give them."""
    return list(demo_sky.objects(SEED, 0, count))


def store(_: Bench) -> Iterator[Row]:
    """Appending, space, and getting at the pixels of one object, beside uncompressed HDF5."""
    from engine.store import Store

    objects = rendered(512)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sky"
        opened = Store.create(path)
        pieces = [objects[i : i + BATCH] for i in range(0, len(objects), BATCH)]
        appended = each(lambda batch: opened.append(batch, ["bench"] * len(batch)), pieces, warm=1)
        plain = _hdf5(Path(folder) / "plain.h5", objects)
        space, theirs = _size(path) / len(objects), (Path(folder) / "plain.h5").stat().st_size / len(objects)
        yield rate("store", BATCH, appended, note="each batch is on the disk (fsync) when it counts")
        yield Row("space an object", space / 1e3, "kB", "HDF5 uncompressed", theirs / space, f"HDF5: {theirs / 1e3:.0f} kB")
        yield from _access(Store(path), plain, len(objects))
        plain.close()


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def _hdf5(path: Path, objects: list[SkyObject]) -> Any:
    """The same arrays as contiguous HDF5 data sets."""
    import h5py

    parts = {f"{s}/{w}": [getattr(o.image(s), w) for o in objects]
             for s, w in itertools.product(("legacy", "hsc"), ("pixels", "ivar", "mask"))}
    parts |= {f"desi/{w}": [getattr(o.spectrum("desi"), w) for o in objects] for w in ("flux", "ivar", "mask", "resolution")}
    with h5py.File(path, "w") as file:
        for name, arrays in parts.items():
            file[name] = np.stack(arrays)
    return h5py.File(path, "r")


def _access(opened: Any, plain: Any, n: int) -> Iterator[Row]:
    order = np.random.default_rng(0).permutation(n).tolist()[:300]
    for name, parts in {"pixels of both surveys, one object": ("pixels",),
                        "pixels and ivar of both surveys": ("pixels", "ivar")}.items():
        wanted = list(itertools.product(("legacy", "hsc"), parts))

        def ours(row: int, wanted: Any = wanted) -> None:
            for survey, part in wanted:
                opened.pixels(row, survey, part)

        def theirs(row: int, wanted: Any = wanted) -> None:
            for survey, part in wanted:
                plain[f"{survey}/{part}"][row]

        yield each(ours, order).row(name, "h5py uncompressed", each(theirs, order))
    forgotten = []
    for row in order[:40]:  # the operating system forgets the files first: as near to a cold disk as one gets unprivileged
        _forget(opened.path)
        forgotten.append(each(lambda r: [opened.pixels(r, s) for s in ("legacy", "hsc")], [row], warm=0).median)
    yield Row("pixels of both surveys, files not in memory", float(np.median(forgotten)), "ms",
              note=f"p95 {np.percentile(forgotten, 95):.3g} ms, {len(forgotten)} runs")
    yield each(opened.read, order).row("one whole object", note="images, spectra, WCS, scalars with units")


def _forget(folder: Path) -> None:
    for file in folder.rglob("c.*"):
        fd = os.open(file, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def embed(bench: Bench) -> Iterator[Row]:
    """The shipped model on objects in memory."""
    from engine import checkpoints

    try:
        bundle = checkpoints.load(bench.model)
    except FileNotFoundError as error:
        yield Row("embed", float("nan"), "objects/s", note=f"not measured: {error}")
        return
    objects = rendered(2 * BATCH)
    yield rate("embed", len(objects), repeated(lambda: bundle.vectors(objects), times=6, warm=1), note=str(bundle.folder.name))


def picture(_: Bench) -> Iterator[Row]:
    """A thumbnail of four bands beside astropy's, both to PNG."""
    from io import BytesIO

    from astropy.visualization import make_lupton_rgb
    from PIL import Image as Pillow

    from explorer import pictures

    images = [image for thing in rendered(BATCH) if (image := thing.image("legacy")) is not None]

    def theirs(image: Any) -> None:
        rgb = make_lupton_rgb(*image.pixels[[3, 1, 0]], minimum=0, stretch=0.1, Q=8)
        Pillow.fromarray(rgb).save(BytesIO(), "PNG")

    yield each(pictures.picture, images).row("thumbnail", "astropy make_lupton_rgb and Pillow", each(theirs, images))


def chart(_: Bench) -> Iterator[Row]:
    """Fitting a map, and placing newcomers on it, beside umap-learn's own way of placing them."""
    import umap

    from engine import maps
    from tools.bench import million

    n, new = 3000, 1000
    xy, _which = million.places(np.arange(n + new))
    vectors = million.vectors(xy, "image", range(n + new))
    maps.warm_up()
    fitted = maps.fit(vectors[:n], "umap")
    yield rate("map: fit UMAP", n, repeated(lambda: maps.fit(vectors[:n], "umap"), times=3, warm=0), note="kernels compiled")
    theirs = umap.UMAP(n_neighbors=maps.NEIGHBOURS, n_epochs=maps.EPOCHS, random_state=0, n_jobs=1).fit(vectors[:n])
    other = repeated(lambda: theirs.transform(vectors[n:]), times=3, warm=1)
    ours = repeated(lambda: fitted.place(vectors[n:]), times=10, warm=2)
    yield rate("map: place newcomers", new, ours, "umap-learn transform", 1e3 * new / other.median)

