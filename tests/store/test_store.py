"""The store: what goes in comes out, once, in order of arrival, whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples_of_objects import make_object

from engine.objects import SkyObject
from engine.store import Store


def same_array(a, b) -> None:
    assert (a is None) == (b is None)
    if a is not None:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_same(a: SkyObject, b: SkyObject, lossless: bool = True) -> None:
    assert (a.id, a.history) == (b.id, b.history)
    assert (a.position is None) == (b.position is None)
    if a.position is not None:
        assert (a.position.ra.deg, a.position.dec.deg) == (b.position.ra.deg, b.position.dec.deg)
    assert len(a.images) == len(b.images) and len(a.spectra) == len(b.spectra) and len(a.lightcurves) == len(b.lightcurves)
    for x, y in zip(a.images, b.images, strict=True):
        assert (x.bands, x.survey, x.unit, x.calibrated, x.history) == (y.bands, y.survey, y.unit, y.calibrated, y.history)
        if lossless:
            same_array(x.pixels, y.pixels)
        for what in ("ivar", "mask", "psf") if lossless else ("mask", "psf"):
            same_array(getattr(x, what), getattr(y, what))
        if not lossless:
            np.testing.assert_allclose(y.ivar, x.ivar, rtol=2**-9, atol=0)
        assert (x.wcs is None) == (y.wcs is None)
        if x.wcs is not None:
            ny, nx = x.size
            corners = np.array([[0, 0], [nx, ny]], float)
            np.testing.assert_allclose(x.wcs.all_pix2world(corners, 0), y.wcs.all_pix2world(corners, 0), rtol=0, atol=1e-11)
        assert x.pixel_scale == pytest.approx(y.pixel_scale, rel=1e-12)
    for s, t in zip(a.spectra, b.spectra, strict=True):
        assert (s.survey, s.unit, s.calibrated, s.history) == (t.survey, t.unit, t.calibrated, t.history)
        for what in ("wavelength", "flux", "ivar", "mask"):
            same_array(getattr(s, what), getattr(t, what))
        np.testing.assert_array_equal(s.resolution, t.resolution)
    for c, d in zip(a.lightcurves, b.lightcurves, strict=True):
        assert (c.band, c.unit, c.history) == (d.band, d.unit, d.history)
        assert (c.time.scale, c.time.format) == (d.time.scale, d.time.format)
        assert np.all(c.time.jd1 == d.time.jd1) and np.all(c.time.jd2 == d.time.jd2)
        same_array(c.flux, d.flux)
        same_array(c.error, d.error)
    assert set(a.scalars) == set(b.scalars)
    for name, scalar in a.scalars.items():
        back = b.scalars[name]
        assert type(scalar.value) is type(back.value) and scalar.unit == back.unit
        np.testing.assert_array_equal(scalar.value, back.value)
        np.testing.assert_array_equal(scalar.error, back.error)
    assert (a.catalog is None) == (b.catalog is None)
    if a.catalog is not None:
        assert (dict(a.catalog.units), a.catalog.history) == (dict(b.catalog.units), b.catalog.history)
        for name, column in a.catalog.columns.items():
            same_array(column, b.catalog.columns[name])


@pytest.mark.parametrize("lossless", [True, False])
def test_objects_come_back_as_they_went_in(tmp_path: Path, lossless: bool) -> None:
    store = Store.create(tmp_path / "a.sky", lossless=lossless)
    objects = [make_object(i) for i in range(7)] + [SkyObject("bare")]
    store.append(objects[:3], ["f"] * 3)
    store.append(objects[3:], ["f"] * 5)
    again = Store(tmp_path / "a.sky")
    assert len(again) == 8 and again.ids.tolist() == [o.id for o in objects]
    for row, obj in enumerate(objects):
        assert_same(obj, again.read(row), lossless)
