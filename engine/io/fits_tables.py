"""FITS tables -> objects, a block of rows at a time, by the same column logic as every other table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from engine.io.columns import IDS, Field
from engine.io.errors import ReadError
from engine.io.fits_files import columns_of, is_table, name_of, native, rows_of
from engine.io.tables import objects_from_blocks
from engine.objects import SkyObject

BLOCK_BYTES = 32 << 20


def objects_of(path: Path, hdus: fits.HDUList, survey: str | None) -> Iterator[SkyObject]:
    """The rows of the file's first table as objects; tables of the same ids beside it add their columns.

    DESI's sky and broken fibres are no objects. Raises ReadError if there is no table with rows.
    """
    tables = [h for h in hdus if is_table(h) and rows_of(h) and columns_of(h)]
    if not tables:
        raise ReadError(path, "holds neither an image nor a spectrum nor a table with rows; leave it out")
    main = tables[0]
    joined = [main, *(h for h in tables[1:] if _same_rows(main, h))]
    fields: list[Field] = []
    sources: list[Any] = []
    for hdu in joined:
        for column in hdu.columns:
            if column.name.lower() not in {f.name.lower()
                                           for f in fields} and "C" not in column.format and "M" not in column.format:
                fields.append(Field(column.name, column.unit or None))
                sources.append((hdu, column))
    note = tuple(f"columns of HDU {name_of(h) or hdus.index(h)} joined by its ids" for h in joined[1:])
    yield from objects_from_blocks(fields, _blocks(path, sources, rows_of(main)), path, survey,
                                   (f"HDU {name_of(main) or 1}", *note))


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
    if getattr(getattr(values, "dtype", None), "kind", "") == "O" or "P" in column.format or "Q" in column.format:
        out = np.empty(len(values), object)
        out[:] = [native(v) for v in values]
        return out
    values = native(values)
    if column.null is not None and values.dtype.kind in "iu":
        return np.ma.masked_equal(values, column.null)
    return values
