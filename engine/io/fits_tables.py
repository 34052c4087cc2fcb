"""FITS tables -> objects, a block of rows at a time, by the same column logic as every other table.

Light curves of one star (Kepler, K2, TESS) are tables too: their times are read by the header's time keywords (Rots et al.
2015, A&A 574, A36), their object and place are the header's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from engine.io import lightcurves, parts
from engine.io.columns import IDS, Field
from engine.io.errors import ReadError
from engine.io.fits_files import columns_of, is_table, name_of, native, rows_of, text
from engine.io.fits_headers import made_up
from engine.io.tables import objects_from_blocks
from engine.objects import Scalar, SkyObject

BLOCK_BYTES = 32 << 20
_TIME_KEYS = ("BJDREFI", "MJDREF", "MJDREFI", "JDREF", "JDREFI", "TIMEUNIT")


def is_time_series(hdus: fits.HDUList) -> bool:
    """Whether the file's first table holds fluxes over time; images beside it are the aperture then, no object's image."""
    table = next((h for h in hdus if is_table(h) and columns_of(h)), None)
    if table is None or not {"t", "time"} & set(columns_of(table)) or not set(lightcurves.FLUXES) & set(columns_of(table)):
        return False
    return name_of(table) == "LIGHTCURVE" or any(k in h.header for h in (table, hdus[0]) for k in _TIME_KEYS)


def objects_of(path: Path, hdus: fits.HDUList, survey: str | None) -> Iterator[SkyObject]:
    """The rows of the file's first table as objects; tables of the same ids beside it add their columns.

    DESI's sky and broken fibres are no objects. Raises ReadError if there is no table with rows.
    """
    tables = [h for h in hdus if is_table(h) and rows_of(h) and columns_of(h)]
    if not tables:
        raise ReadError(path, "holds neither an image nor a spectrum nor a table with rows; leave it out")
    main = tables[0]
    if name_of(main) in ("EVENTS", "STDEVT"):
        raise ReadError(path, "is a list of photons, not of objects; make an image or a light curve from it first")
    flux = next((c for c in main.columns if c.name.lower() == "flux"), None)
    if is_time_series(hdus) and flux is not None and len(main.data[flux.name].shape) > 2:
        raise ReadError(path, "is a target pixel file, a film of pixels; make a light curve from it first")
    joined = [main, *(h for h in tables[1:] if _same_rows(main, h))]
    fields: list[Field] = []
    sources: list[Any] = []
    for hdu in joined:
        for column in hdu.columns:
            if column.name.lower() not in {f.name.lower()
                                           for f in fields} and "C" not in column.format and "M" not in column.format:
                at = hdu.columns.names.index(column.name) + 1
                fields.append(Field(column.name, column.unit or None, text(hdu.header.get(f"TUCD{at}", ""))))
                sources.append((hdu, column))
    note = tuple(f"columns of HDU {name_of(h) or hdus.index(h)} joined by its ids" for h in joined[1:])
    meta = {**hdus[0].header, **main.header}
    for found in objects_from_blocks(fields, _blocks(path, sources, rows_of(main)), path, survey,
                                     (f"HDU {name_of(main) or 1}", *note), meta):
        if made := made_up([main.header]):
            spectra = tuple(replace(s, history=(*s.history, *made)) for s in found.spectra)
            found = replace(found.with_history(*made), spectra=spectra)
        yield _placed(found, meta) if rows_of(main) == 1 or is_time_series(hdus) else found


def _placed(found: SkyObject, header: Mapping[str, Any]) -> SkyObject:
    """The only object of a file with the place and the name that the header gives, where its row does not."""
    place, scalars = found.position, dict(found.scalars)
    for ra, dec in (("RA_OBJ", "DEC_OBJ"), ("RA_TARG", "DEC_TARG"), ("RA", "DEC")):
        place = place or parts.position(header.get(ra), header.get(dec))
    if (found.spectra or found.lightcurves) and text(header.get("OBJECT", "")):
        scalars.setdefault("object", Scalar(text(header["OBJECT"])))
    return replace(found, position=place, scalars=scalars)


def _same_rows(a: Any, b: Any) -> bool:
    """Whether two tables are about the same objects in the same order: equally long, with an id column in common."""
    first, second = columns_of(a), columns_of(b)
    shared = [n for n in IDS if n in first and n in second]
    return rows_of(a) == rows_of(b) and bool(shared) and bool(np.all(a.data[first[shared[0]]] == b.data[second[shared[0]]]))


def _blocks(path: Path, sources: list[Any], count: int) -> Iterator[dict[str, Any]]:
    """Blocks of rows, column -> array, in native byte order and masked where an integer is its TNULL."""
    width = sum({id(h): h.header["NAXIS1"] for h, _ in sources}.values())
    step = max(1, min(8192, BLOCK_BYTES // max(1, width)))
    kinds = next((h for h, c in sources if c.name.upper() == "OBJTYPE"), None)
    left = 0
    for start in range(0, count, step):
        block = {c.name: _column(h, c, slice(start, start + step)) for h, c in sources}
        if kinds is not None and "TARGETID" in block:  # fibres on the sky and broken ones are no objects
            keep = np.char.strip(block["OBJTYPE"].astype(str)) == "TGT"
            left += int(keep.sum())
            block = {n: v[keep] for n, v in block.items()}
            if not keep.any():
                continue
        yield block
    if kinds is not None and not left:
        raise ReadError(path, f"holds {count} fibres, all of them sky, stuck or broken: no target; choose another file")


def _column(hdu: Any, column: Any, rows: slice) -> Any:
    values = hdu.data[column.name][rows]
    if getattr(values, "ndim", 1) > 1 and all(n == 1 for n in values.shape[1:]):  # IDL writes numbers as vectors of one
        values = values.reshape(len(values))
    if isinstance(hdu, fits.TableHDU):  # text: what stands for "no value" is a text, and numbers may be blank
        raw = np.char.strip(np.recarray.field(hdu.data, column.name)[rows])
        absent = (raw == b"") | (raw == str(column.null or "").strip().encode())
        return native(values) if values.dtype.kind in "US" else np.ma.array(native(values), mask=absent)
    if getattr(getattr(values, "dtype", None), "kind", "") == "O" or "P" in column.format or "Q" in column.format:
        out = np.empty(len(values), object)
        out[:] = [native(v) for v in values]
        return out
    values = native(values)
    if column.null is not None and values.dtype.kind in "iu":
        return np.ma.masked_equal(values, column.null)
    return values
