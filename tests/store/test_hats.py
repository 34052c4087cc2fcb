"""A sky as a HATS catalogue: every row and value is in it once, in its pixel, sorted; our reader and LSDB read it back."""

from __future__ import annotations

import csv
from pathlib import Path

import astropy.units as u
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord

import engine.io
from engine.objects import Scalar, SkyObject
from engine.store import Store, hats


def make_sky(path: Path, n: int = 3000) -> Store:
    """Half of the objects in a cluster of 1 degree, three without a position, in parts of different columns."""
    rng = np.random.default_rng(5)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    ra[::2], dec[::2] = 150 + rng.normal(size=n // 2), 2 + rng.normal(size=n // 2)
    store = Store.create(path)
    for start in range(0, n, 500):
        objects = []
        for i in range(start, start + 500):
            scalars = {"flux_g": Scalar(rng.lognormal(), 0.1, u.Unit("nmgy")), "class": Scalar("GALAXY" if i % 3 else "STAR")}
            if start >= 1000:
                scalars["z"] = Scalar(float(rng.uniform(0.01, 1)))
            objects.append(SkyObject(f"o{i:05d}", SkyCoord(ra[i], dec[i], unit="deg") if i not in (7, 8, 2999) else None,
                                     scalars=scalars))
        store.append(objects, ["f"] * len(objects))
    return store


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_sky(tmp_path_factory.mktemp("hats") / "a.sky")


@pytest.fixture(scope="module")
def catalogue(sky: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("catalogue") / "sky"
    assert sky.export_hats(path, max_rows=400) == hats.Exported(2997, len(list(path.rglob("Npix=*.parquet"))), 3)
    return path


def test_partitions_cover_the_sky_once_and_hold_no_more_than_asked(sky: Store) -> None:
    keys = np.sort(sky.table(["_healpix_29"]).column("_healpix_29").drop_null().to_numpy())
    cut = hats.partitions(keys, 100)
    assert sum(p.rows for p in cut) == len(keys) and max(p.rows for p in cut) <= 100 and len({p.order for p in cut}) > 3
    ends = [p.start + 4 ** (29 - p.order) for p in cut]
    assert all(end <= after.start for end, after in zip(ends, cut[1:], strict=False))
    parents = {(p.order - 1, p.pixel // 4): 0 for p in cut if p.order}
    for order, pixel in parents:  # no pixel is cut that need not have been
        shift = 2 * (29 - order)
        assert np.sum((keys >> shift) == pixel) > 100


def test_a_pile_on_one_spot_stays_in_one_file() -> None:
    cut = hats.partitions(np.full(1000, 12345678901234567), 10)
    assert [(p.order, p.rows) for p in cut] == [(hats.MAX_ORDER, 1000)]


def test_files_lie_where_hats_wants_them(catalogue: Path) -> None:
    listed = [(int(r["Norder"]), int(r["Npix"])) for r in csv.DictReader((catalogue / "partition_info.csv").open())]
    for order, pixel in listed:
        table = pq.read_table(catalogue / f"dataset/Norder={order}/Dir={pixel // 10_000 * 10_000}/Npix={pixel}.parquet",
                              partitioning=None)
        keys = table.column("_healpix_29").to_numpy()
        assert np.all(np.diff(keys) >= 0) and np.all(keys >> 2 * (29 - order) == pixel)
    assert len(listed) == len(list(catalogue.rglob("Npix=*.parquet")))
    everything = pq.read_metadata(catalogue / "dataset" / "_metadata")
    assert everything.num_rows == 2997
    assert {everything.row_group(i).column(0).file_path for i in range(everything.num_row_groups)} == {
        f"Norder={o}/Dir={p // 10_000 * 10_000}/Npix={p}.parquet" for o, p in listed}
    schema = pq.read_schema(catalogue / "dataset" / "_common_metadata")
    assert schema.field("flux_g").metadata[b"unit"] == b"nmgy" and schema.field("ra").metadata[b"unit"] == b"deg"
    assert not [n for n in schema.names if n.startswith("_") and n != "_healpix_29"]


def test_our_reader_finds_every_object_and_value_again(sky: Store, catalogue: Path) -> None:
    found = {o.id: o for o in engine.io.read(catalogue)}
    assert len(found) == 2997
    for row, id in enumerate(sky.ids):
        before, after = sky.read(row), found.get(str(id))
        if before.position is None:
            assert after is None
            continue
        assert after is not None and after.position is not None
        assert (after.position.ra.deg, after.position.dec.deg) == (before.position.ra.deg, before.position.dec.deg)
        assert set(after.scalars) == set(before.scalars)
        for name, scalar in before.scalars.items():
            assert (after.scalars[name].value, after.scalars[name].unit) == (scalar.value, scalar.unit)
            assert after.scalars[name].error == scalar.error


def test_lsdb_reads_it(sky: Store, catalogue: Path) -> None:
    lsdb = pytest.importorskip("lsdb", reason="lsdb is not installed (extra: scale)")
    from hats.io.validation import is_valid_catalog

    assert is_valid_catalog(catalogue, strict=True)
    opened = lsdb.open_catalog(catalogue)
    frame = opened.compute()
    table = sky.table(["id", "ra", "flux_g", "_healpix_29"]).to_pandas().dropna(subset="ra").set_index("id")
    assert len(frame) == len(table)
    np.testing.assert_array_equal(frame.set_index("id").loc[table.index, "flux_g"], table["flux_g"])
    near = opened.cone_search(150.0, 2.0, 1800.0).compute()
    c = SkyCoord(table["ra"], sky.table(["dec"]).to_pandas()["dec"].dropna().to_numpy(), unit="deg")
    assert len(near) == int((c.separation(SkyCoord(150, 2, unit="deg")).arcsec <= 1800).sum()) > 50


def test_what_cannot_be_exported_is_one_sentence(sky: Store, catalogue: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists already"):
        sky.export_hats(catalogue)
    bare = Store.create(tmp_path / "bare.sky")
    bare.append([SkyObject("a")], ["f"])
    with pytest.raises(ValueError, match=r"no object of .* has a position"):
        bare.export_hats(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_export_leaves_nothing(sky: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hats, "_describe", full)
    with pytest.raises(ValueError, match=r"no room left to write .*out"):
        sky.export_hats(tmp_path / "out")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / "out.partial" / "catalogue" / "dataset").mkdir(parents=True)  # as a killed run leaves it
    assert sky.export_hats(tmp_path / "out").rows == 2997
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_memory_is_bounded_by_what_is_held(sky: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hats, "_BUFFER", 1)  # every block goes to the disk at once
    sky.export_hats(tmp_path / "out", max_rows=400)
    assert sum(1 for _ in engine.io.read(tmp_path / "out")) == 2997
