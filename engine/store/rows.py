"""SkyObjects <-> Arrow rows: one row an object, every scalar a column, units in the fields' metadata.

Fixed columns: ``id``; ``_healpix_29``, ``ra``, ``dec`` (HATS; null where the position is unknown); ``_origin`` (digest
of the files it came from); ``_id`` (the id as delivered, where it had to be changed); ``_images``, ``_spectra``,
``_lightcurves``, ``_catalog``, ``_history``. A scalar ``z`` is the column ``z`` with its error in ``z_err``; if a name
is taken by a scalar of another unit or kind, the newcomer's column gets a suffix (``flux_g__nJy``), and its metadata
says whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, count
from typing import Any

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS, WCSHDO_P17, WCSHDO_all, Wcsprm
from astropy_healpix import lonlat_to_healpix
from numpy.typing import NDArray

from engine.objects import Catalog, LightCurve, Scalar, SkyObject

NESTED = ("_images", "_spectra", "_lightcurves", "_catalog", "_history")
FIXED = ("id", "_healpix_29", "ra", "dec", "_origin", "_id", *NESTED)
HEALPIX_ORDER = 29

_TEXTS = pa.list_(pa.string())
_POINTER = [("group", pa.string()), ("index", pa.int32())]
_COMMON = [("survey", pa.string()), ("unit", pa.string()), ("calibrated", pa.bool_()), ("history", _TEXTS),
           ("ivar", pa.bool_()), ("mask", pa.bool_()), *_POINTER]
IMAGE = pa.struct([*_COMMON, ("bands", _TEXTS), ("wcs", pa.string()), ("pixel_scale", pa.float64()), ("psf", pa.bool_()),
                   ("steps", pa.list_(pa.float64())), ("ivar_bits", pa.int32())])
SPECTRUM = pa.struct([*_COMMON, ("grid", pa.int32()), ("resolution", pa.float64()), ("resolutions", pa.bool_())])
_NUMBERS = pa.list_(pa.float64())
LIGHTCURVE = pa.struct([("band", pa.string()), ("unit", pa.string()), ("history", _TEXTS), ("scale", pa.string()),
                        ("format", pa.string()), ("jd1", _NUMBERS), ("jd2", _NUMBERS), ("flux", _NUMBERS),
                        ("flux_type", pa.string()), ("error", _NUMBERS), ("error_type", pa.string())])
_FIXED_TYPES = {"id": pa.string(), "_healpix_29": pa.int64(), "ra": pa.float64(), "dec": pa.float64(), "_origin": pa.string(),
                "_id": pa.string(), "_images": pa.list_(IMAGE), "_spectra": pa.list_(SPECTRUM),
                "_lightcurves": pa.list_(LIGHTCURVE), "_catalog": pa.binary(), "_history": _TEXTS}


def healpix_29(ra: Any, dec: Any) -> Any:
    """HEALPix index of order 29, nested scheme, int64, of ICRS positions in degrees (the key of HATS)."""
    return np.asarray(lonlat_to_healpix(np.asarray(ra) * u.deg, np.asarray(dec) * u.deg, 2**HEALPIX_ORDER, order="nested"),
                      dtype=np.int64)


@lru_cache(maxsize=1024)
def unit_text(unit: u.UnitBase | None) -> str | None:
    """The unit as text that astropy reads back. Raises ValueError for a unit that only one program knows."""
    if unit is None:
        return None
    spellings = [unit.to_string()]
    if (scale := getattr(unit, "scale", 1.0)) != 1.0:  # astropy prints six digits of a factor: too few
        spellings.append(f"{float(scale)!r} {u.CompositeUnit(1, unit.bases, unit.powers).to_string()}")
    for text in spellings:
        try:
            if u.Unit(text) == unit:
                return str(text)
        except ValueError:
            continue
    raise ValueError(f"the unit {spellings[0]!r} has no standard spelling; define it through units that astropy knows")


@lru_cache(maxsize=1024)
def unit_from_text(text: str | None) -> u.UnitBase | None:
    """The unit that `unit_text` wrote; parsing one takes 0.3 ms, and a sky has few."""
    return u.Unit(text) if text else None


def wcs_text(wcs: WCS | None) -> str | None:
    """The WCS as a FITS header, one card a line (SIP and TPV terms included), to the last bit where there is no distortion."""
    if wcs is None:
        return None
    if _is_distorted(wcs):
        return str(wcs.to_header(relax=True).tostring(sep="\n", endcard=False, padding=False))
    cards = wcs.wcs.to_header(WCSHDO_all | WCSHDO_P17)  # wcslib itself: five times as quick as a fits.Header
    lines = (cards[i : i + 80].rstrip() for i in range(0, len(cards), 80))
    return "\n".join(line for line in lines if line and not line.startswith("COMMENT"))


def wcs_from_text(text: str | None) -> WCS | None:
    if text is None:
        return None
    if re.search(r"^(A|B|AP|BP)_ORDER|^(CPDIS|D2IMDIS|CQDIS)", text, re.MULTILINE):
        return WCS(fits.Header.fromstring(text, sep="\n"))
    out = WCS(naxis=2)  # what has no distortion is all in wcslib's structure; WCS(header) takes 2 ms to find that out
    out.wcs = Wcsprm("".join(line.ljust(80) for line in text.split("\n")).encode(), relax=True)
    out.wcs.set()
    return out


def _is_distorted(wcs: WCS) -> bool:
    return any(part is not None for part in (wcs.sip, wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2))


def empty_table(columns: Sequence[str] | None = None) -> pa.Table:
    """No rows, with the fixed columns (or those of them that are asked for)."""
    names = [n for n in FIXED if n not in NESTED] if columns is None else [n for n in columns if n in FIXED]
    return pa.schema([_fixed(n) for n in names]).empty_table()


def texts(column: pa.ChunkedArray) -> NDArray[np.str_]:
    """A column of texts as (n,) str; thirty times as quick as through a list where all is ASCII, as ids mostly are."""
    lengths = pc.binary_length(column)
    width = pc.max(lengths).as_py() or 1
    if not len(column) or pc.sum(lengths) != pc.sum(pc.utf8_length(column)) or column.null_count:
        return np.array(column.to_pylist(), dtype=str)
    padded = pc.ascii_rpad(column, width, padding="\0").combine_chunks()
    if isinstance(padded, pa.ChunkedArray):  # texts of more than 2 GiB
        return np.array(column.to_pylist(), dtype=str)
    letters = np.frombuffer(padded.buffers()[2], np.uint8, len(padded) * width, padded.offset * width)
    return letters.astype(np.uint32).view(f"<U{width}")


def _fixed(name: str) -> pa.Field:
    return pa.field(name, _FIXED_TYPES[name], metadata={"unit": "deg"} if name in ("ra", "dec") else None)


class ScalarColumns:
    """Which column holds which scalar: (name, kind, unit) -> column, learned from the parts that exist."""

    def __init__(self, schemas: Iterable[pa.Schema] = ()) -> None:
        self.columns: dict[tuple[str, str, str], str] = {}
        self.errors: dict[str, str] = {}  # value column -> error column
        self._taken = set(FIXED)
        for schema in schemas:
            self.learn(schema)

    def learn(self, schema: pa.Schema) -> None:
        for field in schema:
            meta = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
            if "scalar" in meta:
                self.columns[meta["scalar"], meta["kind"], meta["unit"]] = field.name
            elif "error_of" in meta:
                self.errors[meta["error_of"]] = field.name
            self._taken.add(field.name)

    def of(self, name: str, kind: str, unit: str) -> str:
        key = (name, kind, unit)
        if key not in self.columns:
            self.columns[key] = self._free(name, f"{name}__{unit or kind}")
        return self.columns[key]

    def error_of(self, column: str) -> str:
        if column not in self.errors:
            self.errors[column] = self._free(f"{column}_err", f"{column}_error")
        return self.errors[column]

    def _free(self, *wishes: str) -> str:
        for name in chain(wishes, (f"{wishes[-1]}_{i}" for i in count(2))):
            if name and name not in self._taken and not name.startswith("_"):  # an underscore marks our own columns
                self._taken.add(name)
                return name
        raise AssertionError("unreachable")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, str):
        return "text"
    if isinstance(value, np.ndarray):
        shape = "" if value.ndim == 1 else " " + "x".join(map(str, value.shape))
        return f"vector {value.dtype.kind}{value.dtype.itemsize}{shape}"
    return "number"


def _plain(value: Any) -> Any:
    return value.ravel() if isinstance(value, np.ndarray) else value


def scalar_arrays(objects: Sequence[SkyObject], names: ScalarColumns) -> list[tuple[pa.Field, pa.Array]]:
    """The columns of all scalars of a batch, null where an object has no such value."""
    values: dict[str, list[Any]] = {}
    metas: dict[str, dict[str, str]] = {}
    for row, obj in enumerate(objects):
        for name, scalar in obj.scalars.items():
            unit = unit_text(scalar.unit) or ""
            kind = _kind(scalar.value)
            column = names.of(name, kind, unit)
            if column not in values:
                values[column], metas[column] = [None] * len(objects), {"scalar": name, "kind": kind, "unit": unit}
            values[column][row] = _plain(scalar.value)
            if scalar.error is not None:
                error = names.error_of(column)
                if error not in values:
                    values[error], metas[error] = [None] * len(objects), {"error_of": column, "unit": unit}
                values[error][row] = _plain(scalar.error)
    out = []
    for column, cells in values.items():
        array = _array(cells)
        out.append((pa.field(column, array.type, metadata=metas[column]), array))
    return out


def _array(cells: list[Any]) -> pa.Array:
    filled = [c for c in cells if c is not None]
    if any(isinstance(c, float) for c in filled) and not any(isinstance(c, np.ndarray) for c in filled):
        cells = [c if c is None else float(c) for c in cells]
    elif isinstance(filled[0], int) and not isinstance(filled[0], bool) and max(filled) >= 2**63:
        return pa.array(cells, pa.uint64())
    elif any(isinstance(c, np.ndarray) for c in filled) and not all(isinstance(c, np.ndarray) for c in filled):
        cells = [c if c is None else np.atleast_1d(c) for c in cells]  # an error given once for a whole vector
    return pa.array(cells)


def rows_table(objects: Sequence[SkyObject], ids: Sequence[str], origins: Sequence[str], images: list[list[dict[str, Any]]],
               spectra: list[list[dict[str, Any]]], names: ScalarColumns) -> pa.Table:
    """The rows of one batch. ids: what each is called in the store; images, spectra: what `pixels.write` returned."""
    ra = np.array([np.nan if o.position is None else o.position.ra.deg for o in objects])
    dec = np.array([np.nan if o.position is None else o.position.dec.deg for o in objects])
    unknown = np.isnan(ra)
    healpix = healpix_29(np.where(unknown, 0.0, ra), np.where(unknown, 0.0, dec))
    cells: dict[str, Any] = {
        "id": list(ids), "_healpix_29": pa.array(healpix, mask=unknown), "ra": pa.array(ra, mask=unknown),
        "dec": pa.array(dec, mask=unknown), "_origin": list(origins),
        "_id": [o.id if o.id != name else None for o, name in zip(objects, ids, strict=True)],
        "_images": images, "_spectra": spectra, "_lightcurves": [[_lightcurve(c) for c in o.lightcurves] for o in objects],
        "_catalog": [_catalog_bytes(o.catalog) for o in objects], "_history": [list(o.history) for o in objects]}
    fields = [_fixed(name) for name in FIXED]
    arrays = [c if isinstance(c := cells[f.name], pa.Array) else pa.array(c, f.type) for f in fields]
    head = FIXED.index("_images")
    scalars = scalar_arrays(objects, names)
    return pa.Table.from_arrays([*arrays[:head], *(a for _, a in scalars), *arrays[head:]],
                                schema=pa.schema([*fields[:head], *(f for f, _ in scalars), *fields[head:]]))


def _lightcurve(curve: LightCurve) -> dict[str, Any]:
    return {"band": curve.band, "unit": unit_text(curve.unit), "history": list(curve.history), "scale": curve.time.scale,
            "format": curve.time.format, "jd1": curve.time.jd1, "jd2": curve.time.jd2,
            "flux": curve.flux.astype(np.float64), "flux_type": curve.flux.dtype.str,
            "error": None if curve.error is None else curve.error.astype(np.float64),
            "error_type": None if curve.error is None else curve.error.dtype.str}


def _lightcurve_from(cell: dict[str, Any]) -> LightCurve:
    time = Time(np.asarray(cell["jd1"], float), np.asarray(cell["jd2"], float), format="jd", scale=cell["scale"])
    time.format = cell["format"]
    error = None if cell["error"] is None else np.asarray(cell["error"]).astype(cell["error_type"])
    return LightCurve(time, np.asarray(cell["flux"]).astype(cell["flux_type"]), error, cell["band"],
                      unit_from_text(cell["unit"]), history=tuple(cell["history"]))


def _catalog_bytes(catalog: Catalog | None) -> bytes | None:
    """The sources of a scene as one Arrow IPC stream, units and shapes in the metadata."""
    if catalog is None:
        return None
    fields, arrays = [], []
    for name, values in catalog.columns.items():
        if values.dtype.kind not in "bifuUS":
            raise ValueError(f"column {name!r} of a catalog holds {values.dtype}, which is neither numbers nor text")
        flat = pa.array(values.reshape(len(values), -1).ravel() if values.ndim > 1 else values)
        if values.ndim > 1:
            flat = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
        unit = catalog.units.get(name)
        meta = {"dtype": values.dtype.str, "shape": ",".join(map(str, values.shape[1:])), "unit": unit_text(unit) or ""}
        fields.append(pa.field(name, flat.type, metadata=meta))
        arrays.append(flat)
    schema = pa.schema(fields, metadata={f"history{i}": line for i, line in enumerate(catalog.history)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return bytes(sink.getvalue())


def _catalog_from(data: bytes | None) -> Catalog | None:
    if data is None:
        return None
    table = pa.ipc.open_stream(data).read_all()
    columns, units = {}, {}
    for field, column in zip(table.schema, table.columns, strict=True):
        meta = {k.decode(): v.decode() for k, v in field.metadata.items()}
        array = column.combine_chunks()
        if meta["shape"]:
            array = array.flatten()
        values = array.to_numpy(zero_copy_only=False).astype(meta["dtype"])
        columns[field.name] = values.reshape(len(table), *map(int, meta["shape"].split(","))) if meta["shape"] else values
        if meta["unit"]:
            units[field.name] = u.Unit(meta["unit"])
    lines = table.schema.metadata or {}
    return Catalog(columns, units, history=tuple(lines[f"history{i}".encode()].decode() for i in range(len(lines))))


def object_from(table: pa.Table, i: int, images: Sequence[Any], spectra: Sequence[Any]) -> SkyObject:
    """Row i of a part as the object that was put in; images and spectra come from `pixels`."""
    row = {name: table.column(name)[i] for name in table.column_names}
    errors = {meta[b"error_of"]: f.name for f in table.schema if b"error_of" in (meta := f.metadata or {})}
    scalars = {}
    for field in table.schema:
        meta = field.metadata or {}
        if b"scalar" in meta and row[field.name].is_valid:
            name, kind, unit = (meta[k].decode() for k in (b"scalar", b"kind", b"unit"))
            error = errors.get(field.name.encode())
            scalars[name] = _scalar(row[field.name], kind, unit, row[error] if error else None)
    ra, dec = row["ra"].as_py(), row["dec"].as_py()
    return SkyObject(row["id"].as_py(), None if ra is None else SkyCoord(ra, dec, unit="deg"), tuple(images), tuple(spectra),
                     tuple(_lightcurve_from(c) for c in row["_lightcurves"].as_py()), scalars,
                     _catalog_from(row["_catalog"].as_py()), history=tuple(row["_history"].as_py()))


def _scalar(cell: Any, kind: str, unit: str, error: Any) -> Scalar:
    wrong = None if error is None or not error.is_valid else error.as_py()
    if not kind.startswith("vector"):
        return Scalar(cell.as_py(), wrong, unit_from_text(unit))
    _, dtype, *shape = kind.split(" ")
    value = cell.values.to_numpy(zero_copy_only=False).astype(dtype)
    if shape:
        value = value.reshape([int(n) for n in shape[0].split("x")])
    if error is not None and error.is_valid:
        wrong = error.values.to_numpy(zero_copy_only=False)
        wrong = wrong.reshape(value.shape) if wrong.size == value.size else float(wrong[0])
    return Scalar(value, wrong, unit_from_text(unit))
