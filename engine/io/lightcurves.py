"""Light curves from tables of single measurements (ZTF, ATLAS, ASAS-SN, OGLE, PLAsTiCC, Kepler, ...) and SNANA text.

Fluxes and magnitudes stay as delivered, with their unit; times become MJD. The scale is the one the column's name states
(BJD: TDB), else UTC, and `history` says so. Upper limits, flagged and missing measurements are left out and counted.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.time import Time

from engine.io import parts, snana
from engine.io.columns import Field, Plan, normal, numbers_of, objects, plan, split_unit, text_of
from engine.io.errors import ReadError
from engine.io.units import clean_unit
from engine.objects import LightCurve, SkyObject

TIMES = (
    "mjd",
    "time",
    "jd",
    "hjd",
    "bjd",
    "bjd_tdb",
    "btjd",
    "bkjd",
    "obsmjd",
    "obs_mjd",
    "mjd_obs",
    "time_mjd",
    "midpointmjdtai",
    "midpointtai",
    "expmidptmjd",
    "time_bjd",
    "barytime",
    "obs_time",
    "hjd_2450000",
    "jd_2450000",
    "t",
)
FLUXES = ("fluxcal", "pdcsap_flux", "psfflux", "psdiffflux", "psfdiffflux", "ujy", "flux", "flux_ujy", "flux_njy", "flux_mjy",
          "forcediffimflux", "sap_flux", "det_flux", "kspsap_flux", "sys_rm_flux", "fcor", "rate")
MAGNITUDES = ("mag", "magpsf", "magnitude", "psfmag", "mag_autocorr", "i_mag", "v_mag", "vmag", "g_mag", "r_mag", "m")
BANDS = ("band", "filter", "flt", "passband", "fid", "filt", "filtercode", "f", "filterid", "bandpass")
PER_OBJECT = (
    "object_id",
    "objectid",
    "diaobjectid",
    "snid",
    "source_id",
    "star_id",
    "starid",
    "oid",
    "ztf_id",
    "ztfid",
    "id",
    "name",
    "cid",
    "asas_sn_id",
    "targetid",
    "num",
    "object",
    "star",
)
ERRORS = {"ujy": "dujy", "m": "dm", "magpsf": "sigmapsf", "forcediffimflux": "forcediffimfluxunc", "mag": "emag"}
ORIGINS = {"bkjd": 2454833.0, "btjd": 2457000.0, "hjd_2450000": 2450000.0, "jd_2450000": 2450000.0}
NUMBERED = {"plasticc": dict(enumerate("ugrizY")), "ztf": {1: "g", 2: "r", 3: "i"}}
MAX_SEPARATION = 30.0  # arcsec between measurements of one object


@dataclass(frozen=True)
class Long:
    """The columns of a table with one measurement a row."""

    time: str
    value: str
    error: str | None
    band: str | None
    object: str | None
    magnitude: bool
    unit: u.UnitBase | None


def long_format(fields: Sequence[Field], columns: Mapping[str, Any]) -> Long | None:
    """The columns of a table with one measurement a row, or None if its rows are not that."""
    names = {f.name: normal(f.name) for f in fields if f.name in columns and getattr(columns[f.name], "ndim", 1) == 1}
    raw = {n: name for name, n in reversed(list(names.items()))}
    time = next((raw[t] for t in TIMES if t in raw), None)
    value = next((n for n in FLUXES + MAGNITUDES if n in raw and columns[raw[n]].dtype.kind in "fiuOUS"), None)
    if time is None or value is None or {"ra", "redshift", "plate"} <= set(raw) or not _numeric(columns[time]):
        return None
    group = next((raw[p] for p in PER_OBJECT if p in raw), None)
    count = len(columns[time])
    if group is not None and count > 1:
        texts = {text_of(v) for v in columns[group].tolist()}
        if len(texts) == count:  # a row each: a catalogue, unless there are measurements of one place only
            return None
    if group is None and not _one_place(raw, columns):
        return None
    unit_text = next((f.unit if f.unit is not None else split_unit(f.name)[1] for f in fields if f.name == raw[value]), None)
    error = next(
        (
            raw[e]
            for e in (
                ERRORS.get(value, ""),
                f"{value}_err",
                f"{value}err",
                f"{value}_error",
                f"e_{value}",
                f"{value}_unc",
                f"{value}unc",
                f"sigma_{value}",
                f"{value}_sigma",
                f"{value}sig",
                f"{value}_uncertainty",
                f"{value.removesuffix('_mjy')}_err",
                "err",
                "error",
                "e",
                "uncertainty",
            )
            if e in raw and e != value
        ),
        None,
    )
    band = next((raw[b] for b in BANDS if b in raw), None)
    unit = clean_unit(unit_text) or {"ujy": u.uJy, "flux_ujy": u.uJy, "flux_njy": u.nJy, "flux_mjy": u.mJy}.get(value)
    return Long(time, raw[value], error, band, group, value in MAGNITUDES, unit or (u.mag if value in MAGNITUDES else None))


def _numeric(array: Any) -> bool:
    return array.dtype.kind in "fiu" or bool(np.isfinite(numbers_of(array[:20])).any())


def _one_place(raw: Mapping[str, str], columns: Mapping[str, Any]) -> bool:
    if not {"ra", "dec"} <= set(raw):
        return True
    ra, dec = numbers_of(columns[raw["ra"]]), numbers_of(columns[raw["dec"]])
    good = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
    if not good.any():
        return True
    middle = SkyCoord(np.median(ra[good]) * u.deg, np.median(dec[good]) * u.deg)
    return bool(np.median(middle.separation(SkyCoord(ra[good] * u.deg, dec[good] * u.deg)).arcsec) < MAX_SEPARATION)


def mjd_of(values: np.ndarray, name: str, meta: Mapping[str, Any] | None = None) -> tuple[np.ndarray, str, str]:
    """(MJD, scale, how it was found) of a column of times by its name, its unit ("BJD - 2454833, days") and its size."""
    meta = {str(k).upper(): v for k, v in (meta or {}).items()}
    text = name.lower()
    scale = "tcb" if "tcb" in text else "tdb" if re.search(r"b[tkj]?jd|tdb|bary", text) else "tai" if "tai" in text else "utc"
    words = normal(name)  # the column's name, then its unit
    origin = next((o for n, o in ORIGINS.items() if re.search(rf"(^|_){n}", words)), None)
    found = re.search(r"([bh]?)jd\s*-\s*(24\d{5}(?:\.\d+)?)", text)
    if found:
        origin = float(found[2])
        scale = "tdb" if found[1] == "b" and scale == "utc" else scale
    if origin is None and meta.get("BJDREFI") is not None:
        origin, scale = float(meta["BJDREFI"]) + float(meta.get("BJDREFF", 0.0)), "tdb"
    start = _reference(meta)
    if origin is None and start is not None:
        said = str(meta.get("TIMESYS", "")).lower()
        scale = said if said in Time.SCALES else scale
        unit = clean_unit(meta.get("TIMEUNIT")) or u.s  # FITS's default
        return start + (values + float(meta.get("TIMEZERO", 0.0))) * unit.to(u.d), scale, \
            f"times are {unit} since MJD {start:.10g}, scale {scale}"
    finite = values[np.isfinite(values)]
    middle = float(np.median(finite)) if finite.size else 0.0
    if origin is not None and middle < 2_400_000:
        return values + (origin - 2400000.5), scale, f"times are days since JD {origin:.10g}, scale {scale}"
    if middle > 2_400_000:
        return values - 2400000.5, scale, f"times are {'B' if scale == 'tdb' else ''}JD, scale {scale}"
    if re.search(r"[hb]?jd", text) and "mjd" not in text and middle < 15000:  # OGLE, ASAS: HJD - 2450000
        return values + 49999.5, scale, f"times are JD - 2450000, scale {scale}"
    return values, scale, f"times are MJD, scale {scale}" + ("" if "tai" in text or scale == "tdb" else " (assumed)")


def _reference(meta: Mapping[str, Any]) -> float | None:
    """MJD of time zero by FITS's keywords (Rots et al. 2015, A&A 574, A36), or None if the header has none."""
    for name, offset in (("MJDREF", 0.0), ("JDREF", 2400000.5)):
        if meta.get(name) is not None:
            return float(meta[name]) - offset
        if meta.get(f"{name}I") is not None:
            return float(meta[f"{name}I"]) - offset + float(meta.get(f"{name}F", 0.0))
    return None


def objects_from_columns(fields: Sequence[Field], columns: Mapping[str, Any], path: Path, survey: str | None,
                         meta: Mapping[str, Any] | None = None) -> Iterator[SkyObject]:
    """One object a star or transient of a table with one measurement a row, with one light curve a band.

    Raises ReadError if the table is not of that kind or has no usable measurement.
    """
    layout = long_format(fields, columns)
    if layout is None:
        raise ReadError(path, "is not a table of measurements over time; it needs columns for time, and flux or magnitude")
    if not len(columns[layout.time]):
        raise ReadError(path, "holds a header but no measurement; leave it out or download the light curve again")
    columns, layout, notes = _calibrate(columns, layout, path)
    groups = _groups(columns, layout)
    found = 0
    for name, rows in groups:
        curves, skipped = _curves(columns, layout, rows, path, survey, meta, fields)
        if not curves:
            continue
        found += 1
        rest = tuple(notes) + (
            (f"{skipped} measurements without a value (upper limits, flags, gaps) left out",) if skipped else ()
        )
        yield _with_scalars(fields, columns, layout, rows, name or parts.stem(path), curves, path, rest)
    if not found:
        raise ReadError(path, "holds no measurement that is a number, only upper limits or gaps; leave it out")


def _groups(columns: Mapping[str, Any], layout: Long) -> list[tuple[str | None, np.ndarray]]:
    count = len(columns[layout.time])
    if layout.object is None:
        return [(None, np.arange(count))]
    rows: dict[str | None, list[int]] = {}
    for i, v in enumerate(columns[layout.object].tolist()):
        rows.setdefault(text_of(v), []).append(i)
    return [(name, np.array(index)) for name, index in rows.items()]


def _curves(columns: Mapping[str, Any], layout: Long, rows: np.ndarray, path: Path, survey: str | None,
            meta: Mapping[str, Any] | None, fields: Sequence[Field]) -> tuple[list[LightCurve], int]:
    unit_of_time = next((str(f.unit) for f in fields if f.name == layout.time and f.unit), "")
    if {"transit_id", "source_id"} <= {normal(n) for n in columns}:  # Gaia's epoch photometry (data model, DataLink)
        unit_of_time = "bjd - 2455197.5 tcb"
    mjd, scale, how = mjd_of(numbers_of(columns[layout.time][rows]), f"{layout.time} {unit_of_time}", meta)
    value = numbers_of(columns[layout.value][rows])
    error = numbers_of(columns[layout.error][rows]) if layout.error else np.full(len(rows), np.nan)
    good = (
        np.isfinite(mjd)
        & np.isfinite(value)
        & (mjd > 10000)
        & (np.abs(value) < 1e20)
        & ~np.isin(value, [-99.0, -999.0, -9999.0, -99999.0])
    )
    if layout.magnitude:
        good &= (value > -30) & (value < 50) & ~((error >= 90) & np.isfinite(error))
    good &= ~(np.isfinite(error) & (error < 0))
    good &= _not_flagged(columns, rows)
    bands = [text_of(v) or "" for v in columns[layout.band][rows].tolist()] if layout.band else [""] * len(rows)
    names = band_names(bands, layout.band or "", path, survey)
    curves = []
    for band in dict.fromkeys(n for n, g in zip(names, good, strict=True) if g):
        pick = good & np.array([n == band for n in names])
        sigma = error[pick] if np.isfinite(error[pick]).any() else None
        curves.append(LightCurve(Time(mjd[pick], format="mjd", scale=scale), value[pick], sigma, band or _band_of(meta, survey),
                                 layout.unit, history=(f"{path.name}: column {layout.value}", how)))
    return curves, int((~good).sum())


def _not_flagged(columns: Mapping[str, Any], rows: np.ndarray) -> np.ndarray:
    """False where the survey's own flag says that a measurement must not be used."""
    good = np.ones(len(rows), bool)
    for name, array in columns.items():
        flag = normal(name)
        if flag == "catflags":  # IRSA: bit 15 (and above) is bad
            good &= ~(numbers_of(array[rows]) >= 32768)
        elif flag in ("sap_quality", "quality") and array.dtype.kind in "iu":  # Kepler and TESS: 0 is good
            good &= ~(numbers_of(array[rows]) > 0)
        elif flag == "quality" and array.dtype.kind in "OUS":  # ASAS-SN Sky Patrol: G good, B bad
            good &= np.array([text_of(v) != "B" for v in array[rows].tolist()])
    if {"ujy", "dujy", "err"} <= {normal(n) for n in columns}:  # ATLAS forced photometry: err 0 is good
        good &= ~(numbers_of(columns[next(n for n in columns if normal(n) == "err")][rows]) > 0)
    return good


def band_names(bands: Sequence[str], column: str, path: Path, survey: str | None) -> list[str]:
    """Bands by name: "zg" and "ZTF_g" are g, PLAsTiCC's 0-5 are ugrizY, ALeRCE's fid 1-3 are gri."""
    numbered = NUMBERED["plasticc" if normal(column) == "passband" or survey == "plasticc" else "ztf"]
    digits = bool(bands) and all(re.fullmatch(r"\d+", b) for b in bands if b)
    out = []
    for band in bands:
        name = re.sub(r"^(ZTF|ztf)[_ -]", "", band)
        name = name[1:] if normal(column) == "filtercode" and re.fullmatch(r"z[gri]", name) else name
        name = name.lower() if path.stem.upper().startswith("ZTF") else name
        out.append(numbered.get(int(name), name) if digits and name and normal(column) in ("passband", "fid") else name)
    return out


def _band_of(meta: Mapping[str, Any] | None, survey: str | None) -> str:
    mission = str({str(k).upper(): v for k, v in (meta or {}).items()}.get("TELESCOP", survey or "")).strip().lower()
    return {"kepler": "Kepler", "k2": "Kepler", "tess": "TESS"}.get(mission, "")


def _calibrate(columns: Mapping[str, Any], layout: Long, path: Path) -> tuple[dict[str, Any], Long, list[str]]:
    """Bring difference fluxes in DN with a zero point a row (ZTF forced photometry) to microjansky; name AB magnitudes."""
    out, notes = dict(columns), []
    zero = next((n for n in columns if normal(n) in ("zpdiff", "magzp", "zp", "zeropoint")), None)
    if not layout.magnitude and zero is not None and layout.unit in (None, u.DN, u.adu, u.ct):
        zeros = numbers_of(columns[zero])
        zeros = np.where((zeros > 0) & (zeros < 50), zeros, np.nan)
        scale = 10 ** (0.4 * (23.9 - zeros))
        out[layout.value] = numbers_of(columns[layout.value]) * scale
        if layout.error:
            out[layout.error] = numbers_of(columns[layout.error]) * scale
        layout = Long(layout.time, layout.value, layout.error, layout.band, layout.object, False, u.uJy)
        notes.append(f"{layout.value} brought to uJy with the AB zero points in column {zero}")
    if layout.magnitude and layout.unit == u.mag and (path.stem.upper().startswith("ZTF") or "magpsf" in map(normal, columns)):
        layout = Long(layout.time, layout.value, layout.error, layout.band, layout.object, True, u.mag(u.AB))
    return out, layout, notes


def _with_scalars(fields: Sequence[Field], columns: Mapping[str, Any], layout: Long, rows: np.ndarray, name: str,
                  curves: list[LightCurve], path: Path, notes: tuple[str, ...]) -> SkyObject:
    """The object of some rows: columns that are the same in all its rows are its scalars, the median position its place."""
    per_row = {layout.time, layout.value, layout.error, layout.band, layout.object}
    block: dict[str, Any] = {}
    for f in fields:
        array = columns[f.name]
        if f.name in per_row or getattr(array, "ndim", 1) > 1:
            continue
        if normal(f.name) in ("ra", "dec", "decl") and array.dtype.kind in "fiu":
            numbers = numbers_of(array[rows])
            block[f.name] = np.array([np.nanmedian(numbers) if np.isfinite(numbers).any() else np.nan])
        elif len(rows) > 1 and len(set(array[rows].tolist())) == 1:
            block[f.name] = array[rows][:1]
    if not block:
        return SkyObject(name, lightcurves=tuple(curves), history=(f"{path.name}: {len(rows)} rows", *notes))
    layout_plan = plan([f for f in fields if f.name in block], block, path)
    layout_plan = Plan(path, None, layout_plan.position, layout_plan.values, layout_plan.history)
    made = next(objects(layout_plan, block, 0))
    return SkyObject(name, made.position, lightcurves=tuple(curves), scalars=made.scalars,
                     history=(f"{path.name}: {len(rows)} rows", *made.history[1:], *notes))


def from_arrays(time: Any, flux: Any, error: Any, band: Any, path: Path, unit: u.UnitBase | None = None,
                time_name: str = "mjd", survey: str | None = None) -> tuple[LightCurve, ...]:
    """Light curves of one object from its arrays, padding (time <= 0, or all zero) left out, one a band. For nested columns."""
    mjd, scale, how = mjd_of(np.asarray(time, float).ravel(), time_name)
    flux = np.asarray(flux, float).ravel()
    error = np.full(len(flux), np.nan) if error is None else np.asarray(error, float).ravel()
    if not len(mjd) == len(flux) == len(error):
        raise ReadError(path, f"has a light curve with {len(mjd)} times but {len(flux)} fluxes; export it again")
    bands = band_names([text_of(b) or "" for b in np.asarray(band, dtype=object).ravel().tolist()], "band", path, survey) \
        if band is not None else [""] * len(flux)
    good = np.isfinite(mjd) & np.isfinite(flux) & (mjd > 0) & ~((flux == 0) & (error == 0))
    curves = []
    for name in dict.fromkeys(b for b, g in zip(bands, good, strict=True) if g):
        pick = good & np.array([b == name for b in bands])
        sigma = error[pick] if np.isfinite(error[pick]).any() else None
        curves.append(LightCurve(Time(mjd[pick], format="mjd", scale=scale), flux[pick], sigma, name, unit,
                                 history=(path.name, how)))
    return tuple(curves)


def objects_from_table(table: Any, path: Path, survey: str | None) -> Iterator[SkyObject]:
    """The objects of an astropy table with one measurement a row. Raises ReadError if it is not of that kind."""
    from engine.io.tables import columns_of

    fields, columns = columns_of(table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from objects_from_columns(fields, columns, path, survey, table.meta)


def read_file(path: Path, survey: str | None = None) -> Iterator[SkyObject]:
    """The objects of a light-curve file: SNANA text, or any table of measurements. Raises ReadError."""
    path = Path(path)
    if snana.is_snana(path):
        yield from snana.read_file(path, survey)
        return
    from engine.io import tables

    yield from tables.read_file(path, survey)
