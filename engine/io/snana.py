"""SNANA light curves as text (SNID, RA, REDSHIFT_HELIO, VARLIST, OBS; Kessler et al. 2009): FLUXCAL at zero point 27.5."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.time import Time

from engine.io.columns import number_or_none
from engine.io.errors import ReadError
from engine.io.surveys import SURVEYS
from engine.io.text import head, lines
from engine.objects import LightCurve, Scalar, SkyObject

REDSHIFTS = ("REDSHIFT_HELIO", "REDSHIFT_FINAL", "REDSHIFT_SPEC")  # never the photometric or CMB-frame one
SCALARS = {
    "REDSHIFT_CMB": ("z_cmb", None),
    "REDSHIFT_HELIO": ("z_helio", None),
    "REDSHIFT_FINAL": ("z_final", None),
    "MWEBV": ("ebv", u.mag),
    "VPEC": ("vpec", u.km / u.s),
    "PEAKMJD": ("peak_mjd", u.d),
    "SEARCH_PEAKMJD": ("search_peak_mjd", u.d),
    "HOST_LOGMASS": ("host_logmass", None),
    "HOSTGAL_LOGMASS": ("host_logmass", None),
    "HOSTGAL_PHOTOZ": ("host_z_phot", None),
    "HOSTGAL_SPECZ": ("host_z", None),
}
UNKNOWN = (-9.0, -99.0, -999.0)


def is_snana(path: Path) -> bool:
    """Whether the text is SNANA's: keywords with colons, among them SNID and VARLIST (or OBS)."""
    text = head(path)
    return bool(re.search(r"^\s*SNID:", text, re.M) and re.search(r"^\s*(VARLIST|OBS|NOBS|NVAR|SURVEY):", text, re.M))


def read_file(path: Path, survey: str | None = None) -> Iterator[SkyObject]:
    """The supernovae of one SNANA file (usually one). Raises ReadError if it is damaged or has no observation."""
    header: dict[str, str] = {}
    names: list[str] = []
    rows: list[list[str]] = []
    found = False
    for number, line in enumerate(lines(path), start=1):
        words = line.split()
        key = words[0] if words else ""
        if key == "SNID:" and header.get("SNID"):
            yield _object(path, header, names, rows)
            header, rows, found = {}, [], True
        if key in ("VARLIST:", "VARNAMES:"):
            names = words[1:]
        elif key in ("OBS:", "EPOCH:"):
            if not names or len(words) - 1 < len(names):
                raise ReadError(
                    path,
                    f"line {number} has {len(words) - 1} values where VARLIST names {len(names)}; the file is cut "
                    "off or damaged: copy it again",
                )
            rows.append(words[1:len(names) + 1])
        elif re.fullmatch(r"[A-Za-z_][\w()]*:", key):
            header.setdefault(key[:-1].upper(), line.split(":", 1)[1].split("#")[0].strip())
    if header.get("SNID") or not found:
        yield _object(path, header, names, rows)


def _object(path: Path, header: dict[str, str], names: list[str], rows: list[list[str]]) -> SkyObject:
    if not header.get("SNID") or not names:
        raise ReadError(path, "has no SNID or no VARLIST; it is not a complete SNANA light curve: copy it again")
    declared = number_or_none(header.get("NOBS", "").split(" ")[0])
    if declared is not None and len(rows) < declared:
        raise ReadError(path, f"promises {declared:.0f} observations but holds {len(rows)}; it is cut off: copy it again")
    curves, skipped = _curves(path, names, rows)
    if not curves:
        what = "promises no observation (NOBS: 0)" if declared == 0 else "holds no usable observation"
        raise ReadError(path, f"{what}; leave it out or copy it again")
    notes = [f"{path.name}: SNANA, survey {header.get('SURVEY', 'not stated')}"]
    scalars = _scalars(header, notes)
    if skipped:
        notes.append(f"{skipped} observations without a flux left out")
    snid = header["SNID"].split()[0]
    return SkyObject(snid, _position(header, notes), lightcurves=curves, scalars=scalars, history=tuple(notes))


def _curves(path: Path, names: list[str], rows: list[list[str]]) -> tuple[tuple[LightCurve, ...], int]:
    columns = {n.upper(): [r[i] for r in rows] for i, n in enumerate(names)}
    band = next((columns[b] for b in ("BAND", "FLT", "FILTER", "FLTNAME") if b in columns), None)
    if "MJD" not in columns or band is None or not {"FLUXCAL", "MAG"} & set(columns):
        raise ReadError(
            path, f"has a VARLIST without MJD, a band, or FLUXCAL or MAG ({', '.join(names)}); it cannot be read as SNANA"
        )
    flux = "FLUXCAL" in columns
    error = columns.get("FLUXCALERR" if flux else "MAGERR", ["nan"] * len(rows))
    table = np.array([[number_or_none(x) if number_or_none(x) is not None else np.nan for x in column]
                      for column in (columns["MJD"], columns["FLUXCAL" if flux else "MAG"], error)], dtype=float).reshape(3, -1)
    good = np.isfinite(table[0]) & np.isfinite(table[1]) & (table[0] > 0) & ~np.isin(table[1], [-999.0, -9999.0])
    good &= ~(table[2] < 0)  # an error of -9 marks a flux that is not one
    if not flux:
        good &= (table[1] < 50) & (table[1] > 0)
    unit = SURVEYS["snana"].unit if flux else u.mag
    curves = []
    for name in dict.fromkeys(b for b, g in zip(band, good, strict=True) if g):
        pick = good & np.array([b == name for b in band])
        sigma = table[2][pick] if np.isfinite(table[2][pick]).any() else None
        curves.append(
            LightCurve(
                Time(table[0][pick], format="mjd", scale="utc"),
                table[1][pick],
                sigma,
                name,
                unit,
                history=(f"{path.name}: {'FLUXCAL, zero point 27.5' if flux else 'MAG'}", "times are MJD, scale utc (assumed)"),
            )
        )
    return tuple(curves), int((~good).sum())


def _pair(text: str) -> tuple[float | None, float | None]:
    """ "0.350 +- 0.0005" -> (0.350, 0.0005); a value or error that stands for unknown is None."""
    parts = re.split(r"\s*\+-\s*", text)
    values = [number_or_none(p.split()[0]) if p.split() else None for p in parts[:2]]
    value = None if values[0] in UNKNOWN else values[0]
    error = values[1] if len(values) > 1 and values[1] is not None and values[1] > 0 else None
    return value, error


def _scalars(header: dict[str, str], notes: list[str]) -> dict[str, Scalar]:
    scalars = {}
    redshift = next(((k, _pair(header[k])) for k in REDSHIFTS if k in header and _pair(header[k])[0] is not None), None)
    if redshift and -0.02 < redshift[1][0] <= 20:  # type: ignore[operator]
        scalars["z"] = Scalar(redshift[1][0], redshift[1][1])  # type: ignore[arg-type]
        notes.append(f"z is {redshift[0]}")
    for key, (name, unit) in SCALARS.items():
        if key not in header or (redshift and key == redshift[0]):
            continue
        value, error = _pair(header[key])
        if value is not None and (not name.endswith(("z", "z_cmb", "z_phot")) or value > -0.02):
            scalars[name] = Scalar(
                value, error if error or key + "_ERR" not in header else _pair(header[key + "_ERR"])[0], unit
            )
    fake = number_or_none(header.get("FAKE", "").split(" ")[0])
    if fake is not None:
        scalars["fake"] = Scalar(bool(fake))
    for key, name in (("SURVEY", "survey"), ("SNTYPE", "type"), ("TYPE", "type"), ("IAUC", "iau_name")):
        word = header.get(key, "").split()
        if word and word[0].upper() not in ("UNKNOWN", "NULL", "NONE", "-9"):
            scalars.setdefault(name, Scalar(word[0]))
    return scalars


def _position(header: dict[str, str], notes: list[str]) -> SkyCoord | None:
    ra, dec = (_pair(header.get(k, ""))[0] for k in ("RA", "DECL"))
    dec = _pair(header.get("DEC", ""))[0] if dec is None else dec
    if ra is None or dec is None:
        return None
    if not (-180 <= ra <= 360 and -90 <= dec <= 90):
        notes.append(f"position left out: ({ra:g}, {dec:g}) degrees is not on the sky")
        return None
    return SkyCoord(ra * u.deg, dec * u.deg)
