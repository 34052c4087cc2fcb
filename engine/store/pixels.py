"""Images and spectra of one batch in Zarr: one group of arrays a survey, band set and shape; written whole, read singly.

``pixels/00000/image-legacy-griz-96x96/`` holds ``pixels``, ``ivar``, ``mask`` and ``psf``, each (objects, ...);
``pixels/00000/spectrum-desi-7781/`` holds ``flux``, ``ivar``, ``mask``, ``resolution`` and the distinct ``wavelength`` grids.
What is absent takes no space. A row points to (group, index), with the batch in the group's name.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.objects import Image, SkyObject, Spectrum
from engine.store.rounding import IVAR_BITS, round_ivar, round_to_noise
from engine.store.rows import unit_from_text, unit_text, wcs_from_text, wcs_text
from engine.store.shards import ShardReader, write_array

_OPEN_ARRAYS = 256  # file descriptors kept open for reading


def write(folder: Path, objects: Sequence[SkyObject], lossless: bool, pool: Executor,
          ) -> tuple[list[list[dict[str, Any]]], list[list[dict[str, Any]]]]:
    """Write all images and spectra of a batch below `folder`; return what each object's row says of them."""
    names: dict[tuple[Any, ...], str] = {}
    images: dict[str, list[Image]] = {}
    spectra: dict[str, list[Spectrum]] = {}
    image_cells: list[list[dict[str, Any]]] = []
    spectrum_cells: list[list[dict[str, Any]]] = []
    for obj in objects:
        image_cells.append([_add(folder, names, _image_key(im), images, im) for im in obj.images])
        spectrum_cells.append([_add(folder, names, _spectrum_key(sp), spectra, sp) for sp in obj.spectra])
    steps = {name: _write_images(folder / name, group, lossless, pool) for name, group in images.items()}
    grids = {name: _write_spectra(folder / name, group, pool) for name, group in spectra.items()}
    for obj, cells in zip(objects, image_cells, strict=True):
        for image, cell in zip(obj.images, cells, strict=True):
            rounded = not lossless and image.ivar is not None
            cell.update(_image_cell(image), steps=steps[Path(cell["group"]).name][cell["index"]],
                        ivar_bits=IVAR_BITS if rounded else None)
    for obj, cells in zip(objects, spectrum_cells, strict=True):
        for spectrum, cell in zip(obj.spectra, cells, strict=True):
            cell.update(_spectrum_cell(spectrum), grid=grids[Path(cell["group"]).name][cell["index"]])
    return image_cells, spectrum_cells


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "", text)[:24].lower() or "x"


def _kind(array: NDArray[Any] | None) -> tuple[Any, ...]:
    return () if array is None else (array.dtype.str, array.shape)


def _image_key(im: Image) -> tuple[Any, ...]:
    text = f"image-{_slug(im.survey or 'unknown')}-{_slug(''.join(im.bands))}-{im.pixels.shape[1]}x{im.pixels.shape[2]}"
    return text, im.survey, im.bands, _kind(im.pixels), _kind(im.ivar), _kind(im.psf)


def _spectrum_key(sp: Spectrum) -> tuple[Any, ...]:
    resolution = _kind(sp.resolution) if isinstance(sp.resolution, np.ndarray) else ()
    return f"spectrum-{_slug(sp.survey or 'unknown')}-{len(sp.flux)}", sp.survey, _kind(sp.flux), _kind(sp.ivar), resolution


def _add(folder: Path, names: dict[tuple[Any, ...], str], key: tuple[Any, ...], groups: dict[str, list[Any]], part: Any,
         ) -> dict[str, Any]:
    if key not in names:
        same = sum(other[0] == key[0] for other in names)
        names[key] = key[0] if not same else f"{key[0]}-{same + 1}"
    members = groups.setdefault(names[key], [])
    members.append(part)
    return {"group": f"{folder.name}/{names[key]}", "index": len(members) - 1}


def _image_cell(im: Image) -> dict[str, Any]:
    return {"survey": im.survey, "unit": unit_text(im.unit), "calibrated": im.calibrated, "history": list(im.history),
            "ivar": im.ivar is not None, "mask": im.mask is not None, "psf": im.psf is not None, "bands": list(im.bands),
            "wcs": wcs_text(im.wcs), "pixel_scale": im.pixel_scale}


def _spectrum_cell(sp: Spectrum) -> dict[str, Any]:
    many = isinstance(sp.resolution, np.ndarray)
    return {"survey": sp.survey, "unit": unit_text(sp.unit), "calibrated": sp.calibrated, "history": list(sp.history),
            "ivar": sp.ivar is not None, "mask": sp.mask is not None, "resolutions": many,
            "resolution": None if many or sp.resolution is None else float(sp.resolution)}  # type: ignore[arg-type]


def _write_images(path: Path, images: list[Image], lossless: bool, pool: Executor) -> list[list[float]]:
    pixels: list[Any] = [im.pixels for im in images]
    ivars: list[Any] = [im.ivar for im in images]
    steps: list[list[float]] = [[] for _ in images]
    if not lossless:
        rounded = list(pool.map(lambda im: round_to_noise(im.pixels, im.ivar, im.mask), images))
        pixels, steps = [p for p, _ in rounded], [list(s) for _, s in rounded]
        ivars = list(pool.map(lambda ivar: None if ivar is None else round_ivar(ivar), ivars))
    _write_part(path / "pixels", pixels, pool)
    _write_part(path / "ivar", ivars, pool)
    _write_part(path / "mask", [im.mask for im in images], pool)
    _write_part(path / "psf", [im.psf for im in images], pool)
    return steps


def _write_spectra(path: Path, spectra: list[Spectrum], pool: Executor) -> list[int]:
    grids: dict[bytes, int] = {}
    which = [grids.setdefault(sp.wavelength.tobytes(), len(grids)) for sp in spectra]
    _write_part(path / "wavelength", [np.frombuffer(grid, np.float64) for grid in grids], pool)
    _write_part(path / "flux", [sp.flux for sp in spectra], pool)
    _write_part(path / "ivar", [sp.ivar for sp in spectra], pool)
    _write_part(path / "mask", [sp.mask for sp in spectra], pool)
    _write_part(path / "resolution", [sp.resolution if isinstance(sp.resolution, np.ndarray) else None for sp in spectra],
                pool)
    return which


def _write_part(path: Path, items: Sequence[NDArray[Any] | None], pool: Executor) -> None:
    first = next((item for item in items if item is not None), None)
    if first is not None:
        write_array(path, items, len(items), first.shape, first.dtype, pool)


class PixelReader:
    """Reads what `write` wrote; keeps the arrays used last open. Safe to share between threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: OrderedDict[str, ShardReader] = OrderedDict()
        self._lock = threading.Lock()

    def array(self, group: str, what: str) -> ShardReader:
        key = f"{group}/{what}"
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
        if not (folder := self._root / key).is_dir():
            raise FileNotFoundError(f"{folder} is missing, though the sky's rows point to it; restore it from a copy")
        reader = ShardReader(folder)
        with self._lock:
            self._open[key] = reader
            if len(self._open) > _OPEN_ARRAYS:
                self._open.popitem(last=False)
        return reader

    def part(self, cell: dict[str, Any], what: str) -> NDArray[Any] | None:
        """pixels, ivar, mask, psf (or wavelength, flux, resolution) of one image or spectrum; None if it has none."""
        flag = {"resolution": "resolutions"}.get(what, what)
        if not cell.get(flag, True):
            return None
        return self.array(cell["group"], what)[cell["grid" if what == "wavelength" else "index"]]

    def image(self, cell: dict[str, Any]) -> Image:
        pixels = self.part(cell, "pixels")
        assert pixels is not None
        return Image(pixels, tuple(cell["bands"]), cell["survey"], wcs_from_text(cell["wcs"]), unit_from_text(cell["unit"]),
                     self.part(cell, "ivar"), self.part(cell, "mask"), self.part(cell, "psf"), cell["calibrated"],
                     pixel_scale=cell["pixel_scale"], history=tuple(cell["history"]))

    def spectrum(self, cell: dict[str, Any]) -> Spectrum:
        wavelength, flux = self.part(cell, "wavelength"), self.part(cell, "flux")
        assert wavelength is not None and flux is not None
        resolution = self.part(cell, "resolution") if cell["resolutions"] else cell["resolution"]
        return Spectrum(wavelength, flux, self.part(cell, "ivar"), self.part(cell, "mask"), resolution, cell["survey"],
                        unit_from_text(cell["unit"]), cell["calibrated"], history=tuple(cell["history"]))
