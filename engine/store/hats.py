"""A sky's rows as a HATS catalogue: Parquet files sorted and cut by HEALPix pixel, for LSDB, dask or any reader of Parquet.

Layout: HATS 1.0 (IVOA Note, 2025), as hats-import writes it: ``properties``, ``partition_info.csv`` and
``dataset/Norder=k/Dir=d/Npix=n.parquet`` with ``_metadata`` and ``_common_metadata``. A pixel with more than `MAX_ROWS`
rows is cut into its four children. Rows go once over the disk in between (a file a partition), so that memory holds one
partition and never the catalogue. All is written beside its place and renamed into it at the end.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine import __version__
from engine.files import only_writer, sync_folder, sync_tree
from engine.store.rows import HEALPIX_ORDER

if TYPE_CHECKING:
    from engine.store import Store

MAX_ROWS = 250_000
MAX_ORDER = 18  # 0.8": a pile of rows on one spot stays in one file, however many they are
ROW_GROUP = 50_000
HEALPIX = "_healpix_29"
_BUFFER = 128 << 20  # bytes of rows held before they go to the partitions' files
_FILES_A_DIRECTORY = 10_000


@dataclass(frozen=True)
class Exported:
    """How many rows were written and into how many partitions, and how many were left out because they have no position."""

    rows: int
    partitions: int
    left_out: int


@dataclass(frozen=True)
class Partition:
    """One HEALPix pixel (nested scheme) and how many rows lie in it."""

    order: int
    pixel: int
    rows: int

    @property
    def file(self) -> str:
        """Its place below ``dataset``."""
        directory = self.pixel // _FILES_A_DIRECTORY * _FILES_A_DIRECTORY
        return f"Norder={self.order}/Dir={directory}/Npix={self.pixel}.parquet"

    @property
    def start(self) -> int:
        """The first pixel of order 29 in it."""
        return self.pixel << 2 * (HEALPIX_ORDER - self.order)


def partitions(healpix: NDArray[np.int64], max_rows: int = MAX_ROWS) -> list[Partition]:
    """The pixels to cut a catalogue into, in order along the sky. healpix: (n,) of order 29, sorted."""
    found = []
    todo = [(0, pixel) for pixel in reversed(range(12))]
    while todo:
        order, pixel = todo.pop()
        shift = 2 * (HEALPIX_ORDER - order)
        low, high = np.searchsorted(healpix, [pixel << shift, (pixel + 1) << shift])
        if high - low > max_rows and order < MAX_ORDER:
            todo += [(order + 1, 4 * pixel + child) for child in (3, 2, 1, 0)]
        elif high > low:
            found.append(Partition(order, pixel, int(high - low)))
    return found


def export(store: Store, path: str | Path, healpix: NDArray[np.int64], max_rows: int = MAX_ROWS) -> Exported:
    """Write the rows that have a position to a new folder: ids, positions and scalars, with units in the fields' metadata.

    healpix: their pixels of order 29, sorted. Cutouts, spectra, light curves and source lists stay in the sky.
    Raises ValueError if the folder is there already, if another process writes it, or if no row has a position;
    OSError (and leaves nothing) if the disk is full.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} exists already; choose another name, or remove it first")
    if not len(healpix):
        raise ValueError(f"no object of {store.path} has a position, and a HATS catalogue is sorted by position")
    cut = partitions(healpix, max_rows)
    beside = path.with_name(path.name + ".partial")
    beside.mkdir(parents=True, exist_ok=True)
    with only_writer(beside / "lock", str(path)):
        try:
            for left in (beside / "rows", beside / "catalogue"):  # by a run that was killed
                shutil.rmtree(left, ignore_errors=True)
            _write(store, beside, path.name, cut)
            (beside / "catalogue").rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return Exported(len(healpix), len(cut), len(store) - len(healpix))


def _write(store: Store, beside: Path, name: str, cut: list[Partition]) -> None:
    schema = pa.schema([f for f in store.schema if f.name == HEALPIX or not f.name.startswith("_")])
    spilled = _spill(store, beside / "rows", schema, cut)
    dataset = beside / "catalogue" / "dataset"
    written: list[pq.FileMetaData] = []
    for partition, files in zip(cut, spilled, strict=True):
        table = pa.concat_tables([pa.ipc.open_file(f).read_all() for f in files])
        table = table.take(pc.sort_indices(table, [(HEALPIX, "ascending"), ("id", "ascending")]))
        file = dataset / partition.file
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP, metadata_collector=written)
        written[-1].set_file_path(partition.file)
        for done in files:
            done.unlink()
    pq.write_metadata(schema, dataset / "_common_metadata")
    pq.write_metadata(schema, dataset / "_metadata", metadata_collector=written)
    _describe(beside / "catalogue", name, cut)
    with ThreadPoolExecutor(4) as pool:
        sync_tree(beside / "catalogue", pool)


def _spill(store: Store, folder: Path, schema: pa.Schema, cut: list[Partition]) -> list[list[Path]]:
    """Go through the sky once and sort its rows into files, some to each partition."""
    folder.mkdir(parents=True)
    starts = np.array([p.start for p in cut])
    held: list[list[pa.Table]] = [[] for _ in cut]
    files: list[list[Path]] = [[] for _ in cut]
    size = 0

    def flush() -> None:
        for i, tables in enumerate(held):
            if tables:
                file = folder / f"{i:06d}-{len(files[i]):04d}.arrow"
                with pa.ipc.new_file(file, schema) as writer:
                    writer.write_table(pa.concat_tables(tables).combine_chunks())
                files[i].append(file)
                tables.clear()

    for table in store.blocks(schema):
        table = table.filter(pc.is_valid(table.column(HEALPIX)))
        where = np.searchsorted(starts, table.column(HEALPIX).to_numpy(), side="right") - 1
        for i in np.unique(where):
            held[i].append(table.filter(pa.array(where == i)))
        size += table.nbytes
        if size > _BUFFER:
            flush()
            size = 0
    flush()
    return files


def _describe(catalogue: Path, name: str, cut: list[Partition]) -> None:
    """The properties and the list of partitions."""
    size = sum(f.stat().st_size for f in catalogue.rglob("*.parquet"))
    properties = {
        "obs_collection": name, "dataproduct_type": "object", "hats_nrows": sum(p.rows for p in cut),
        "hats_col_ra": "ra", "hats_col_dec": "dec", "hats_col_healpix": HEALPIX, "hats_col_healpix_order": HEALPIX_ORDER,
        "hats_npix_suffix": ".parquet", "hats_order": max(p.order for p in cut), "hats_max_rows": max(p.rows for p in cut),
        "moc_sky_fraction": f"{sum(4.0**-p.order for p in cut) / 12:.6g}", "hats_estsize": max(1, size // 1024),
        "hats_builder": f"omnisky {__version__}", "hats_creation_date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MUTC"),
        "hats_version": "v1.0"}
    text = "#HATS catalog\n" + "".join(f"{key}={value}\n" for key, value in properties.items())
    for file in ("hats.properties", "properties"):
        (catalogue / file).write_text(text)
    lines = "".join(f"{p.order},{p.pixel}\n" for p in cut)
    (catalogue / "partition_info.csv").write_text("Norder,Npix\n" + lines)
