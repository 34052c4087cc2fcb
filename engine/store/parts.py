"""The Parquet files of a sky's rows: a part a commit, and packs that put the columns of 256 parts into one file.

``rows/part-00007.parquet`` is the truth and never changes. ``rows/pack-00000.parquet`` repeats the plain columns of parts
0 to 255, made by a writer once there are so many, so that a sky of ten thousand small commits opens without ten thousand
files being read; a pack may be deleted at any time and is made again.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.files import commit
from engine.store import rows

PACK = 256  # parts in a pack
ROW_GROUP = 256  # rows of a part that are read to get at one
PACK_GROUP = 65_536
_CACHED_GROUPS = 128
_CACHED_FOOTERS = 1024
_COUNTS = b"rows_of_parts"


class Parts:
    """The rows of the parts in `folder` that were there at the last `refresh`. Safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = [0]  # first row of each part, and the total
        self._packs: set[int] = set()
        self._schema, self._schema_parts = rows.empty_table().schema, 0
        self._footers: OrderedDict[int, pq.FileMetaData] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int, str | None], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many rows."""
        return self._starts[-1]

    @property
    def count(self) -> int:
        """How many parts."""
        return len(self._starts) - 1

    def _part(self, i: int) -> Path:
        return self._folder / f"part-{i:05d}.parquet"

    def _pack(self, k: int) -> Path:
        return self._folder / f"pack-{k:05d}.parquet"

    def refresh(self) -> bool:
        """Look for parts committed since; True if there are any. Raises ValueError with the name of a damaged file."""
        before = self.count
        while True:
            pack = self._pack(self.count // PACK)
            if self.count % PACK == 0 and pack.exists():
                with _naming(pack):
                    counts = json.loads(pq.read_metadata(pack).metadata[_COUNTS])
                self._packs.add(self.count // PACK)
            elif (path := self._part(self.count)).exists():
                with _naming(path):
                    counts = [pq.read_metadata(path).num_rows]
            else:
                return self.count > before
            for rows_of_part in counts:
                self._starts.append(self._starts[-1] + rows_of_part)

    def _files(self, first: int, nested: bool = False) -> Iterator[tuple[int, Path]]:
        """The files that hold all rows from part `first` on (or from a little before), each with its first part."""
        i = first
        while i < self.count:
            if i // PACK in self._packs and not nested and self._pack(i // PACK).exists():
                i -= i % PACK
                yield i, self._pack(i // PACK)
                i += PACK
            else:
                yield i, self._part(i)
                i += 1

    @property
    def schema(self) -> pa.Schema:
        """All columns that any row has (but the nested ones), with units and scalar names in the fields' metadata."""
        with self._lock:
            if self._schema_parts < self.count:
                new = [_schema(path) for _, path in self._files(self._schema_parts)]
                self._schema = _unified([self._schema, *new])
                self._schema_parts = self.count
            return self._schema

    def table(self, columns: Sequence[str] | None = None, since: int = 0) -> pa.Table:
        """Columns of all rows from `since` on; see `Store.table`."""
        first = max(int(np.searchsorted(self._starts, since, side="right")) - 1, 0)
        nested = any(c in rows.NESTED for c in columns or ())
        files = list(self._files(first, nested))
        if not files:
            return rows.empty_table(columns)
        table = pa.concat_tables([_read(path, columns) for _, path in files], promote_options="permissive")
        table = table.slice(since - self._starts[files[0][0]])
        for name in set(columns or ()) - set(table.column_names):  # earlier parts may have it
            if name not in self.schema.names:
                raise KeyError(f"no column {name!r} in {self._folder.parent}")
            field = self.schema.field(name)
            table = table.append_column(field, pa.nulls(len(table), field.type))
        return table if columns is None else table.select(list(columns))

    def blocks(self, schema: pa.Schema, size: int = PACK_GROUP) -> Iterator[pa.Table]:
        """All rows from the first to the last, at most `size` at a time, with the (not nested) columns of `schema`."""
        for _, path in self._files(0):
            with _naming(path), pq.ParquetFile(path) as file:
                there = [name for name in schema.names if name in file.schema_arrow.names]
                for batch in file.iter_batches(size, columns=there, use_threads=False):
                    columns = [batch.column(f.name).cast(f.type) if f.name in there else pa.nulls(len(batch), f.type)
                               for f in schema]
                    yield pa.Table.from_arrays(columns, schema=schema)

    def row(self, row: int, column: str | None = None) -> tuple[pa.Table, int]:
        """Some rows with all columns (or the one named), and the place of this one among them.

        Raises IndexError if there is no such row.
        """
        n = len(self)
        if not -n <= row < n:
            raise IndexError(f"row {row} of a sky with {n} objects")
        row = int(row) % n
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        path, footer = self._part(part), self._footer(part)
        group, i = divmod(row - self._starts[part], footer.row_group(0).num_rows)  # all but the last are equally long
        with self._lock:
            for key in ((part, group, None), (part, group, column)):
                if key in self._groups:
                    self._groups.move_to_end(key)
                    return self._groups[key], i
        with _naming(path), pq.ParquetFile(path, metadata=footer) as file:
            table = file.read_row_group(group, None if column is None else [column], use_threads=False).combine_chunks()
        with self._lock:
            _remember(self._groups, (part, group, column), table, _CACHED_GROUPS)
        return table, i

    def _footer(self, part: int) -> pq.FileMetaData:
        with self._lock:
            if part in self._footers:
                self._footers.move_to_end(part)
                return self._footers[part]
        path = self._part(part)
        with _naming(path):
            footer = pq.read_metadata(path)
        with self._lock:
            _remember(self._footers, part, footer, _CACHED_FOOTERS)
        return footer

    # -- writing, by the only writer -----------------------------------------------------------------------------

    def commit(self, table: pa.Table) -> None:
        """Make these rows the next part: it is there with the rename, or not at all."""
        path = self._part(self.count)
        _write(path, [table], table.schema, ROW_GROUP)
        self._starts.append(self._starts[-1] + len(table))

    def pack(self) -> None:
        """Make the packs that there could be and are not."""
        for k in range(self.count // PACK):
            if not self._pack(k).exists():
                paths = [self._part(i) for i in range(k * PACK, (k + 1) * PACK)]
                schema = _unified([_schema(path) for path in paths])
                starts = self._starts[k * PACK : (k + 1) * PACK + 1]
                counts = json.dumps(np.diff(starts).tolist())
                tables = (pa.concat_tables([_read(path, schema.names), schema.empty_table()], promote_options="permissive")
                          .select(schema.names).cast(schema) for path in paths)
                _write(self._pack(k), tables, schema.with_metadata({_COUNTS: counts}), PACK_GROUP)
            self._packs.add(k)


def _remember(cache: OrderedDict, key: object, value: object, most: int) -> None:  # type: ignore[type-arg]
    cache[key] = value
    if len(cache) > most:
        cache.popitem(last=False)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file it is that cannot be read."""
    try:
        yield
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"{path} is gone; restore it from a copy, or open the sky again") from error
        remedy = "delete it (it is made again)" if path.name.startswith("pack") else "restore it from a copy"
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{path} is damaged and cannot be read ({reason}); {remedy}") from error


def _schema(path: Path) -> pa.Schema:
    """Of the columns that are not nested."""
    with _naming(path):
        return pa.schema([f for f in pq.read_schema(path) if f.name not in rows.NESTED])


def _unified(schemas: Sequence[pa.Schema]) -> pa.Schema:
    return pa.unify_schemas(schemas, promote_options="permissive")


def _read(path: Path, columns: Sequence[str] | None) -> pa.Table:
    """Those of the columns that the file has (all but the nested ones if None)."""
    with _naming(path), pq.ParquetFile(path, memory_map=True) as file:
        there = file.schema_arrow.names
        wanted = [c for c in there if c not in rows.NESTED] if columns is None else [c for c in columns if c in there]
        return file.read(wanted or ["id"], use_threads=False).replace_schema_metadata()


def _write(path: Path, tables: Sequence[pa.Table] | Iterator[pa.Table], schema: pa.Schema, row_group: int) -> None:
    """Write tables one after the other into one file, in row groups of `row_group`, and rename it into place."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                held: list[pa.Table] = []
                for table in tables:
                    held.append(table)
                    if sum(map(len, held)) >= row_group:
                        writer.write_table(pa.concat_tables(held), row_group_size=row_group)
                        held = []
                if held:
                    writer.write_table(pa.concat_tables(held), row_group_size=row_group)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    commit(temporary, path)


