"""What the columns of a table mean: id, position, redshift, errors, sentinels; and a block of rows as objects.

Readers of every tabular format hand over the same two things: a `Field` a column and blocks of rows, `name -> array`
(numbers, text, or one vector a row). `plan` looks at the names, units and first rows once; `objects` applies the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from engine.io import parts
from engine.io.errors import ReadError
from engine.io.parts import REDSHIFT_RANGE
from engine.io.positions import PositionColumns, find_position, positions
from engine.io.units import clean_unit
from engine.modalities import MODALITIES
from engine.objects import Scalar, SkyObject

MAX_COLUMNS = 20_000
MAX_VECTOR = 1024  # longer vectors are spectra or covariances, not one value with a name
MISSING = frozenset({"", "nan", "null", "none", "na", "n/a", "--", "-", "...", "…", "inf", "-inf", "+inf", "masked", "<na>"})
SENTINELS = (-999.0, -9999.0, -99999.0, -999.9, -9999.9, -999.99, 99999.0, 1e20, -1e20, 1e30, -1e30, 9.9e9)
SMALL_SENTINELS = (-9.0, -99.0, -99.9, -99.99)
MAGNITUDE_SENTINELS = (99.0, 99.9, 99.99, 99.999, 999.0, -9.0, -99.0, -99.9)

_OF_GAIA = re.compile(r"parallax|pmra|pmdec|gaia_phot_\w+_mean_mag")

IDS = ("source_id", "object_id", "targetid", "target_id", "objid", "obj_id", "objectid", "sourceid", "id", "name", "snid",
       "cid", "ztfid", "ztf_id", "oid", "designation", "specobjid", "bestobjid", "main_id", "source_name", "iau_name",
       "iauname", "iauid", "kepid", "kic", "ticid", "tic", "tic_id", "epic", "apogee_id", "observation_id", "obs_id",
       "dr7objid", "dr8objid", "uid", "diaobjectid", "gal_id", "galaxy_id", "number", "num", "seq", "index", "filename",
       "file_name", "object_name", "objname", "lens_name", "object", "recno", "ident", "galtileid")
REDSHIFTS = ("z_spec", "zspec", "specz", "spec_z", "z_sp", "zsp", "redshift_spec", "redshift", "zhel", "z_hel", "zhelio",
             "z_helio", "redshift_helio", "zlens", "z_lens", "zred", "rvz_redshift", "z_value", "z")
PHOTO_REDSHIFTS = ("z_phot", "zphot", "photoz", "photo_z", "z_photo", "photz", "z_ph", "redshift_phot", "zphot_best")
UGRIZY = ("u", "g", "r", "i", "y")


@dataclass(frozen=True)
class Field:
    """One column: its name in the file, its unit if the file says, its UCD if it is a VOTable's."""

    name: str
    unit: Any = None
    ucd: str = ""


@dataclass(frozen=True)
class Value:
    """One scalar of the objects: its name, the column it is in, the column of its error (and whether that is an ivar)."""

    name: str
    column: str
    unit: u.UnitBase | None = None
    error: str | None = None
    error_is_ivar: bool = False
    error_factor: float = 1.0
    low: float = -np.inf
    high: float = np.inf
    sentinels: tuple[float, ...] = SENTINELS
    number: bool = False  # text that is no number is absent


@dataclass
class Plan:
    """How rows become objects. `history` goes to every object."""

    path: Path
    id: str | None
    position: PositionColumns | None
    values: list[Value]
    history: tuple[str, ...] = ()
    photometric: str | None = None  # the column that says "PHOT" where a redshift is photometric (NED)
    seen: dict[str, int] = field(default_factory=dict)


def split_unit(name: str) -> tuple[str, str | None]:
    """A column's name without the unit in brackets after it: "RA [deg]" -> ("RA", "deg"), "flux(mJy)" -> ("flux", "mJy")."""
    found = re.fullmatch(r"\s*(.*?)\s*\[([^\[\]]+)\]\s*", name)
    if found and found[1]:
        return found[1], found[2]
    found = re.fullmatch(r"\s*(.*?)\s*\(([^()]+)\)\s*", name)
    if found and found[1].lower() not in ("", "log", "log10", "lg", "ln", "e") and clean_unit(found[2]) is not None:
        return found[1], found[2]
    return name.strip(), None


def normal(name: str) -> str:
    """A column's name as we write it: lower case, no unit, only letters, digits and underscores."""
    text = re.sub(r"[^0-9a-z]+", "_", split_unit(name)[0].lower().replace("(b-v)", "bv")).strip("_")
    return text or "column"


def number_or_none(text: Any) -> float | None:
    """The finite number a text is, or None ("0.3?", "0.49 | 0.49", "< 0.1", "nan" and "measured" are none)."""
    try:
        value = float(str(text).strip())
    except ValueError:
        return None
    return value if np.isfinite(value) and "_" not in str(text) else None


def check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse what cannot be a survey's table. Raises ReadError."""
    if len(names) > MAX_COLUMNS:
        raise ReadError(
            path,
            f"has {len(names):,} columns, more than the {MAX_COLUMNS:,} a table may have; check its delimiter "
            "or select the columns you need",
        )
    twice = sorted({n for n in names if n and list(names).count(n) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ReadError(path, f"has more than one column named {twice[0]!r}; rename them so that it is clear which is meant")


# -- reading values -------------------------------------------------------------------------------------------------

def text_of(value: Any) -> str | None:
    """A cell as text, None where it is missing; numbers that are whole are written without a decimal point."""
    if value is None or value is np.ma.masked:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, (float, np.floating)):
        if not np.isfinite(value):
            return None
        value = int(value) if float(value).is_integer() else value
    text = str(value).replace("\x00", "").strip()
    return None if text.lower() in MISSING else text


def vector_of(value: Any) -> np.ndarray[Any, Any] | None:
    """A cell as a vector of floats: an array, a list, or text such as "(1.0, 2.0)" or "[1 2]"; None where it is missing."""
    if value is None or value is np.ma.masked:
        return None
    if isinstance(value, (bytes, str)):
        text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
        text = text.strip()
        if len(text) < 2 or text[0] not in "([{" or text[-1] not in ")]}":
            return None
        items = text[1:-1].replace(",", " ").split()
        numbers = [number_or_none(item) for item in items]
        if any(n is None and item.lower() not in MISSING for n, item in zip(numbers, items, strict=True)):
            return None
        return np.array([np.nan if n is None else n for n in numbers], dtype=float)
    if isinstance(value, np.ma.MaskedArray):
        if value.dtype.kind not in "fiub":
            return None
        value = np.ma.filled(value.astype(float), np.nan)
    array = np.asarray(value)
    if array.dtype == object:
        array = np.array([np.nan if v is None else v for v in array.ravel()]) if array.ndim else array
    return array if array.ndim >= 1 and array.dtype.kind in "fiub" else None


def is_vector_column(array: Any) -> bool:
    """Whether each row of the column holds a vector."""
    if getattr(array, "ndim", 1) > 1:
        return True
    if array.dtype.kind in "OUS":
        present = [v for v in array[:200] if v is not None and v is not np.ma.masked and text_of_short(v) is not None]
        return bool(present) and all(vector_of(v) is not None for v in present[:20])
    return False


def text_of_short(value: Any) -> str | None:
    """As `text_of` for texts; arrays are not spelt out only to see that they are there."""
    return text_of(value) if isinstance(value, (str, bytes)) else "array"


def numbers_of(array: Any) -> np.ndarray:
    """A column as float64, NaN where it is masked, missing or not a number."""
    if array.dtype.kind in "fiub":
        data = np.ma.getdata(array).astype(float)
        return np.where(np.ma.getmaskarray(array), np.nan, data)
    values = (number_or_none(v.decode("utf-8", "replace") if isinstance(v, bytes) else v) for v in array.tolist())
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def _cells(array: Any, value: Value) -> list[Any]:
    """The column's values as Python numbers, texts or vectors, None where there is none."""
    if is_vector_column(array):
        rows = [vector_of(v) for v in array]
        return [r if r is not None and 0 < r.size <= MAX_VECTOR and np.all(np.isfinite(r)) else None for r in rows]
    kind = array.dtype.kind
    if kind == "b":
        return [None if m else bool(v) for v, m in zip(np.ma.getdata(array), np.ma.getmaskarray(array), strict=True)]
    if kind in "fiu" or value.number:
        numbers = numbers_of(array)
        good = np.isfinite(numbers) & (numbers >= value.low) & (numbers <= value.high)
        good &= ~np.isin(numbers, value.sentinels)
        exact = np.ma.getdata(array).tolist() if kind in "iu" and value.unit is None and not value.number else None
        # float32 read as 0.1 is 0.10000000149: the shortest decimal of its own precision is the number that was meant
        plain = (
            exact
            or (
                np.ma.getdata(array).astype(str).astype(float) if kind == "f" and array.dtype.itemsize < 8 else numbers
            ).tolist()
        )
        return [v if g else None for v, g in zip(plain, good.tolist(), strict=True)]
    return [text_of(v) for v in array.tolist()]


def _errors(array: Any, value: Value) -> list[Any]:
    if is_vector_column(array):  # a vector with an element that has no error has none
        return [None if v is None else _sigmas(v.astype(float), value) for v in map(vector_of, array)]
    return [None if np.isnan(v) else v for v in _sigmas(numbers_of(array), value).tolist()]


def _sigmas(numbers: np.ndarray, value: Value) -> np.ndarray:
    """Standard deviations from errors or inverse variances, NaN where there is none."""
    good = np.isfinite(numbers) & (numbers > 0) & ~np.isin(numbers, SENTINELS + MAGNITUDE_SENTINELS[4:5])
    with np.errstate(all="ignore"):
        return np.where(good, 1 / np.sqrt(numbers) if value.error_is_ivar else numbers, np.nan) * value.error_factor


# -- the plan -------------------------------------------------------------------------------------------------------

def plan(fields: Sequence[Field], sample: Mapping[str, Any], path: Path, survey: str | None = None,
         skip: frozenset[str] = frozenset(), position: tuple[str, str] | None = None, frame: str | None = None) -> Plan:
    """What each column means. sample: the first rows; skip: columns used elsewhere; position, frame: where the file says.

    Raises ReadError if there are too many columns or two of the same name.
    """
    check_names(path, [f.name for f in fields])
    units = {f.name: clean_unit(f.unit if f.unit is not None else split_unit(f.name)[1]) for f in fields}
    names = {f.name: normal(f.name) for f in fields}
    where = find_position(names, units, sample, position, frame)
    id_column = _id_column(names, sample, fields)
    used = set(skip) | ({id_column} if id_column else set()) | (set(where.columns) if where else set())
    redshifts = _redshift_names(fields, names, units, sample)
    errors = _error_columns({n: redshifts.get(n, names[n]) for n in names}, names, used)
    consumed = used | {e for e, _ in errors.values()}
    legacy = survey == "legacy" or {"flux_ivar_g", "shape_e1"} <= set(names.values())  # Tractor's columns are nanomaggies
    values, taken = [], set()
    for f in fields:
        name = redshifts.get(f.name) or _canonical(names[f.name])
        if f.name in consumed or (where and name in ("ra", "dec")) or f.name not in sample:
            continue
        if re.search(r"_coefficient_correlations$|^(healpix|_?healpix_?\d+|healpix_\d+|norder|npix)$", names[f.name]):
            continue
        while name in taken:
            name += "_2"
        taken.add(name)
        values.append(_value(name, f, units, errors.get(f.name), sample, legacy))
    note = tuple(f"{new} is column {old}" for old, new in redshifts.items() if new == "z" and old != "z")
    flags = ("redshift_flag", "z_flag", "zflag", "redshift_type", "z_type")
    photometric = next(
        (f.name for f in fields if names[f.name] in flags and f.name in sample and sample[f.name].dtype.kind in "OUS"), None
    )
    return Plan(path, id_column, where, values, note, photometric)


def _value(name: str, f: Field, units: Mapping[str, Any], error: tuple[str, bool] | None, sample: Mapping[str, Any],
           legacy: bool) -> Value:
    unit = units[f.name] if units[f.name] is not None else _modality_unit(name, f.name, legacy)
    low, high = REDSHIFT_RANGE if name in ("z", "z_phot") else (-np.inf, np.inf)
    factor = 1.0
    if error and unit is not None and units[error[0]] not in (None, unit) and units[error[0]].is_equivalent(unit):
        factor = float(units[error[0]].to(unit))
    column, ivar = error or (None, False)
    return Value(
        name, f.name, unit, column, ivar, factor, low, high, _sentinels(name, unit, sample[f.name]), name in ("z", "z_phot")
    )


def _sentinels(name: str, unit: Any, array: Any) -> tuple[float, ...]:
    """Numbers that stand for "unknown" in this column: -99 does where nothing else is negative, 99 where it is a magnitude."""
    if array.dtype.kind not in "fiu" or getattr(array, "ndim", 1) > 1:
        return SENTINELS
    if _OF_GAIA.fullmatch(name):  # exactly 0 where the Legacy Surveys and DESI know no source of Gaia's
        return (*SENTINELS, 0.0)
    numbers = numbers_of(array)
    numbers = numbers[np.isfinite(numbers) & ~np.isin(numbers, SENTINELS)]
    extra: tuple[float, ...] = ()
    if re.search(r"(^|_)mag|mag(_|$|nitude)|^[ugrizyjhk]$", name) or unit == u.mag:
        extra += MAGNITUDE_SENTINELS
    rest = numbers[~np.isin(numbers, SMALL_SENTINELS)]
    if rest.size and rest.min() >= 0 and len(np.unique(rest)) > 2:
        extra += SMALL_SENTINELS
    return SENTINELS + extra


def _id_column(names: Mapping[str, str], sample: Mapping[str, Any], fields: Sequence[Field]) -> str | None:
    """The column that names the objects: of the known names the first that never repeats, else the first."""
    by_name = {normal_name: raw for raw, normal_name in reversed(list(names.items())) if raw in sample}
    main = [f.name for f in fields if f.ucd.lower() == "meta.id;meta.main" and f.name in sample]
    wanted = [by_name[n] for n in IDS if n in by_name] + main
    wanted += [raw for n, raw in by_name.items() if n.endswith("_id") and raw not in wanted]
    wanted = [raw for raw in wanted if _can_be_id(sample[raw])]
    for raw in wanted:
        texts = [text_of(v) for v in sample[raw].tolist()]
        if all(texts) and len(set(texts)) == len(texts):
            return raw
    known = [raw for raw in wanted if names[raw] in IDS]
    return known[0] if known else None


def _can_be_id(array: Any) -> bool:
    if getattr(array, "ndim", 1) != 1 or not len(array):
        return False
    if array.dtype.kind == "f":  # a whole number that a float holds exactly, or it has lost digits
        numbers = numbers_of(array)
        return bool(np.all(np.isfinite(numbers)) and np.all(numbers == np.round(numbers)) and np.all(np.abs(numbers) < 2**53))
    return array.dtype.kind in "iuUSO" and not is_vector_column(array)


def _redshift_names(fields: Sequence[Field], names: Mapping[str, str], units: Mapping[str, Any],
                    sample: Mapping[str, Any]) -> dict[str, str]:
    """Column -> "z" for the one spectroscopic redshift, "z_phot", or what a column called z is instead."""
    found: dict[str, str] = {}
    candidates = []
    for f in fields:
        name = names[f.name]
        if f.name not in sample or getattr(sample[f.name], "ndim", 1) > 1:
            continue
        if name in PHOTO_REDSHIFTS or f.ucd.lower().startswith("src.redshift.phot"):
            found[f.name] = "z_phot"
        elif name in REDSHIFTS:
            other = _not_a_redshift(f, name, names, units, sample[f.name])
            if other:
                found[f.name] = other
            else:
                candidates.append(f.name)
    if candidates:
        best = min(candidates, key=lambda raw: REDSHIFTS.index(names[raw]))
        found[best] = "z"
        for raw in candidates:
            if raw != best and names[raw] == "z":
                found[raw] = "z_other"
    return found


def _not_a_redshift(f: Field, name: str, names: Mapping[str, str], units: Mapping[str, Any], array: Any) -> str | None:
    """What a column with a redshift's name really is: a z-band magnitude, a coordinate, a velocity; None if a redshift."""
    unit, ucd = units[f.name], f.ucd.lower()
    if ucd.startswith("src.redshift"):
        return None
    if unit is not None and unit != u.dimensionless_unscaled:
        return "z_mag" if "mag" in unit.to_string() else "velocity" if unit.is_equivalent(u.km / u.s) else f"{name}_coordinate"
    if name != "z":
        return None
    others = set(names.values())
    if ucd.startswith("phot.") or sum(b in others for b in UGRIZY) >= 2:
        return "z_mag"
    if ucd.startswith("pos.") or {"x", "y"} <= others or (array.dtype.kind in "iu" and len(np.unique(array)) > 1):
        return "z_coordinate"
    numbers = numbers_of(array)
    numbers = numbers[np.isfinite(numbers) & ~np.isin(np.abs(numbers), [9, 99, 999, 9999])]
    if numbers.size and np.median(numbers) > 10:
        return "z_mag"
    return "z_coordinate" if numbers.size and np.median(numbers) < -1 else None


def _error_columns(shown: Mapping[str, str], names: Mapping[str, str], used: set[str]) -> dict[str, tuple[str, bool]]:
    """Value column -> (error column, whether it is an inverse variance), by the ways surveys name errors."""
    by_name = {n: raw for raw, n in reversed(list(names.items()))}
    found = {}
    for raw, n in names.items():
        if raw in used:
            continue
        bases = [n, *(["z", "redshift"] if shown[raw] == "z" else [])]
        for base in bases:
            sigmas = [
                f"e_{base}",
                f"{base}_err",
                f"{base}err",
                f"{base}_error",
                f"err_{base}",
                f"error_{base}",
                f"{base}_errors",
                f"{base}_unc",
                f"{base}_uncertainty",
                f"{base}_sigma",
                f"{base}sig",
                f"{base}_std",
                re.sub(r"coefficients$", "coefficient_errors", base),
                re.sub(r"^coeff$", "coeff_error", base),
            ]
            sigmas += [f"sigma_{base}", f"sig_{base}"] if len(base) > 1 or shown[raw] == "z" else []
            ivars = [f"{base}_ivar", f"ivar_{base}", f"{base}_invvar", re.sub(r"^([a-z]+)_(.+)$", r"\1_ivar_\2", base)]
            for ivar, options in ((False, sigmas), (True, ivars)):
                for option in options:
                    if option != n and option in by_name and by_name[option] not in used and raw not in found:
                        found[raw] = (by_name[option], ivar)
    errors = {e for e, _ in found.values()}
    return {raw: e for raw, e in found.items() if raw not in errors}


def _canonical(name: str) -> str:
    """The modality's name of a column where it is one, else the column's own."""
    aliases = {"bp_coefficients": "xp_bp", "rp_coefficients": "xp_rp", "mwebv": "ebv", "e_b_v": "ebv"}
    found = re.fullmatch(r"([grizy])_cmodel_mag", name)
    if found:
        return f"mag_{found[1]}"
    found = re.fullmatch(r"i_sdssshape_shape(11|22|12)", name)
    return f"shape{found[1]}" if found else aliases.get(name, name)


_UNITS = {m.scalar: m.unit for m in MODALITIES.values() if m.scalar}
_UNIT_NEEDS_SURVEY = re.compile(r"flux_[grizw]\d?|shape_(r|e1|e2)|mag_[grizy]")


def _modality_unit(name: str, column: str, legacy: bool) -> u.UnitBase | None:
    """The unit of a value whose column says none, where the name settles it (those of Gaia, HSC, the Legacy Surveys)."""
    if name not in _UNITS or (
        not (legacy and not name.startswith("mag")) and _UNIT_NEEDS_SURVEY.fullmatch(name) and normal(column) == name
    ):
        return None
    return clean_unit(_UNITS[name])


# -- rows to objects ------------------------------------------------------------------------------------------------

def unique_id(plan: Plan, text: str) -> tuple[str, tuple[str, ...]]:
    """The id, with #2, #3, ... where an id comes again in the same table: each row stays an object of its own."""
    count = plan.seen[text] = plan.seen.get(text, 0) + 1
    return (text, ()) if count == 1 else (f"{text}#{count}", (f"id {text} comes again in this table",))


def objects(
    plan: Plan, block: Mapping[str, Any], start: int, extras: Any = None, stem: str | None = None
) -> Iterator[SkyObject]:
    """The rows of a block as objects. start: number of rows before it; extras(i) -> dict of further SkyObject fields.

    An absent value stays absent; a position that is off the sky is absent and said so in the history.
    """
    count = len(next(iter(block.values())))
    coordinates, notes = positions(plan.position, block, count)
    ids = [text_of(v) for v in block[plan.id].tolist()] if plan.id else [None] * count
    if plan.id and normal(plan.id) in ("filename", "file_name"):  # so that the picture of that name is the same object
        ids = [text and re.sub(r"\.(jpe?g|png|fits?|npy|npz)(\.gz)?$", "", Path(text).name, flags=re.I) for text in ids]
    columns = []
    for v in plan.values:
        errors = _errors(block[v.column if v.error is None else v.error], v) if v.error else [None] * count
        cells = _cells(block[v.column], v)
        if v.error and v.error_is_ivar and getattr(block[v.error], "ndim", 1) == 1:  # 0 without weight: never measured
            cells = [None if w == 0 and c == 0 else c for c, w in zip(cells, numbers_of(block[v.error]).tolist(), strict=True)]
        columns.append((v, cells, errors))
    for i in range(count):
        scalars = {v.name: _scalar(cells[i], errors[i], v.unit) for v, cells, errors in columns if cells[i] is not None}
        if plan.photometric and "z" in scalars and str(text_of(block[plan.photometric][i])).upper().startswith("PHOT"):
            scalars["z_phot"] = scalars.pop("z")
        name, again = unique_id(plan, ids[i] or f"{stem or parts.stem(plan.path)}-{start + i + 1}")
        more = extras(i) if extras else {}
        scalars.update(more.pop("scalars", {}))
        history = (f"{plan.path.name}: row {start + i + 1}", *plan.history, *again, *((notes[i],) if notes[i] else ()),
                   *more.pop("history", ()))
        yield SkyObject(name, coordinates[i], scalars=scalars, history=history, **more)


def _scalar(value: Any, error: Any, unit: u.UnitBase | None) -> Scalar:
    if isinstance(error, np.ndarray):
        error = error if isinstance(value, np.ndarray) and error.shape == value.shape and np.all(np.isfinite(error)) else None
    elif isinstance(value, (np.ndarray, str, bool)):
        error = None
    return Scalar(value, error, None if isinstance(value, str) else unit)
