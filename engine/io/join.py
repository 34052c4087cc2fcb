"""The files of a folder as units of work: images, spectra, light curves and rows of one object together, all else alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from engine.io import desi, parts, realgalaxy
from engine.io.errors import ReadError
from engine.io.folders import MAX_TABLE, Unit, ids_in, merge, read_image, spectrum_ids, units
from engine.objects import SkyObject


class Row(NamedTuple):
    """A row of a table of the folder. Two are the same if they are of the same table and id."""

    table: Path
    id: str
    row: SkyObject

    def __hash__(self) -> int:
        return hash((self.table, self.id))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and (self.table, self.id) == (other.table, other.id)


Rows = Sequence[Row]
Work = tuple[tuple[Path, ...], Callable[[], Iterator[SkyObject]]]


def works(files: Sequence[Path], survey: str | None) -> Iterator[Work]:
    """(files, how to read them) for each object or file of a folder; what cannot be read raises only when it is read."""
    found = list(units(files))
    stamps = realgalaxy.find([u.files[0] for u in found if u.kind == "table"])
    yield from ((s.files, partial(realgalaxy.objects_of, s, survey)) for s in stamps)
    taken = {f for s in stamps for f in s.files}
    found = [u for u in found if u.files[0] not in taken]
    redrocks = {r for r in (desi.redrock_beside(f) for f in files) if r is not None}
    things = [u for u in found if u.kind in ("image", "picture", "spectrum")]
    others = [u for u in found if u.kind == "other" and u.files[0].suffix in (".h5", ".hdf5", ".npz")]
    tables = [u.files[0] for u in found if u.kind == "table" and u.files[0] not in redrocks]
    rows = _rows(tables if things or others else [t for t in tables if t.suffix != ".parquet"], survey) if found[1:] else {}
    used: dict[Path, set[str]] = defaultdict(set)
    for id, together in _together(things):
        names = {id, *(parts.stem(f) for u in together for f in u.files)}
        matches = list(dict.fromkeys(m for n in sorted(names) for m in rows.get(n, ())))
        for table, _, row in matches:
            used[table].add(row.id)
        together_files = tuple(f for u in together for f in u.files)
        yield together_files + tuple(dict.fromkeys(t for t, _, _ in matches)), partial(_read, together, id, matches, survey)
    for unit in others:
        of_rows = list(dict.fromkeys(t for matches in rows.values() for t, _, _ in matches))
        yield (unit.files[0], *of_rows), partial(_with_rows, unit.files[0], rows, used, survey)
    curves = _curves(rows)
    for path, of_rows in curves.items():
        yield (path, *of_rows), partial(_with_rows, path, rows, used, survey)
    for unit in found:
        path = unit.files[0]
        if unit in things or unit in others or path in redrocks or path in curves:
            continue
        beside = desi.redrock_beside(path)
        yield ((path, beside) if beside else (path,)), partial(_rest, path, used[path], survey)


def _together(things: Sequence[Unit]) -> Iterator[tuple[str, list[Unit]]]:
    """(id, units) of each object: images with spectra that have an id in common, pictures with spectra likewise."""
    by_id: dict[str, list[Unit]] = defaultdict(list)
    for unit in things:
        for id in _ids(unit):
            by_id[id].append(unit)
    done: set[Unit] = set()
    for unit in things:
        if unit in done:
            continue
        shared = [i for i in _ids(unit) if len({u.kind == "spectrum" for u in by_id[i]}) == 2 and len(by_id[i]) <= 16]
        best = max(shared, key=len, default="")
        members = [u for u in by_id[best] if u not in done] if best else [unit]
        done.update(members)
        id = best or max(_ids(unit), key=len, default="") or parts.stem(unit.files[0])
        yield id, sorted(members, key=lambda u: u.kind == "spectrum")


def _ids(unit: Unit) -> set[str]:
    try:
        return spectrum_ids(unit.files[0]) if unit.kind == "spectrum" else ids_in(unit.files[0])
    except (ReadError, OSError):
        return set()


def _rows(tables: Sequence[Path], survey: str | None) -> Mapping[str, Rows]:
    """Id -> rows of the folder's small tables; an id with a word before its number ("deimos_12008179") is found by both."""
    from engine.io import _read_file

    found: dict[str, list[Row]] = {}
    for table in tables:
        if table.stat().st_size > MAX_TABLE:
            continue
        try:
            for row in _read_file(table, survey):
                for name in {row.id} | ids_in(Path(row.id)):
                    found.setdefault(name, []).append(Row(table, row.id, row))
        except (ReadError, OSError):
            continue  # said when the table itself is read
    return found


def _curves(rows: Mapping[str, Rows]) -> dict[Path, list[Path]]:
    """Files of light curves -> the tables that have a row of the same object."""
    found: dict[Path, list[Path]] = {}
    for matches in rows.values():
        tables = [m.table for m in matches if not m.row.lightcurves]
        for m in matches if tables else ():
            if m.row.lightcurves:
                found[m.table] = list(dict.fromkeys([*found.get(m.table, ()), *tables]))
    return found


def _read(together: Sequence[Unit], id: str, rows: Rows, survey: str | None) -> Iterator[SkyObject]:
    """The object of these units and table rows; a part alone keeps its own id."""
    from engine.io import _read_file

    found: list[SkyObject] = []
    for unit in together:
        is_fits = unit.kind == "image" and unit.files[0].suffix != ".npy"
        found += read_image(unit, survey) if is_fits else _read_file(unit.files[0], survey)
    if not rows and len(together) == 1:
        yield from found
        return
    if len(together) == 1 and len(found) != 1:
        yield from found
        return
    what = [*(f.name for u in together for f in u.files), *(f"a row of {t.name}" for t, _, _ in rows)]
    own = [r.row for r in rows]
    name = id if len(together) > 1 else found[0].id
    yield merge([*own, *found] if own else found, own[0].id if own else name, f"joined by id {id}: {', '.join(what)}")


def _rest(path: Path, used: set[str], survey: str | None) -> Iterator[SkyObject]:
    """A file's objects without the rows that belong to objects of other files."""
    from engine.io import _read_file

    yield from (o for o in _read_file(path, survey) if o.id not in used)


def _with_rows(path: Path, rows: Mapping[str, Rows], used: dict[Path, set[str]], survey: str | None
               ) -> Iterator[SkyObject]:
    """The objects of a file, each with its row of the folder's tables. Rows that were used are noted for `_rest`."""
    from engine.io import _read_file

    for found in _read_file(path, survey):
        if found.id in used[path]:
            continue
        matches = [m for m in rows.get(found.id, ()) if m.table != path and not m.row.lightcurves]
        if matches:
            for table, id, _ in matches:
                used[table].add(id)
            tables = ", ".join(f"a row of {row.table.name}" for row in matches)
            found = merge([*(r.row for r in matches), found], found.id, f"joined by id {found.id}: {path.name}, {tables}")
        yield found
