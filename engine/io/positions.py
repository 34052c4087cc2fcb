"""Positions from the columns of a table: which two columns, in which frame and unit, as ICRS coordinates row by row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import Angle, SkyCoord

PAIRS = (("ra", "dec"), ("ra", "decl"), ("ra", "de"), ("raj2000", "dej2000"), ("raj2000", "decj2000"), ("ra_icrs", "de_icrs"),
         ("ra_j2000", "dec_j2000"), ("raj2000", "dej2000"), ("ra_deg", "dec_deg"), ("radeg", "decdeg"), ("radeg", "dedeg"),
         ("ra_d", "dec_d"), ("right_ascension", "declination"), ("rightascension", "declination"), ("s_ra", "s_dec"),
         ("target_ra", "target_dec"), ("plug_ra", "plug_dec"), ("alpha_j2000", "delta_j2000"), ("alpha", "delta"),
         ("meanra", "meandec"), ("ramean", "decmean"), ("coord_ra", "coord_dec"), ("ra_obj", "dec_obj"),
         ("alphawin_j2000", "deltawin_j2000"), ("mean_fiber_ra", "mean_fiber_dec"), ("raicrs", "deicrs"),
         ("ra_pnt", "dec_pnt"))
GALACTIC = (("l", "b"), ("glon", "glat"), ("gal_l", "gal_b"), ("gal_lon", "gal_lat"))
B1950 = (("rab1950", "deb1950"), ("ra_b1950", "dec_b1950"), ("ra1950", "dec1950"), ("ra_1950", "de_1950"))
COMPONENTS = ("rah", "ram", "ras", "de", "ded", "dem", "des")  # the columns RAh RAm RAs DE- DEd DEm DEs of a CDS table


@dataclass(frozen=True)
class PositionColumns:
    """The columns of longitude and latitude and their frame; hours: text longitudes with colons are hours, as is usual."""

    columns: tuple[str, ...]
    frame: str = "icrs"
    units: tuple[Any, Any] = (u.deg, u.deg)


def find_position(names: Mapping[str, str], units: Mapping[str, Any], sample: Mapping[str, Any],
                  told: tuple[str, str] | None = None, frame: str | None = None) -> PositionColumns | None:
    """The columns that hold the position, or None. names: column -> normal name; told: where the file itself says."""
    by_name = {n: raw for raw, n in reversed(list(names.items())) if raw in sample and getattr(sample[raw], "ndim", 1) == 1}
    if told and all(t in sample for t in told):
        return PositionColumns(told, frame or "icrs", _angles(told, units))
    for kind, pairs in (("icrs", PAIRS), ("fk4", B1950), ("galactic", GALACTIC)):
        for pair in pairs:
            if all(p in by_name for p in pair):
                found = (by_name[pair[0]], by_name[pair[1]])
                return PositionColumns(found, frame if kind == "icrs" and frame else kind, _angles(found, units))
    if all(c in by_name for c in COMPONENTS):
        return PositionColumns(tuple(by_name[c] for c in COMPONENTS))
    for n, raw in by_name.items():  # source_ra, source_dec; but not the host's or the group's
        match = re.fullmatch(r"(?!host|group|gal|cluster|bcg)(\w+)_ra", n)
        if match and f"{match[1]}_dec" in by_name:
            found = (raw, by_name[f"{match[1]}_dec"])
            return PositionColumns(found, "icrs", _angles(found, units))
    return None


def _angles(columns: Sequence[str], units: Mapping[str, Any]) -> tuple[Any, Any]:
    found = [u.hourangle if units.get(c) == u.hour else units.get(c) for c in columns]
    a, b = (x if x is not None and x != u.dimensionless_unscaled and x.is_equivalent(u.deg) else u.deg for x in found)
    return a, b


def positions(where: PositionColumns | None, block: Mapping[str, Any], count: int) -> tuple[list[SkyCoord | None], list[str]]:
    """For each row its ICRS coordinate, or None and a note that says why there is none."""
    if where is None:
        return [None] * count, [""] * count
    if len(where.columns) == len(COMPONENTS):
        lon, lat = _from_components([block[c] for c in where.columns])
    else:
        lon = _degrees(block[where.columns[0]], where.units[0], where.frame != "galactic")
        lat = _degrees(block[where.columns[1]], where.units[1], False)
    known = np.isfinite(lon) & np.isfinite(lat)
    good = known & (lon >= -180) & (lon <= 360) & (np.abs(lat) <= 90)
    out: list[SkyCoord | None] = [None] * count
    if good.any():
        placed = SkyCoord(lon[good] * u.deg, lat[good] * u.deg, frame=where.frame).icrs
        for slot, row in enumerate(np.flatnonzero(good)):
            out[row] = placed[slot]
    notes = ["" if g or not k else f"position left out: ({x:g}, {y:g}) degrees is not on the sky"
             for g, k, x, y in zip(good, known, lon, lat, strict=True)]
    return out, notes


def _degrees(array: Any, unit: Any, hours: bool) -> np.ndarray:
    """A column of angles in degrees, NaN where there is none. Text with separators is sexagesimal, hours if it is a RA."""
    if array.dtype.kind in "fiu":
        values = np.where(np.ma.getmaskarray(array), np.nan, np.ma.getdata(array).astype(float))
        return values if unit == u.deg else (values * unit).to_value(u.deg)
    if array.dtype.kind not in "USO":
        return np.full(len(array), np.nan)
    return np.array([_angle(v, unit, hours) for v in array.tolist()], dtype=float)


def _angle(cell: Any, unit: Any, hours: bool) -> float:
    text = (cell.decode("utf-8", "replace") if isinstance(cell, bytes) else "" if cell is None else str(cell)).strip()
    try:
        return float((float(text) * unit).to_value(u.deg))
    except ValueError:
        pass
    if not re.fullmatch(r"[+\-−]?\d{1,3}[:\sh°d]+\d{1,2}([:\sm'′]+\d{1,2}(\.\d*)?[s\"″]*)?\s*", text):
        return np.nan
    try:
        return float(
            Angle(text.replace("−", "-"), unit=u.hourangle if hours and "d" not in text and "°" not in text else u.deg).deg
        )
    except (ValueError, u.UnitsError):
        return np.nan


def _from_components(columns: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    def number(array: Any) -> np.ndarray:
        return np.where(np.ma.getmaskarray(array), np.nan, np.ma.getdata(array).astype(float))

    rah, ram, ras, _, ded, dem, des = (number(c) if i != 3 else c for i, c in enumerate(columns))
    minus = np.array([str(s.decode() if isinstance(s, bytes) else s).strip() == "-" for s in columns[3].tolist()])
    return 15 * (rah + ram / 60 + ras / 3600), np.where(minus, -1, 1) * (ded + dem / 60 + des / 3600)
