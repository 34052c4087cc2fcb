"""Tables of objects as VOTable, ECSV, IPAC, CDS or delimited text: catalogues, spectra a row or a file, light curves.

Gaia's XP coefficients come out the same from CSV, ECSV, VOTable and FITS (through `objects_from_table`). What each column
means is decided in `columns.py`; positions are ICRS; missing values are absent.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io.votable import parse
from astropy.table import Table

from engine.io import lightcurves, snana, tablespectra
from engine.io.columns import MAX_COLUMNS, Field, objects, plan
from engine.io.errors import ReadError
from engine.io.text import BLOCK, guarded, head, open_binary, open_table
from engine.objects import SkyObject

MAX_BYTES = 4 << 30  # XML and ECSV are parsed in memory


def read_file(path: Path, survey: str | None = None) -> Iterator[SkyObject]:
    """The objects of a table in text. Raises ReadError, in one sentence, for what cannot be read as one."""
    path = Path(path)
    start = head(path)
    if re.search(r"<VOTABLE|<\w+:VOTABLE", start):
        yield from _votable(path, survey)
    elif start.lstrip().startswith("<"):
        raise ReadError(path, "is a web page or XML that is no VOTable, perhaps an error message; download the table again")
    elif start.startswith("# %ECSV"):
        yield from objects_from_table(_parse(path, "ascii.ecsv", "an ECSV table"), path, survey)
    elif re.match(r"\s*(\\.*\n\s*)*\|.*\|\s*\n", start):
        yield from objects_from_table(_parse(path, "ascii.ipac", "an IPAC table"), path, survey)
    elif start.startswith("#K IRAF"):
        raise ReadError(path, "is a table of IRAF's daophot; convert it with txdump and name its columns")
    elif "Byte-by-byte Description" in start:
        yield from objects_from_table(_parse(path, "ascii.cds", "a CDS table"), path, survey)
    elif snana.is_snana(path):
        yield from snana.read_file(path, survey)
    else:
        text = open_table(path)
        if not text.rows:
            raise ReadError(path, "holds a header but no row; leave it out or download the table again")
        yield from objects_from_blocks(text.fields, text.blocks(), path, survey, text.history)


def objects_from_table(table: Any, path: Path, survey: str | None) -> Iterator[SkyObject]:
    """The objects of an astropy table (a FITS BinTable, VOTable, ...): a catalogue, light curves or a spectrum.

    Raises ReadError if it is empty or no table of objects.
    """
    path = Path(path)
    if not len(table) or not table.colnames:
        raise ReadError(path, "holds a table without rows; leave it out or download it again")
    if len(table.colnames) > MAX_COLUMNS:
        raise ReadError(path, f"has {len(table.colnames):,} columns, more than the {MAX_COLUMNS:,} a table may have")
    fields, columns = columns_of(table)
    count = len(table)
    blocks = ({n: c[i:i + BLOCK] for n, c in columns.items()} for i in range(0, count, BLOCK))
    yield from objects_from_blocks(fields, blocks, path, survey, (), dict(table.meta), columns)


def columns_of(table: Any) -> tuple[list[Field], dict[str, Any]]:
    """An astropy table as fields and arrays: quantities without unit, times as MJD, coordinates as ra and dec."""
    fields, columns = [], {}
    for name in table.colnames:
        column = table[name]
        if hasattr(column, "mjd"):
            fields.append(Field("mjd" if "mjd" not in table.colnames else f"{name}_mjd", u.d))
            columns[fields[-1].name] = np.asarray(column.mjd)
        elif hasattr(column, "icrs"):
            for part, angle in (("ra", column.icrs.ra), ("dec", column.icrs.dec)):
                fields.append(Field(part if part not in table.colnames else f"{name}_{part}", u.deg))
                columns[fields[-1].name] = np.asarray(angle.deg)
        else:
            ucd = (getattr(column, "meta", None) or getattr(column.info, "meta", None) or {}).get("ucd", "")
            fields.append(Field(name, column.unit if getattr(column, "unit", None) is not None else None, str(ucd or "")))
            value = getattr(column, "value", column)
            columns[name] = np.ma.asarray(value) if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    return fields, columns


def objects_from_blocks(fields: Sequence[Field], blocks: Iterable[dict[str, Any]], path: Path, survey: str | None,
             history: tuple[str, ...] = (), meta: Mapping[str, Any] | None = None,
             whole: dict[str, Any] | None = None) -> Iterator[SkyObject]:
    """Objects from blocks of rows: what kind of table it is, is decided on the first block."""
    source = iter(blocks)
    first = next(source)
    if len(fields) < 2:
        raise ReadError(path, "has a single column and no values beside it; nothing in it can be shown on a map")
    kind = whole if whole is not None else first
    if tablespectra.is_one_spectrum(fields, kind):
        rows = whole if whole is not None else _joined(first, source)
        yield tablespectra.one_spectrum(fields, rows, path, survey)
        return
    if lightcurves.long_format(fields, kind) is not None:
        rows = whole if whole is not None else _joined(first, source)
        yield from lightcurves.objects_from_columns(fields, rows, path, survey, meta)
        return
    spectra = tablespectra.spectra_in_rows(fields, kind, path, survey)
    skip = spectra.columns if spectra else frozenset()
    layout = plan(fields, kind, path, survey, skip, frame=_frame(meta))
    if layout.id is None and layout.position is None and not layout.values and not spectra:
        raise ReadError(path, "has neither an id nor a position nor a value; name a column id, or ra and dec")
    if layout.id is None and layout.position is None and _half_a_spectrum({f.name.lower() for f in fields}):
        raise ReadError(path, "has the columns of a spectrum, but not both wavelength and flux; export it again with both")
    layout.history += history + (spectra.history if spectra else ())
    start = 0
    for block in _chain(first, source):
        extras = (lambda i, b=block: {"spectra": spectra.of(b, i)}) if spectra else None
        yield from objects(layout, block, start, extras)
        start += len(next(iter(block.values())))


def _half_a_spectrum(names: set[str]) -> bool:
    """Whether rows that name nothing are the pixels of a spectrum of which the wavelength or the flux is missing."""
    return "loglam" in names or {"flux", "ivar"} <= names or {"wavelength", "ivar"} <= names


def _chain(first: dict[str, Any], rest: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield first
    yield from rest


def _joined(first: dict[str, Any], rest: Iterable[dict[str, Any]]) -> dict[str, Any]:
    blocks = [first, *rest]
    return {n: np.ma.concatenate([b[n] for b in blocks]) if isinstance(first[n], np.ma.MaskedArray)
            else np.concatenate([b[n] for b in blocks]) for n in first}


def _frame(meta: Mapping[str, Any] | None) -> str | None:
    """The frame a VOTable's COOSYS states, where it is not (nearly) ICRS."""
    system = str((meta or {}).get("coosys", "")).lower()
    return {"eq_fk4": "fk4", "eq_fk5": "fk5", "galactic": "galactic"}.get(system)


def _parse(path: Path, format: str, what: str) -> Table:
    """Parse a table with astropy. Whatever astropy finds wrong in damaged text becomes one sentence."""
    _not_too_big(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Table.read(path, format=format)
        except MemoryError:
            raise
        except Exception as problem:  # parsers raise anything on damaged text: it is all the same sentence
            raise ReadError(path, f"is not {what} that can be read ({_short(problem)}); it is damaged or cut off, download it "
                                  "again") from problem


def _short(problem: Exception) -> str:
    return " ".join(str(problem).split())[:160] or type(problem).__name__


def _not_too_big(path: Path) -> None:
    if path.stat().st_size > MAX_BYTES:
        raise ReadError(
            path, f"is larger than {MAX_BYTES >> 30} GiB, too large for a table in text; convert it to Parquet or FITS"
        )


# -- VOTable --------------------------------------------------------------------------------------------------------

def _votable(path: Path, survey: str | None) -> Iterator[SkyObject]:
    _not_too_big(path)
    raw = _checked_xml(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            votable = parse(io.BytesIO(raw), verify="ignore")
            tables = [(t.to_table(use_names_over_ids=True) if _distinct(t) else t.to_table(), t)
                      for t in votable.iter_tables() if len(t.array)]
            systems = {c.system for r in votable.resources for c in (*r.coordinate_systems, *votable.coordinate_systems)}
        except MemoryError:
            raise
        except Exception as problem:
            raise ReadError(
                path, f"is not a VOTable that can be read ({_short(problem)}); it is damaged or cut off, download it again"
            ) from problem
    if not tables:
        status = re.search(rb'QUERY_STATUS"\s+value="ERROR"[^>]*>\s*(.{0,200})', raw, re.S)
        why = (
            "reports an error of the server (" + re.sub(r"<.*", "", status[1].decode("utf-8", "replace")).strip()[:120] + ")"
            if status
            else "holds no table with rows"
        )
        raise ReadError(path, f"{why}; repeat the query and save its result again")
    for table, element in tables:
        for field, name in zip(element.fields, table.colnames, strict=True):
            table[name].meta["ucd"] = field.ucd or ""
        if len(systems) == 1:
            table.meta["coosys"] = next(iter(systems))
        yield from objects_from_table(table, path, survey)


def _distinct(table: Any) -> bool:
    names = [f.name or f.ID for f in table.fields]
    return len(set(names)) == len(names)


def _checked_xml(path: Path) -> bytes:
    """The file's bytes, gzip undone. Refuses what would reach outside of the file or grow without bounds."""
    with open_binary(path) as stream:
        raw: bytes = guarded(path, lambda: stream.read(MAX_BYTES + 1))
    if len(raw) > MAX_BYTES:
        raise ReadError(path, "unpacks to more than 4 GiB; convert it to Parquet or FITS")
    if b"<!ENTITY" in raw:
        raise ReadError(path, "defines XML entities, which a VOTable has no need of; save it again without them")
    if re.search(rb"<STREAM[^>]*\bhref\s*=", raw):
        raise ReadError(path, "keeps its data in another file (STREAM href); save it with the data inside")
    rows = max((int(n) for n in re.findall(rb'\bnrows\s*=\s*["\'](\d{1,18})', raw)), default=0)
    cells = [np.prod([float(n) for n in re.findall(rb"\d+", size)] or [1]) for size in
             re.findall(rb'arraysize\s*=\s*["\']([0-9x*]+)["\']', raw)]
    if rows > len(raw) or any(c > 8 * len(raw) for c in cells):
        raise ReadError(path, "promises more data than it can hold; it is damaged, download it again")
    return raw
