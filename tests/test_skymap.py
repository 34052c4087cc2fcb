"""Maps that need no vectors: on the sky, and in order of arrival."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from engine import jobs
from engine.maps import Map
from engine.sky import Sky
from engine.skymap import arrival_map, sky_map


def test_a_region_is_seen_from_inside_north_up_east_left_across_ra_zero() -> None:
    chart = sky_map([359.9, 0.1, 0.0, 0.0], [10.0, 10.0, 10.1, 9.9])
    (west, _), (east, _), (_, north), (_, south) = chart.xy
    assert chart.manifest["projection"] == "ZEA" and chart.manifest["centre"] == pytest.approx([0, 10], abs=1e-3)
    assert east < 0 < west and south < 0 < north
    assert west - east == pytest.approx(0.2 * np.cos(np.radians(10)), rel=1e-4)
    assert north - south == pytest.approx(0.2, rel=1e-4)


def test_near_the_pole_distances_on_the_map_are_those_on_the_sky() -> None:
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 60), 90 - rng.uniform(0, 2, 60)
    chart = sky_map(ra, dec)
    at = SkyCoord(ra * u.deg, dec * u.deg)
    apart = at[:, None].separation(at[None]).deg
    np.testing.assert_allclose(np.hypot(*(chart.xy[:, None] - chart.xy[None]).transpose(2, 0, 1)), apart, rtol=2e-3, atol=1e-4)


def test_the_whole_sky_keeps_areas() -> None:
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 360, 40_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 40_000)))
    chart = sky_map(ra, dec)
    assert chart.manifest["projection"] == "MOL"
    a, b = 180 * np.sqrt(8) / np.pi, 90 * np.sqrt(8) / np.pi
    inside = (chart.xy[:, 0] / a) ** 2 + (chart.xy[:, 1] / b) ** 2
    assert inside.max() < 1.001
    assert np.mean(inside < 0.25) == pytest.approx(0.25, abs=0.01)  # an ellipse of half the size has a quarter of the area


def test_what_has_no_position_has_no_place() -> None:
    chart = sky_map([10.0, np.nan, 11.0], [0.0, 5.0, 0.0])
    assert np.isfinite(chart.xy).all(axis=1).tolist() == [True, False, True]
    assert not np.isfinite(sky_map([np.nan], [np.nan]).xy).any() and len(sky_map([], []).xy) == 0


def test_a_grown_map_stays_where_it_was_while_it_can() -> None:
    first = sky_map([10.0, 12.0], [0.0, 2.0])
    grown = sky_map([10.0, 12.0, 50.0], [0.0, 2.0, 30.0], first)
    np.testing.assert_array_equal(grown.xy[:2], first.xy)
    assert sky_map([10.0, 12.0, 190.0], [0.0, 2.0, 0.0], first).manifest["projection"] == "MOL"


def test_arrival_reads_line_by_line() -> None:
    assert arrival_map(5).xy.tolist() == [[0, 0], [1, 0], [2, 0], [0, -1], [1, -1]]


def ingested(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    list(jobs.ingest(folder / "my.sky", [folder / name]))
    list(jobs.prepare(folder / "my.sky"))
    return folder / "my.sky"


def test_a_table_of_positions_becomes_a_map_of_the_sky(tmp_path: Path) -> None:
    lines = "".join(f"lens{i},{10 + 0.1 * i},{-5 + 0.05 * i}\n" for i in range(20))
    sky = Sky(ingested(tmp_path, "lenses.csv", "id,ra,dec\n" + lines))
    assert sky.maps == ("sky",) and np.isfinite(sky.map("sky").xy).all()
    (tmp_path / "more.csv").write_text("id,ra,dec\nfar,100,20\n")
    list(jobs.ingest(sky.path, [tmp_path / "more.csv"]))
    list(jobs.prepare(sky.path))
    assert len(Map.open(sky.path / "maps" / "sky").xy) == 21
    with pytest.raises(ValueError, match="no vectors for a map"):
        list(jobs.map(sky.path, kind="umap"))


def test_without_positions_too_everything_has_a_place(tmp_path: Path) -> None:
    sky = Sky(ingested(tmp_path, "stars.csv", "id,phot_g_mean_mag\na,17.0\nb,18.0\nc,19.0\n"))
    assert sky.maps == ("arrival",) and len(sky.map("arrival").xy) == 3
