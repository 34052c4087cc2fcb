"""The door: columns, search box, positions, growth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

import engine
from engine import skymap
from engine.objects import Scalar, SkyObject
from engine.store import Store


@pytest.fixture
def sky_path(tmp_path: Path) -> Path:
    path = tmp_path / "a.sky"
    store = Store.create(path)
    spots = {"legacy:7": (150.118, 2.2058), "south": (10.0, -0.20333), "Gaia 5": (355.0, 80.0)}
    objects = [SkyObject(i, SkyCoord(*p, unit="deg"), scalars={"z": Scalar(0.1 * n), "kind": Scalar("spiral")})
               for n, (i, p) in enumerate(spots.items())]
    store.append([*objects, SkyObject("nowhere", scalars={"flag": Scalar(True), "xp_bp": Scalar(np.ones(3))})], ["f"] * 4)
    return path


def test_open_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.sky.*omnisky ingest"):
        engine.open(tmp_path / "no.sky")
    with pytest.raises(ValueError, match=r"is not a sky"):
        engine.open(tmp_path)
    (tmp_path / "sky.json").write_text("{")
    with pytest.raises(ValueError, match=r"sky\.json is damaged"):
        engine.open(tmp_path)


def test_columns_know_their_kind(sky_path: Path) -> None:
    sky = engine.open(sky_path)
    assert len(sky) == 4 and sky.ids[3] == "nowhere" and sky["south"].id == "south" and sky[1].id == "south"
    assert sky.columns == {"ra": "number", "dec": "number", "z": "number", "kind": "class", "flag": "class"}
    np.testing.assert_array_equal(sky.column("z"), [0.0, 0.1, 0.2, np.nan])
    assert sky.column("kind").tolist() == ["spiral"] * 3 + [""] and sky.column("flag").tolist() == ["", "", "", "yes"]
    assert sky.unit("ra") == "deg" and sky.unit("z") == ""
    assert sky.table.column_names[:4] == ["id", "_healpix_29", "ra", "dec"] and len(sky.table) == 4
    with pytest.raises(KeyError, match="no column 'zz'"):
        sky.column("zz")
    with pytest.raises(ValueError, match="vectors"):
        sky.column("xp_bp")
    with pytest.raises(KeyError, match="no object is called"):
        sky["absent"]


@pytest.mark.parametrize(("text", "id"), [
    ("1", "south"), ("legacy:7", "legacy:7"), ("LEGACY:7", "legacy:7"), (" Gaia 5 ", "Gaia 5"),
    ("J100028.3+021221", "legacy:7"), ("SDSS J100028.32+021220.9", "legacy:7"), ("150.118 2.2058", "legacy:7"),
    ("150.118, +2.2058", "legacy:7"), ("150.118+2.2058", "legacy:7"), ("10:00:28.32 +02:12:20.9", "legacy:7"),
    ("10h00m28.32s +02d12m20.9s", "legacy:7"), ("10 00 28.32 +02 12 20.9", "legacy:7"), ("10 00 28.32 02 12 20.9", "legacy:7"),
    ("10h00m28.32s +02°12'20.9\"", "legacy:7"), ("00:40:00 -00:12:12", "south"), ("0h40m0s −00d12m12s", "south"),
    ("J004000-001212", "south"), ("10.0 -0.20333", "south"), ("150.118d 2.2058d", "legacy:7")])
def test_find_reads_what_people_type(sky_path: Path, text: str, id: str) -> None:
    found = engine.open(sky_path).find(text)
    assert found is not None and found.id == id, found


def test_find_never_jumps_far_in_silence(sky_path: Path) -> None:
    sky = engine.open(sky_path)
    found = sky.find("00:40:00 +00:12:12")  # the sign of a zero matters
    assert found is not None and found.id is None and found.nearest == "south"
    assert 'Nothing within 10"; the nearest is 24.4\' away' in found.reading
    assert found.separation == pytest.approx(1464.0, abs=0.1)
    near = sky.find("150.1181 2.2058")
    assert near is not None and near.reading == "10h00m28.34s +02°12'20.9\" (ICRS) · nearest object 0.4\" away"
    assert sky.find("some galaxy") is None and sky.find("") is None and sky.find("999999") is None
    bad = sky.find("150 95")
    assert bad is not None and bad.id is None and "not a position" in bad.reading


def test_refresh_takes_in_new_rows(sky_path: Path) -> None:
    sky = engine.open(sky_path)
    assert sky.column("z").shape == (4,) and not sky.refresh()
    late = SkyObject("late", SkyCoord(10.0, -0.2, unit="deg"), scalars={"z": Scalar(3), "mass": Scalar(1.0)})
    Store(sky_path).append([late], ["g"])
    assert len(sky) == 4
    assert sky.refresh() and len(sky) == 5 and sky["late"].scalars["z"].value == 3
    assert sky.column("z")[4] == 3 and np.isnan(sky.column("mass")[:4]).all() and "mass" in sky.columns
    assert sky.within(10.0, -0.2, 60).tolist() in ([1, 4], [4, 1])
    assert len(sky.table) == 5


def test_a_column_that_was_read_goes_on_where_newcomers_lack_it(sky_path: Path) -> None:
    sky = engine.open(sky_path)
    before = {name: sky.column(name) for name in ("z", "kind", "flag", "ra")}
    Store(sky_path).append([SkyObject("late")], ["g"])
    sky.refresh()
    for name, values in before.items():
        assert sky.column(name)[:4].tolist() == pytest.approx(values.tolist(), nan_ok=True) and len(sky.column(name)) == 5
    assert np.isnan(sky.column("z")[4]) and sky.column("kind")[4] == sky.column("flag")[4] == ""


def test_the_index_of_a_map_follows_its_growth(sky_path: Path) -> None:
    """Many times, and past maps that no index was made of: a new map may lie in memory where an older one lay."""
    sky, folder = engine.open(sky_path), sky_path / "maps" / "arrival"
    for rows in range(4, 80):
        skymap.arrival_map(rows).save(folder)
        sky.refresh()
        assert len(sky.map("arrival").xy) == rows
        if rows % 2:
            assert sky.zindex("arrival").total == rows
            assert sky.zindex("arrival") is sky.zindex("arrival")


def test_an_id_of_digits_is_found_before_a_row(tmp_path: Path) -> None:
    names = ["3", "1", "0", "2", "77"]
    Store.create(tmp_path / "a.sky").append([SkyObject(name) for name in names], ["f"] * 5)
    sky = engine.open(tmp_path / "a.sky")
    for row, name in enumerate(names):
        found = sky.find(name)
        assert found is not None and (found.id, found.row) == (name, row)
    rest = sky.find("4")
    assert rest is not None and (rest.id, rest.row, rest.reading) == ("77", 4, "row 4: 77")
