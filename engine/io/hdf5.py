"""HDF5 in the Multimodal Universe layout (one dataset a column, one row an object), read in blocks of rows.

Nothing outside of the file is followed, nothing is unpickled, and no block is larger than memory allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import astropy.units as u
import h5py
import numpy as np
from astropy.table import Table

from engine.io import lightcurves, nested, schemas
from engine.io.columns import MAX_VECTOR, Field, Plan, objects, plan, text_of
from engine.io.errors import ReadError
from engine.io.surveys import SURVEYS
from engine.io.units import clean_unit
from engine.objects import SkyObject

MAX_ROW = 256 << 20  # bytes of one object in one column
MAX_CHUNK = 1 << 30
MAX_HEADER = 16 << 20
BLOCK_BYTES = 64 << 20
MAX_RATIO = 200  # unpacked to packed size, above which more than 1 GiB is a decompression bomb
LEFT_OUT = re.compile(r"(image_rgb|rgb|rgb_image|blobmodel|object_mask|image_triplet|spectrum_lsf|.*_pixel_scale)$", re.I)
HEADER = ".__table_column_meta__"  # what astropy adds to a table's name
PLASTICC_BANDS = tuple("ugrizY")


@dataclass
class Layout:
    """Which datasets hold what. parts: "image", "spectrum", "catalog", "lightcurve" -> key -> dataset name."""

    rows: int
    scalars: list[str]
    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    constant: dict[str, Any] = field(default_factory=dict)  # the same for all rows, such as the names of the bands


def read_file(path: Path, survey: str | None = None) -> Iterator[SkyObject]:
    """The objects of an HDF5 file, row by row. Raises ReadError for what is damaged, foreign or reaches out of the file."""
    path = Path(path)
    if path.stat().st_size == 0:
        raise ReadError(path, "is empty; copy or download it again")
    try:
        with h5py.File(path, "r") as file:
            datasets = _datasets(path, file)
            if len(datasets) == 1 and next(iter(datasets.values())).dtype.names:
                yield from _compound(path, next(iter(datasets.values())), survey)
                return
            attributes = {str(k): text_of(v) for k, v in file.attrs.items() if np.ndim(v) == 0}
            yield from _rows(path, datasets, attributes, survey)
    except ReadError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, IndexError) as problem:
        # h5py reports a damaged file in any of these ways
        message = " ".join(str(problem).split())[:160]
        raise ReadError(
            path, f"is not an HDF5 file that can be read ({message}); it is damaged or cut off, copy it again"
        ) from problem


def _datasets(path: Path, file: h5py.File) -> dict[str, h5py.Dataset]:
    """The datasets at the root (or of the only group in it), each checked. Raises ReadError."""
    group: Any = file
    names = [n for n in group if not n.endswith(HEADER)]
    while (
        len(names) == 1
        and isinstance(group.get(names[0], getlink=True), h5py.HardLink)
        and isinstance(group[names[0]], h5py.Group)
    ):
        group = group[names[0]]
        names = [n for n in group if not n.endswith(HEADER)]
    found = {}
    for name in names:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ReadError(
                path,
                f"holds a link ({name!r} points to {getattr(link, 'filename', '') or link.path!r}), which is not "
                "followed; save the data in the file itself",
            )
        item = group[name]
        if isinstance(item, h5py.Dataset):
            _check(path, name, item)
            found[name] = item
    if not found:
        raise ReadError(path, "holds no datasets at its root, so it is not of the layout with one dataset a column; convert it")
    total = sum(int(d.nbytes) for d in found.values())
    if total > 1 << 30 and total > MAX_RATIO * path.stat().st_size:
        raise ReadError(
            path, f"would unpack to {total >> 20:,} MiB, over {MAX_RATIO} times its size; it is damaged or made to harm"
        )
    return found


def _check(path: Path, name: str, dataset: h5py.Dataset) -> None:
    if dataset.external or (dataset.is_virtual and any(s.file_name != "." for s in dataset.virtual_sources())):
        raise ReadError(path, f"keeps {name!r} in another file, which is not followed; save the data in the file itself")
    kind = dataset.dtype
    if h5py.check_ref_dtype(kind) or (kind.kind == "V" and kind.names is None) or \
            (kind.kind == "O" and h5py.check_string_dtype(kind) is None and h5py.check_vlen_dtype(kind) is None):
        raise ReadError(path, f"holds opaque (pickled) objects in {name!r}, which are not opened; save them as numbers or text")
    per_row = int(np.prod(dataset.shape[1:], dtype=float) * kind.itemsize) if dataset.shape else kind.itemsize
    chunk = int(np.prod(dataset.chunks, dtype=float) * kind.itemsize) if dataset.chunks else 0
    if chunk > MAX_CHUNK or per_row > MAX_ROW:
        raise ReadError(path, f"has {per_row >> 20:,} MiB in one row of {name!r}; it is damaged or not a table of objects")


# -- the layout -----------------------------------------------------------------------------------------------------

def _layout(path: Path, datasets: dict[str, h5py.Dataset]) -> Layout:
    """Find the number of rows and which dataset is what. Raises ReadError if the columns do not make rows."""
    lengths = [d.shape[0] for n, d in datasets.items() if d.shape]
    named = next((n for n in ("object_id", "source_id", "id", "ra") if n in datasets and datasets[n].shape), None)
    if named is None and not lengths:
        raise ReadError(path, "holds single values and no rows of objects; it is not of a layout that can be read")
    rows = datasets[named].shape[0] if named else max(set(lengths), key=lengths.count)
    if rows == 0:
        raise ReadError(path, "holds columns without rows; leave it out or export it again")
    layout = Layout(rows, [])
    for name, dataset in datasets.items():
        if not dataset.shape or dataset.shape[0] != rows:
            if name.lower() in ("band", "bands", "image_band", "filters", "filter") and dataset.size <= 1000:
                layout.constant["band"] = dataset[()]
            elif dataset.shape and named and re.match(r"(image|spectrum)", name):
                raise ReadError(path, f"has {rows} rows but {dataset.shape[0]} in {name!r}; it is cut off, export it again")
            continue
        _assign(layout, name, dataset)
    flux = layout.parts.get("image", {}).get("flux")
    if flux and len(np.ravel(layout.constant.get("band", []))) != datasets[flux].shape[1]:
        layout.constant.pop("band", None)
    return layout


def _assign(layout: Layout, name: str, dataset: h5py.Dataset) -> None:
    lower = name.lower()
    found = re.fullmatch(
        r"(image|spectrum)_(band|flux|array|ivar|mask|psf_fwhm|scale|lambda|wave|wavelength|lsf_sigma|noise)", lower
    )
    if LEFT_OUT.fullmatch(lower):
        return
    if found:
        key = {"array": "flux", "wave": "lambda", "wavelength": "lambda"}.get(found[2], found[2])
        layout.parts.setdefault(found[1], {})[key] = name
    elif lower in ("image", "images") and dataset.ndim in (3, 4):
        layout.parts.setdefault("image", {})["flux"] = name
    elif lower in ("ivar", "mask", "psf_fwhm", "bands", "band") and dataset.ndim > 1:
        layout.parts.setdefault("image", {})[lower.removesuffix("s")] = name
    elif lower.startswith("catalog_") and dataset.ndim == 2:
        layout.parts.setdefault("catalog", {})[name[8:]] = name
    elif lower in ("lightcurve", "coeff", "coeff_error") and dataset.ndim > 1:
        layout.parts.setdefault(lower, {})["values"] = name
    elif dataset.ndim == 2 and lower in ("time", "flux", "flux_err", "pdcsap_flux", "pdcsap_flux_err"):
        layout.parts.setdefault("series", {})[lower] = name
    elif dataset.ndim == 1 or (dataset.ndim == 2 and dataset.shape[1] <= MAX_VECTOR):
        layout.scalars.append(name)


def _rows(path: Path, datasets: dict[str, h5py.Dataset], attributes: dict[str, Any], survey: str | None) -> Iterator[SkyObject]:
    identity = datasets.get("object_id")
    if identity is not None and identity.shape == () and {"time", "flux"} <= set(datasets):
        yield _single(path, datasets, survey)
        return
    layout = _layout(path, datasets)
    bands = [text_of(b) or "" for b in _first_bands(layout, datasets)]
    key = nested.survey_of(list(datasets), bands, path, survey)
    per_row = sum(max(1, int(datasets[n].nbytes) // layout.rows) for n in _used(layout))
    size = int(np.clip(BLOCK_BYTES // max(1, per_row), 1, 4096))
    sample = {n: _numbers(datasets[n][:min(layout.rows, 4096)]) for n in layout.scalars if datasets[n].ndim == 1 or size >= 64}
    sample |= {n: _numbers(datasets[n][:size]) for n in layout.scalars if n not in sample}
    plan_ = plan([Field(n, _attribute_unit(datasets[n])) for n in layout.scalars], sample, path, key)
    if not layout.parts and plan_.id is None and plan_.position is None:
        raise ReadError(path, "has neither images nor spectra nor an id or position; it is not of a layout that can be read")
    good = _mask_is_good(layout, datasets)
    scale = next(
        (float(v) for k, v in attributes.items() if k.startswith("pixel_scale") and v and re.fullmatch(r"[\d.]+", v)), None
    )
    for start in range(0, layout.rows, size):
        stop = min(start + size, layout.rows)
        block = {n: _numbers(datasets[n][start:stop]) for n in layout.scalars} or {"": np.zeros(stop - start)}
        arrays = {p: {k: datasets[n][start:stop] for k, n in keys.items()} for p, keys in layout.parts.items()}

        def extras(i: int, arrays: Any = arrays) -> dict[str, Any]:
            return _extras(arrays, i, layout, key, path, good, scale)

        yield from objects(plan_, block, start, extras)


def _used(layout: Layout) -> list[str]:
    return [*layout.scalars, *(n for keys in layout.parts.values() for n in keys.values())]


def _first_bands(layout: Layout, datasets: dict[str, h5py.Dataset]) -> list[Any]:
    name = layout.parts.get("image", {}).get("band")
    found = datasets[name][0] if name else layout.constant.get("band", [])
    return np.ravel(found).tolist()


def _numbers(array: Any) -> Any:
    """Boolean and numeric columns as they are; text as objects."""
    return array if array.dtype.kind in "fiub" else array.astype(object)


def _attribute_unit(dataset: h5py.Dataset) -> str | None:
    found = [v for k in dataset.attrs if k.lower() in ("unit", "units") and np.size(v := dataset.attrs[k]) == 1]
    return text_of(np.ravel(found[0])[0]) if found else None


def _mask_is_good(layout: Layout, datasets: dict[str, h5py.Dataset]) -> bool:
    """What True means in the image masks, from the first objects of the file, so that it is the same for all."""
    keys = layout.parts.get("image", {})
    if "mask" not in keys:
        return False
    ivars = datasets[keys["ivar"]][:16] if "ivar" in keys else None
    return nested.good_is_true(datasets[keys["mask"]][:16] != 0, ivars)


def _extras(arrays: dict[str, dict[str, Any]], i: int, layout: Layout, survey: str | None, path: Path, good: bool,
            scale: float | None) -> dict[str, Any]:
    """The images, spectra, light curves and coefficients of row i of a block."""
    out: dict[str, Any] = {"scalars": {}}
    part = {p: {k: a[i] for k, a in keys.items()} for p, keys in arrays.items()}
    if "flux" in part.get("image", {}):
        made = nested.image({"scale": scale, **layout.constant, **part["image"]}, survey, path, good)
        if made:
            out["images"], widths = (made[0],), made[1]
            out["scalars"].update(widths)
    if {"flux", "lambda"} <= set(part.get("spectrum", {})):
        values = dict(part["spectrum"])
        if "noise" in values:  # VIPERS: errors
            with np.errstate(all="ignore"):
                values["ivar"] = np.where(values["noise"] > 0, 1 / np.asarray(values["noise"], float) ** 2, 0)
        found = nested.row_spectrum(values, survey, path)
        out["spectra"] = (found,) if found else ()
    if "coeff" in part:
        out["scalars"].update(nested.coefficients(part["coeff"]["values"], part.get("coeff_error", {}).get("values")))
    if "catalog" in part:
        out["catalog"] = nested.sources(part["catalog"], path)
    if "lightcurve" in part:
        out["lightcurves"] = _cube(part["lightcurve"]["values"], path, survey)
    if "time" in part.get("series", {}):
        series = part["series"]
        flux = next((f for f in ("pdcsap_flux", "flux") if f in series), None)
        if flux:
            name = {"kepler": "bjd - 2454833", "tess": "bjd - 2457000"}.get(survey or "", "mjd")
            out["lightcurves"] = lightcurves.from_arrays(series["time"], series[flux], series.get(f"{flux}_err"), None, path,
                                                         u.electron / u.s if name != "mjd" else None, name, survey)
    return out


def _cube(values: Any, path: Path, survey: str | None) -> tuple[Any, ...]:
    """PLAsTiCC's (bands, 3, n) of time, flux, error: zero where there is nothing; FLUXCAL of zero point 27.5."""
    values = np.asarray(values, float)
    if values.ndim != 3 or values.shape[1] != 3 or len(values) > len(PLASTICC_BANDS):
        return ()
    bands = np.repeat(PLASTICC_BANDS[:len(values)], values.shape[2])
    return lightcurves.from_arrays(values[:, 0].ravel(), values[:, 1].ravel(), values[:, 2].ravel(), bands, path,
                                   SURVEYS["snana"].unit, survey=survey)


def _single(path: Path, datasets: dict[str, h5py.Dataset], survey: str | None) -> SkyObject:
    """One supernova a file: values as scalars, time, flux and flux_err as (bands, n), the bands as one text."""
    names = text_of(datasets["bands"][()]) if "bands" in datasets else None
    flux = np.asarray(datasets["flux"][()], float)
    bands = names.split(",") if names else [""]
    if flux.ndim != 2 or len(bands) != len(flux):
        raise ReadError(path, f"has {len(flux)} rows of flux but {len(bands)} bands; export it again")
    error = datasets["flux_err"][()] if "flux_err" in datasets else None
    curves = lightcurves.from_arrays(datasets["time"][()], flux, error, np.repeat(bands, flux.shape[1]), path,
                                     SURVEYS["snana"].unit, survey=survey)
    block = {n: _numbers(np.atleast_1d(d[()])) for n, d in datasets.items() if d.shape == () and n != "bands"}
    layout: Plan = plan([Field(n, _attribute_unit(datasets[n])) for n in block], block, path, survey)
    return next(objects(layout, block, 0, lambda i: {"lightcurves": curves}))


def _compound(path: Path, dataset: h5py.Dataset, survey: str | None) -> Iterator[SkyObject]:
    """A table saved as one dataset of named fields, as astropy does."""
    from engine.io.tables import objects_from_table

    if dataset.ndim != 1:
        raise ReadError(path, "holds one dataset of named fields that is not a table; convert it to one row an object")
    names = [n for n in dataset.dtype.names if dataset.dtype[n].kind in "fiubSU" or h5py.check_string_dtype(dataset.dtype[n])]
    rows = np.asarray(dataset[()])
    units, damaged = _units_of_fields(dataset)
    columns = schemas.masked({n: rows[n] for n in names})
    table = Table(columns, units={n: units[n] for n in columns if n in units})
    for found in objects_from_table(table, path, survey):
        yield found.with_history(*damaged)


def _units_of_fields(dataset: h5py.Dataset) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Units of a table's fields by name: in astropy's header beside it, else in the attribute `units`, one a field."""
    parent, name = dataset.parent, f"{dataset.name.rsplit('/', 1)[-1]}{HEADER}"
    if isinstance(parent.get(name, getlink=True), h5py.HardLink) and isinstance(parent[name], h5py.Dataset):
        fields = schemas.of_header(_lines(parent[name]))
        return ({n: clean_unit(f.unit) for n, f in (fields or {}).items()},
                () if fields is not None else ("units not read: the astropy header beside the table is damaged",))
    units = [text_of(v) for v in np.ravel(dataset.attrs.get("units", dataset.attrs.get("unit", [])))]
    names = dataset.dtype.names
    return dict(zip(names, map(clean_unit, units), strict=True)) if len(units) == len(names) else {}, ()


def _lines(dataset: h5py.Dataset) -> str:
    """The text of a dataset of lines; none where it is too large, no text, or in another file."""
    if dataset.external or dataset.is_virtual or dataset.nbytes > MAX_HEADER or dataset.dtype.kind not in "SO":
        return ""
    lines = np.ravel(dataset[()]).tolist()
    return "\n".join(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in lines)
