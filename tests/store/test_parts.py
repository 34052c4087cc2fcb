"""Many small commits: packs change how quickly a sky opens and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord

from engine.objects import Scalar, SkyObject
from engine.store import Store, parts, rows

COMMITS = 19


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Nineteen commits of one to three objects, whose columns come and go, in packs of four."""
    monkeypatch.setattr(parts, "PACK", 4)
    monkeypatch.setattr("engine.store.PACK", 4)
    store = Store.create(tmp_path / "a.sky")
    for i in range(COMMITS):
        scalars = {"z": Scalar(0.1 * i)} if i % 2 else {"class": Scalar("STAR"), "xp_bp": Scalar(np.arange(3.0) + i)}
        if i > 9:
            scalars["flux_g"] = Scalar(float(i), 0.5, "nmgy")  # type: ignore[arg-type]
        objects = [SkyObject(f"o{i}-{j}", SkyCoord(10.0 * i, j, unit="deg"), scalars=scalars) for j in range(1 + i % 3)]
        store.append(objects, ["f"] * len(objects))
    return store


def test_a_packed_sky_says_the_same(store: Store, tmp_path: Path) -> None:
    assert len(list((store.path / "rows").glob("pack-*.parquet"))) == COMMITS // 4
    packed = Store(store.path)
    plain = Store(shutil.copytree(store.path, tmp_path / "plain.sky", ignore=shutil.ignore_patterns("pack-*")))
    assert packed.ids.tolist() == plain.ids.tolist() == store.ids.tolist() and len(plain) == 37
    assert packed.schema.equals(plain.schema, check_metadata=True)
    for since in (0, 1, 7, 30, 36, 37):
        columns = sorted(plain.table(since=since).column_names)
        assert packed.table(since=since).select(columns).equals(plain.table(since=since).select(columns))
    assert packed.table(["_history", "z"]).equals(plain.table(["_history", "z"]))
    blocks = pa.concat_tables(packed.blocks(pa.schema([plain.schema.field(n) for n in ("id", "z", "flux_g")])))
    assert blocks.equals(plain.table(["id", "z", "flux_g"]).combine_chunks())
    assert [packed.read(i).id for i in range(37)] == plain.ids.tolist()
    assert packed.read(36).scalars["flux_g"].unit == "nmgy"


def test_a_reader_follows_a_writer_across_packs(store: Store) -> None:
    reader = Store(store.path)
    assert reader.ids[-1] == "o18-0"
    for i in range(9):
        store.append([SkyObject(f"new{i}")], ["f"])
    assert reader.refresh() and len(reader) == 46
    assert reader.ids[-9:].tolist() == [f"new{i}" for i in range(9)] and reader.row("new4") == 41
    assert reader.table(["id"]).equals(Store(store.path).table(["id"]))


def test_a_column_that_new_parts_lack_is_null_there(store: Store) -> None:
    assert store.table(["z", "id"], since=36).to_pylist() == [{"z": None, "id": "o18-0"}]
    assert store.table(["z"], since=36).schema.equals(store.table(["z"]).schema, check_metadata=True)
    with pytest.raises(KeyError, match="no column 'absent'"):
        store.table(["absent"], since=36)


def test_a_pack_that_is_gone_or_damaged_is_made_again(store: Store) -> None:
    pack = store.path / "rows" / "pack-00001.parquet"
    whole = pack.read_bytes()
    pack.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"pack-00001.parquet is damaged .* delete it"):
        Store(store.path)
    pack.unlink()
    again = Store(store.path)
    assert store.table(["id"]).equals(again.table(["id"]))  # one that had the pack open
    again.append([SkyObject("one more")], ["f"])
    assert pack.exists() and Store(store.path).row("one more") == 37


def test_rows_far_into_a_large_part_are_read_alone(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "a.sky")
    n = 2 * parts.ROW_GROUP + 100
    store.append([SkyObject(f"o{i}", scalars={"n": Scalar(i)}) for i in range(n)], ["f"] * n)
    for row in (0, parts.ROW_GROUP - 1, parts.ROW_GROUP, n - 1, -1):
        found = Store(store.path).read(row)
        assert found.id == f"o{row % n}" and found.scalars["n"].value == row % n
    with pytest.raises(IndexError, match=f"row {n} of a sky with {n} objects"):
        store.read(n)


@pytest.mark.parametrize("ids", [["a", "bcd", "é☉", "x"], ["plain", "ascii", "", "d"], ["one"]])
def test_ids_come_back_as_they_are(ids: list[str]) -> None:
    chunks = pa.chunked_array([pa.array(["cut off", *ids]).slice(1), pa.array(ids)])
    found = rows.texts(chunks)
    assert found.tolist() == [*ids, *ids] and found.dtype.kind == "U"
    assert rows.texts(pa.chunked_array([], pa.string())).tolist() == []
