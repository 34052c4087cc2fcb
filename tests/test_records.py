"""Records of some rows: what was committed is there, found by row, and damage says so."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from engine.records import MANIFEST, ROWS, VALUES, Records


@pytest.fixture
def made(tmp_path: Path) -> Records:
    records = Records.create(tmp_path / "tok_image", (4,), "<u2", {"key": "tok_image"})
    records.append([1, 2, 7], np.arange(12).reshape(3, 4), 10)
    records.append([], np.empty((0, 4)), 20)
    records.append([20, 29], np.full((2, 4), 65535), 30)
    return records


def test_rows_find_their_records_in_the_order_asked(made: Records) -> None:
    again = Records.open(made.folder)
    assert len(again) == 5 and again.reach == 30 and again.values.dtype == np.uint16 and again.manifest["key"] == "tok_image"
    found, values = again.at([29, 0, 7, 1, 31, 20])
    assert found.tolist() == [True, False, True, True, False, True]
    assert values[:, 0].tolist() == [65535, 8, 0, 65535]
    assert (made.folder / VALUES).stat().st_size == 5 * 8 and (made.folder / ROWS).stat().st_size == 5 * 4


def test_rows_that_no_sky_can_have_are_not_found(made: Records) -> None:
    found, values = made.at(np.array([-1, 2**32 + 7, 7, -(2**32) + 1]))
    assert found.tolist() == [False, False, True, False] and values[:, 0].tolist() == [8]


def test_one_record_of_many_takes_the_memory_of_one(tmp_path: Path) -> None:
    many = Records.create(tmp_path / "r", (1,), "|u1", {})
    many.append(np.arange(1_000_000), np.zeros((1_000_000, 1)), 1_000_000)
    tracemalloc.start()
    try:
        many.at([123_456])
        assert tracemalloc.get_traced_memory()[1] < 100_000  # a wider copy of all rows takes 8 MB
    finally:
        tracemalloc.stop()


def test_nothing_yet(tmp_path: Path) -> None:
    empty = Records.create(tmp_path / "r", (3, 2), "<i1", {})
    found, values = Records.open(empty.folder).at(np.arange(4))
    assert not found.any() and values.shape == (0, 3, 2) and empty.reach == 0


def test_what_a_killed_write_left_is_overwritten(made: Records) -> None:
    with (made.folder / VALUES).open("ab") as file:
        file.write(b"12345")
    again = Records.open(made.folder)
    again.append([30], [[9, 9, 9, 9]], 31)
    assert Records.open(made.folder).at([30, 7])[1].tolist() == [[9, 9, 9, 9], [8, 9, 10, 11]]


def test_what_does_not_fit_is_refused(made: Records) -> None:
    for rows, values, reach, says in (([30], [[1, 2, 3]], 31, r"\(4,\) each"), ([29], [[1] * 4], 31, "increase from 30"),
                                      ([31, 30], [[1] * 4] * 2, 40, "increase"), ([30], [[70000] * 4], 31, "does not fit")):
        with pytest.raises(ValueError, match=says):
            made.append(rows, values, reach)
    assert len(Records.open(made.folder)) == 5


def test_damage_names_the_file_and_the_remedy(made: Records, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing_here holds no records"):
        Records.open(tmp_path / "nothing_here")
    whole = (made.folder / VALUES).read_bytes()
    (made.folder / VALUES).write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="values is damaged: 39 bytes, 40 expected; remove"):
        Records.open(made.folder)
    (made.folder / VALUES).write_bytes(whole)
    manifest = json.loads((made.folder / MANIFEST).read_text())
    for wrong in ({**manifest, "dtype": "nonsense"}, {**manifest, "records": -1}, {"rows": 3}):
        (made.folder / MANIFEST).write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"damaged.*remove"):
            Records.open(made.folder)


def test_who_has_old_records_mapped_keeps_them(made: Records) -> None:
    values = made.values
    Records.create(made.folder, (4,), "<u2", {}).append([0], [[5, 5, 5, 5]], 1)
    assert values[0].tolist() == [0, 1, 2, 3]
