"""Parquet: flat catalogues, the Multimodal Universe's nested rows, and HATS catalogues (with pyarrow alone).

A HATS folder is read partition by partition in the order of its pixels; its margins and indexes repeat rows of the
catalogue and are refused with a sentence. Layout: HATS 1.0 (IVOA note, 2025) and its older name HiPSCat.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from engine.io import lightcurves, nested, schemas, tablespectra
from engine.io.columns import MAX_COLUMNS, Field, check_names, objects, plan
from engine.io.errors import ReadError
from engine.io.surveys import SURVEYS
from engine.objects import SkyObject

BLOCK_BYTES = 64 << 20
MAX_ROW = 512 << 20
MAX_RATIO = 2000  # unpacked to packed size, above which more than 1 GiB is a decompression bomb
PROPERTIES = ("hats.properties", "properties", "catalog_info.json")
LIGHT_CURVES = (
    "lightcurve",
    "lc",
    "light_curve",
    "lightcurves",
    "sources",
    "forced_sources",
    "diasource",
    "diaobjectforcedsource",
    "ztf_lc",
    "epoch_photometry",
)


def read_file(path: Path, survey: str | None = None) -> Iterator[SkyObject]:
    """The objects of a Parquet file, or of a folder that is a HATS catalogue or collection. Raises ReadError."""
    path = Path(path)
    if path.is_dir():
        for file in hats_files(path):
            yield from read_file(file, survey)
        return
    if path.stat().st_size == 0:
        raise ReadError(path, "is empty; copy or download it again")
    owner = hats_root(path)
    properties = read_properties(owner) if owner else {}
    _refuse_copies(path, properties)
    try:
        with pq.ParquetFile(path) as file:
            _check(path, file)
            yield from _rows(path, file, owner, properties, survey)
    except ReadError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, IndexError) as problem:
        message = " ".join(str(problem).split())[:160]
        raise ReadError(
            path, f"is not a Parquet file that can be read ({message}); it is damaged or cut off, copy it again"
        ) from problem


# -- HATS -----------------------------------------------------------------------------------------------------------

def is_hats(folder: Path) -> bool:
    """Whether a folder is a HATS (or HiPSCat) catalogue, margin, index or collection."""
    folder = Path(folder)
    return (folder / "collection.properties").is_file() or bool(read_properties(folder))


def hats_root(file: Path) -> Path | None:
    """The HATS catalogue a file lies in, or None."""
    for folder in list(Path(file).absolute().parents)[:6]:
        if read_properties(folder):
            return folder
    return None


def hats_files(folder: Path) -> list[Path]:
    """The partitions of a HATS catalogue in order of their pixels; of a collection, those of its primary table.

    Raises ReadError for a margin, an index, or a catalogue whose partitions are missing.
    """
    folder = Path(folder)
    collection = folder / "collection.properties"
    if collection.is_file():
        primary = _pairs(collection).get("hats_primary_table_url", "")
        if not primary or ".." in Path(primary).parts or not (folder / primary).is_dir():
            raise ReadError(
                folder, f"is a HATS collection whose primary table {primary!r} is not in it; copy the whole collection"
            )
        return hats_files(folder / primary)
    properties = read_properties(folder)
    _refuse_copies(folder, properties)
    files = [f for f in folder.rglob("*.parquet") if re.search(r"Npix=\d+(\.parquet$|/)", f.as_posix())]
    if not files:
        raise ReadError(folder, "is a HATS catalogue without partitions (Norder=/Dir=/Npix=*.parquet); copy the whole folder")
    return sorted(files, key=_pixel_order)


def _pixel_order(file: Path) -> tuple[float, str]:
    found = re.search(r"Norder=(\d+)/.*Npix=(\d+)", file.as_posix())
    return (int(found[2]) / 4.0 ** int(found[1]), file.name) if found else (0.0, file.name)


def read_properties(folder: Path) -> dict[str, str]:
    """The properties of a HATS catalogue (or HiPSCat's catalog_info.json), {} if the folder has none."""
    for name in PROPERTIES:
        file = folder / name
        if file.is_file() and file.stat().st_size < 1 << 20:
            found = _pairs(file)
            if any(k.startswith(("hats_", "dataproduct_type")) for k in found) or "catalog_type" in found:
                return found
    return {}


def _pairs(file: Path) -> dict[str, str]:
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix == ".json":
        try:
            return {str(k): str(v) for k, v in json.loads(text).items()}
        except (ValueError, AttributeError) as problem:
            raise ReadError(file, f"is not valid JSON ({problem}); copy the catalogue again") from problem
    lines = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {k.strip(): v.strip() for k, v in lines}


def repeats_rows(folder: Path) -> bool:
    """Whether a HATS folder is a margin, an index or an association, which only repeat rows of a catalogue."""
    return _kind(read_properties(folder)) in ("margin", "index", "association")


def _kind(properties: Mapping[str, str]) -> str:
    return properties.get("dataproduct_type", properties.get("catalog_type", "object")).lower()


def _refuse_copies(path: Path, properties: Mapping[str, str]) -> None:
    kind = _kind(properties)
    if kind in ("margin", "index", "association"):
        raise ReadError(path, f"belongs to a HATS {kind}, which only repeats rows of its catalogue; read the catalogue itself")


# -- one file -------------------------------------------------------------------------------------------------------

def _check(path: Path, file: pq.ParquetFile) -> None:
    metadata = file.metadata
    if path.name in ("_metadata", "_common_metadata"):
        raise ReadError(path, "holds only the metadata of a catalogue, no rows; read the folder it lies in")
    if path.name == "per_partition_statistics.parquet":
        raise ReadError(path, "holds statistics of a HATS catalogue's partitions, no objects; read the folder it lies in")
    if metadata.num_rows == 0:
        raise ReadError(path, "holds columns without rows; leave it out or download it again")
    if metadata.num_columns > MAX_COLUMNS:
        raise ReadError(path, f"has {metadata.num_columns:,} columns, more than the {MAX_COLUMNS:,} a table may have")
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if size > 1 << 30 and size > MAX_RATIO * path.stat().st_size:
        raise ReadError(
            path, f"would unpack to {size >> 20:,} MiB, over {MAX_RATIO} times its size; it is damaged or made to harm"
        )
    if size / metadata.num_rows > MAX_ROW:
        raise ReadError(path, f"has {size // metadata.num_rows >> 20:,} MiB in a row; it is damaged or not a table of objects")


def _rows(path: Path, file: pq.ParquetFile, owner: Path | None, properties: Mapping[str, str],
          survey: str | None) -> Iterator[SkyObject]:
    names = file.schema_arrow.names
    check_names(path, names)
    bytes_per_row = (
        sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)) / file.metadata.num_rows
    )
    size = int(np.clip(BLOCK_BYTES / max(1.0, bytes_per_row), 1, 8192))
    batches = file.iter_batches(batch_size=size)
    parts = _nested_columns(file.schema_arrow)
    state: dict[str, Any] = {}
    start, told = 0, (properties.get("hats_col_ra", properties.get("ra_column", "")),
                      properties.get("hats_col_dec", properties.get("dec_column", "")))
    for batch in batches:
        block = _flat(batch, parts)
        if not state:
            known, damaged = _described(file.schema_arrow, owner)
            fields = [known.get(n, Field(n)) for n in block]
            if not parts and not properties:
                whole = _as_long_table(file, fields, block)
                if whole is not None:
                    yield from lightcurves.objects_from_columns([f for f in fields if f.name in whole], whole, path, survey)
                    return
            state.update(_prepare(path, fields, batch, block, parts, told, survey))
            state["plan"].history += damaged
        cells = {p: batch.column(names.index(p)) for p in parts}

        def extras(i: int, cells: Any = cells, block: Any = block, state: Any = state) -> dict[str, Any]:
            found = _extras({p: _value(c[i]) for p, c in cells.items()}, parts, state, path)
            if state["spectra"]:
                found["spectra"] = (*found.get("spectra", ()), *state["spectra"].of(block, i))
            return found

        rows = block or {"": np.zeros(batch.num_rows)}
        stem = path.stem if not properties else f"{properties.get('obs_collection', 'hats')}-{path.stem}"
        yield from objects(state["plan"], rows, start, extras if parts or state["spectra"] else None, stem)
        start += batch.num_rows


def _described(schema: pa.Schema, owner: Path | None) -> tuple[dict[str, Field], tuple[str, ...]]:
    """What the file's schema and that of the HATS catalogue it lies in say of columns; and what is damaged in them."""
    known, damaged = schemas.described(schema)
    common = next((f for f in (owner / "dataset", owner) if (f / "_common_metadata").is_file()), None) if owner else None
    if common is None:
        return known, damaged
    try:
        of_all, more = schemas.described(pq.read_schema(common / "_common_metadata"))
    except (pa.ArrowException, OSError):
        return known, (*damaged, "units not read: _common_metadata of its catalogue is damaged")
    return of_all | known, tuple(dict.fromkeys((*more, *damaged)))


def _as_long_table(file: pq.ParquetFile, fields: list[Field], block: Mapping[str, Any]) -> dict[str, Any] | None:
    """All rows, if the file holds one measurement over time a row."""
    if lightcurves.long_format(fields, block) is None:
        return None
    table = file.read()
    return schemas.masked({n: a for n in table.column_names if (a := _array(table.column(n).combine_chunks())) is not None})


def _prepare(path: Path, fields: list[Field], batch: Any, block: Mapping[str, Any], parts: Mapping[str, str],
             told: tuple[str, str], survey: str | None) -> dict[str, Any]:
    """What is the same for all rows of the file: the plan, the survey, and what True means in the masks."""
    images = [p for p, kind in parts.items() if kind == "image"]
    first = batch.slice(0, 16)
    rows = [_records(_value(v)) for p in images for v in first.column(batch.schema.names.index(p))]
    bands = [str(r.get("band")) for records in rows[:1] for r in records]
    key = nested.survey_of(batch.schema.names, bands, path, survey)
    masks = [np.asarray(r["mask"], bool) for records in rows for r in records if r.get("mask") is not None]
    ivars = [np.asarray(r["ivar"], float) for records in rows for r in records if r.get("ivar") is not None]
    good = bool(masks) and nested.good_is_true(np.concatenate([m.ravel() for m in masks]),
                                               np.concatenate([v.ravel() for v in ivars]) if len(ivars) == len(masks) else None)
    spectra = None if parts else tablespectra.spectra_in_rows(fields, block, path, key)
    layout = plan(fields, block, path, key, spectra.columns if spectra else frozenset(),
                  position=told if all(told) else None)
    if layout.id is None and layout.position is None and not layout.values and not parts and not spectra:
        raise ReadError(path, "has neither an id nor a position nor a value; name a column id, or ra and dec")
    return {"plan": layout, "survey": key, "good": good, "spectra": spectra}


def _nested_columns(schema: pa.Schema) -> dict[str, str]:
    """Column -> "image", "spectrum", "lightcurve" or "coefficients", for the structs (or lists of structs) that are that."""
    out = {}
    for f in schema:
        kind = f.type
        inner = kind.value_type if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind) else kind
        if f.name in ("image", "spectrum") and _depth(kind) == (3 if f.name == "image" else 2):
            out[f.name] = "bare " + f.name
        if not pt.is_struct(inner):
            continue
        keys = {inner.field(i).name for i in range(inner.num_fields)}
        lower = {k.lower() for k in keys}
        if f.name == "image" or ({"band", "flux"} <= lower and {"scale", "ivar", "mask", "psf_fwhm"} & lower):
            out[f.name] = "image" if {"flux", "array"} & lower else "other"
        elif {"lambda", "flux"} <= lower:
            out[f.name] = "spectrum"
        elif "coeff" in lower:
            out[f.name] = "coefficients"
        elif f.name.lower() in LIGHT_CURVES or {"time", "flux"} <= lower or {"mjd"} & lower:
            out[f.name] = "lightcurve"
        elif f.name == "catalog":
            out[f.name] = "catalog"
        elif pt.is_list(kind) or pt.is_large_list(kind):
            out[f.name] = "other"
    return out


def _depth(kind: Any) -> int:
    """How many lists are around the numbers of a type; 0 for what holds no numbers."""
    if isinstance(kind, pa.BaseExtensionType):
        return _depth(kind.storage_type)
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        inside = kind.value_type
        numbers = pt.is_floating(inside) or pt.is_integer(inside)
        return 1 if numbers else _depth(inside) + 1 if _depth(inside) else 0
    return 0


def _flat(batch: Any, parts: Mapping[str, str]) -> dict[str, Any]:
    """The flat columns of a batch as arrays; the members of plain structs (photometry, astrometry, ...) among them."""
    out: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name in parts:
            continue
        if pt.is_struct(column.type):
            members: Any = zip(
                [column.type.field(i).name for i in range(column.type.num_fields)], column.flatten(), strict=True
            )
        else:
            members = [(name, column)]
        for member, values in members:
            array = _array(values)
            if array is not None and member not in out:
                out[member] = array
    return schemas.masked(out)


def _array(column: Any) -> Any:
    """An Arrow column as an array: numbers masked where null, text and lists as objects; None for what is neither."""
    kind = column.type
    if pt.is_dictionary(kind):
        return _array(column.dictionary_decode())
    if pt.is_boolean(kind) or pt.is_integer(kind) or pt.is_floating(kind):
        mask = np.asarray(column.is_null())
        filled = column.fill_null(False if pt.is_boolean(kind) else 0) if mask.any() else column
        return np.ma.array(filled.to_numpy(zero_copy_only=False), mask=mask)
    if pt.is_decimal(kind):
        return _array(column.cast(pa.float64()))
    if (
        pt.is_string(kind)
        or pt.is_large_string(kind)
        or pt.is_binary(kind)
        or pt.is_fixed_size_binary(kind)
        or pt.is_temporal(kind)
        or pt.is_string_view(kind)
    ):
        values = (column.cast(pa.string()) if pt.is_temporal(kind) else column).to_pylist()
    elif pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        if not (pt.is_floating(kind.value_type) or pt.is_integer(kind.value_type)):
            return None
        values = [
            None if v is None else np.array([np.nan if x is None else x for x in v], dtype=float) for v in column.to_pylist()
        ]
    else:
        return None
    out = np.empty(len(values), dtype=object)
    for i, v in enumerate(values):
        out[i] = v
    return out


# -- nested values --------------------------------------------------------------------------------------------------

def _value(cell: Any) -> Any:
    """A nested Arrow value as arrays: a struct, or a list of structs, as a dict of what its members hold."""
    if not cell.is_valid:
        return None
    if isinstance(cell.type, pa.BaseExtensionType):
        return _value(cell.value)
    if pt.is_struct(cell.type):
        return {k: _value(v) for k, v in cell.items()}
    if isinstance(cell, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        return _values(cell.values)
    return cell.as_py()


def _values(values: Any) -> Any:
    """An Arrow array: numbers as one dense array if its lists are equally long, structs as a dict, the rest as a list."""
    if isinstance(values.type, pa.BaseExtensionType):
        return _values(values.storage)
    if pt.is_struct(values.type):
        return {values.type.field(i).name: _values(v) for i, v in enumerate(values.flatten())}
    shape, inner = [len(values)], values
    while pt.is_list(inner.type) or pt.is_large_list(inner.type) or pt.is_fixed_size_list(inner.type):
        fixed = pt.is_fixed_size_list(inner.type)
        lengths = np.array([inner.type.list_size]) if fixed else np.unique(np.diff(inner.offsets.to_numpy()))
        if len(lengths) != 1 or inner.null_count:
            return [_values(v.values) if v.is_valid else None for v in inner]
        shape.append(int(lengths[0]))
        inner = inner.flatten()
    if not (pt.is_integer(inner.type) or pt.is_floating(inner.type) or pt.is_boolean(inner.type)) or \
            (inner.null_count and pt.is_boolean(inner.type)):
        return values.to_pylist()
    return inner.to_numpy(zero_copy_only=False).reshape(shape)


def _records(columns: Any) -> list[dict[str, Any]]:
    """A dict of equally long lists as a list of dicts."""
    if not isinstance(columns, Mapping):
        return []
    keys = [k for k, v in columns.items() if isinstance(v, list | np.ndarray)]
    count = max((len(columns[k]) for k in keys), default=0)
    return [{k: columns[k][i] for k in keys if i < len(columns[k])} for i in range(count)]


def _extras(cells: Mapping[str, Any], parts: Mapping[str, str], state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    out: dict[str, Any] = {"scalars": {}, "images": (), "spectra": (), "lightcurves": ()}
    for name, cell in cells.items():
        kind = parts[name]
        if kind == "image":
            made = _image(_records(cell), state, path)
            if made:
                out["images"] += (made[0],)
                out["scalars"].update(made[1])
        elif kind.startswith("bare ") and isinstance(cell, np.ndarray):
            made_of = nested.bare_image if kind == "bare image" else nested.bare_spectrum
            bare = made_of(cell, path)
            out["images" if kind == "bare image" else "spectra"] += (bare,) if bare is not None else ()
        elif kind == "spectrum":
            known = cell is not None and cell.get("lambda") is not None and cell.get("flux") is not None
            found = nested.row_spectrum(cell, state["survey"], path) if known else None
            out["spectra"] += (found,) if found else ()
        elif kind == "coefficients":
            if cell is not None and cell.get("coeff") is not None:
                out["scalars"].update(nested.coefficients(_floats(cell["coeff"]), _floats(cell.get("coeff_error"))))
        elif kind == "lightcurve":
            out["lightcurves"] += _curves(cell or {}, path, state["survey"])
        elif kind == "catalog":
            out["catalog"] = nested.sources(cell or {}, path)
    return out


def _floats(values: Any) -> Any:
    return None if values is None else np.array([np.nan if v is None else v for v in values], dtype=float)


def _image(records: list[dict[str, Any]], state: Mapping[str, Any], path: Path) -> Any:
    planes = [np.asarray(r.get("flux", r.get("array"))) for r in records if r.get("flux", r.get("array")) is not None]
    if not planes:
        return None
    if len({p.shape for p in planes}) > 1 or planes[0].ndim != 2 or planes[0].dtype.kind not in "fiu":
        raise ReadError(path, f"has image planes of shapes {sorted({p.shape for p in planes})} in one object; export it again")
    part: dict[str, Any] = {"flux": np.stack(planes).astype(np.float32)}
    for key in ("ivar", "mask", "band", "psf_fwhm", "scale"):
        values = [r.get(key) for r in records]
        if all(v is not None for v in values):
            part[key] = np.asarray(values)
    return nested.image(part, state["survey"], path, state["good"])


def _curves(columns: dict[str, Any], path: Path, survey: str | None) -> tuple[Any, ...]:
    """Light curves from nested time, flux (or magnitude), error and band, by the names surveys give them."""
    lower = {k.lower(): v for k, v in columns.items() if v is not None}
    time = next((k for k in ("mjd", "time", "midpointmjdtai", "hmjd", "hjd", "jd", "bjd") if k in lower), None)
    flux = next((k for k in (*lightcurves.FLUXES, *lightcurves.MAGNITUDES) if k in lower), None)
    if time is None or flux is None:
        return ()
    error = next(
        (lower[k] for k in (f"{flux}_err", f"{flux}err", f"{flux}_error", "magerr", "sigmapsf", "dmag") if k in lower), None
    )
    band = next((lower[k] for k in lightcurves.BANDS if k in lower), None)
    unit = u.mag if flux in lightcurves.MAGNITUDES else SURVEYS["snana"].unit if survey in ("plasticc", "snana") else \
        u.nJy if flux.startswith("psf") else None
    return lightcurves.from_arrays(_floats(lower[time]), _floats(lower[flux]), _floats(error), band, path, unit, time, survey)
