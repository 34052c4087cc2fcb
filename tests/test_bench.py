"""The sky that `make bench` measures on is what it says; and a median is a median."""

from __future__ import annotations

import numpy as np
import pytest

import engine
from tools.bench import million
from tools.bench.__main__ import shown
from tools.bench.measure import Times, each, rate

ROWS = 4000


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> engine.Sky:
    """A small one, whose build was stopped in the middle and went on."""
    path = tmp_path_factory.mktemp("bench") / "a.sky"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"STORED": 32, "CHUNK": 1500, "PART": 500}.items():
            patch.setattr(million, name, value)
        stopped = million.build(path, ROWS)
        for step in stopped:
            if "2,000" in step.note or "1,500" in step.note:
                break
        stopped.close()
        assert 32 < len(engine.open(path)) < ROWS
        for _ in million.build(path, ROWS):
            pass
    return engine.open(path)


def test_every_row_is_its_own_and_points_to_stored_pixels(sky: engine.Sky) -> None:
    assert len(sky) == len(set(sky.ids.tolist())) == ROWS
    for name in ("ra", "dec", "z", "mag_r"):
        values = sky.column(name)
        values = values[np.isfinite(values)]
        assert len(np.unique(values)) == len(values) > 0.9 * ROWS, name
    last = sky[ROWS - 1]
    assert last.id == f"synthetic-{ROWS - 1:07d}" and last.image("hsc") is not None and last.spectrum("desi") is not None
    stored = [sky[row].image("hsc").pixels.tobytes() for row in range(32)]  # type: ignore[union-attr]
    assert last.image("hsc").pixels.tobytes() in stored  # type: ignore[union-attr]
    assert len(list((sky.path / "pixels").iterdir())) == 1


def test_what_is_near_on_the_map_is_near_in_both_spaces(sky: engine.Sky) -> None:
    xy = sky.map(million.MAP).xy
    assert xy.shape == (ROWS, 2) and all(len(sky.vectors(s)) == ROWS for s in million.SPACES)
    chance = np.median(np.linalg.norm(xy - xy[::-1], axis=1))
    for query, among in (("image", "image"), ("image", "spectrum"), ("spectrum", "image")):
        apart = [np.median(np.linalg.norm(xy[list(sky.near(row, query, among).rows)] - xy[row], axis=1))
                 for row in range(0, ROWS, 97)]
        assert np.median(apart) < million.CELL < chance / 10


def test_places_do_not_depend_on_who_asks() -> None:
    together, _ = million.places(np.arange(120_000, 120_050))
    alone, _ = million.places(np.array([120_007]))
    np.testing.assert_array_equal(alone[0], together[7])


def test_times_are_medians_and_warm_up_does_not_count() -> None:
    times = Times(tuple(float(i) for i in range(1, 102)))
    assert (times.median, times.p95) == (51.0, 96.0)
    row = times.row("a", "peer", Times((102.0,)))
    assert row.ratio == pytest.approx(2.0) and "peer: 102 ms" in row.note
    assert rate("b", 51, times, "peer", 500.0).value == pytest.approx(1000.0)
    assert rate("b", 51, times, "peer", 500.0).ratio == pytest.approx(2.0)
    called: list[int] = []
    assert len(each(called.append, range(10), warm=4).ms) == 6 and called == list(range(10))
    assert shown(row)[1:4] == ("51 ms", "peer", "2 x")
