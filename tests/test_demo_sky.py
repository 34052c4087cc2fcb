"""The simulated sky as objects: ids, units, WCS, seeing, what is absent, and independence of how it was asked for."""

from __future__ import annotations

from functools import cache

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord

from engine import demo_sky
from engine.io.surveys import SPECTRUM_UNIT, SURVEYS
from engine.objects import SkyObject
from engine.simulate import CLASSES, RARE, render
from engine.simulate.population import FOOTPRINT

SEED, COUNT = 7, 96


@cache
def sky() -> tuple[SkyObject, ...]:
    return tuple(demo_sky.objects(SEED, 0, COUNT))


@cache
def rendered() -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in render(SEED, torch.arange(COUNT), truth=True).items()}


def test_ids_are_numbers_of_the_sky_and_batches_do_not_matter() -> None:
    assert [o.id for o in sky()[:2]] == ["demo-000000", "demo-000001"]
    part = list(demo_sky.objects(SEED, 30, 5, batch=2))
    assert [o.id for o in part] == [f"demo-{i:06d}" for i in range(30, 35)]
    for a, b in zip(part, sky()[30:35], strict=True):
        assert a.position.ra == b.position.ra and set(a.scalars) == set(b.scalars)
        for x, y in zip(a.images, b.images, strict=True):
            assert np.abs(x.pixels - y.pixels).max() <= 1e-5 * np.abs(y.pixels).max()
    assert list(demo_sky.objects(SEED, 3, 0)) == []


def test_objects_hold_what_was_rendered() -> None:
    r = rendered()
    for i, o in enumerate(sky()):
        for survey in ("legacy", "hsc"):
            im = o.image(survey)
            assert im is not None and im.unit == SURVEYS[survey].unit
            assert np.array_equal(im.pixels, r[survey][i]) and np.array_equal(im.ivar, r[f"{survey}_ivar"][i])
            assert np.array_equal(im.mask, r[f"{survey}_mask"][i])
            assert im.pixel_scale == pytest.approx(SURVEYS[survey].pixel_scale, rel=1e-3)
        desi = o.spectrum("desi")
        assert desi is not None and desi.unit == SPECTRUM_UNIT and np.array_equal(desi.flux, r["desi"][i])
        assert desi.resolution[0] == pytest.approx(2000) and desi.resolution[-1] == pytest.approx(5500)
        assert (o.spectrum("sdss") is not None) == bool(r["has_sdss"][i])
        assert o.scalars["class"].value == CLASSES[int(r["class"][i])]
        assert o.scalars["rare"].value == RARE[int(r["rare"][i])] if r["rare"][i] else "rare" not in o.scalars
        assert ("xp_bp" in o.scalars) == bool(np.isfinite(r["xp_bp"][i]).all())
        assert len(o.lightcurves) == (3 if np.isfinite(r["lc_time"][i]).all() else 0)
    assert sum(len(o.lightcurves) for o in sky()) > 0 and any("xp_bp" in o.scalars for o in sky())


def test_scalars_have_units_and_what_is_unknown_is_absent() -> None:
    galaxies = [o for o in sky() if o.scalars["class"].value not in ("star", "quasar")]
    assert all({"z", "ebv", "log_mstar", "sfr", "flux_r", "mag_y", "shape_r"} <= set(o.scalars) for o in galaxies)
    stars = [o for o in sky() if o.scalars["class"].value == "star"]
    assert stars and not any("log_mstar" in o.scalars or "sfr" in o.scalars for o in stars)
    s = galaxies[0].scalars
    assert s["flux_r"].unit == u.nmgy and s["mag_i"].unit == u.ABmag and s["sfr"].unit == u.Msun / u.yr
    assert s["shape_r"].unit == u.arcsec and s["flux_r"].error > 0 and s["mag_i"].error > 0


def test_surveys_agree_on_magnitudes() -> None:
    """Fluxes in nanomaggies and HSC magnitudes are of one object: r differs by the filters' colour term and errors only."""
    rows = [[22.5 - 2.5 * np.log10(o.scalars[f"flux_{b}"].value) for b in "gr"] + [o.scalars["mag_r"].value] for o in sky()
            if "mag_r" in o.scalars and o.scalars["flux_g"].value > 1]
    g, r, hsc = np.array(rows).T
    assert len(rows) > 0.8 * COUNT
    slope, zero = np.polyfit(g - r, r - hsc, 1)
    assert -0.2 < slope < 0 and abs(zero) < 0.04  # HSC's r is the bluer one, so that red objects are fainter in it
    assert np.median(np.abs(r - hsc - slope * (g - r) - zero)) < 0.03


def test_north_is_up_and_east_left() -> None:
    o = sky()[0]
    for im in o.images:
        ny, nx = im.size
        middle = SkyCoord.from_pixel((nx - 1) / 2, (ny - 1) / 2, im.wcs)
        assert middle.separation(o.position) < 1e-4 * u.arcsec
        north, east = SkyCoord.from_pixel(nx / 2, ny, im.wcs), SkyCoord.from_pixel(-1, ny / 2, im.wcs)
        assert north.dec > middle.dec and east.ra > middle.ra
        top = SkyCoord.from_pixel((nx - 1) / 2, ny - 1, im.wcs)
        assert middle.position_angle(top).wrap_at("180d").deg == pytest.approx(0, abs=0.01)


def test_both_surveys_show_the_object_at_one_place() -> None:
    """The brightest pixel of isolated, bright objects is at the same right ascension and declination in both."""
    r, apart = rendered(), []
    for i in np.flatnonzero((r["t_flux_r"] > 15) & (r["class"] <= 3))[:12]:
        places = []
        for survey in ("legacy", "hsc"):
            im, clean = sky()[i].image(survey), r[f"{survey}_truth"][i][1]
            middle = clean[40:56, 40:56]
            y, x = np.unravel_index(middle.argmax(), middle.shape)
            places.append(SkyCoord.from_pixel(x + 40.0, y + 40.0, im.wcs))
        apart.append(places[0].separation(places[1]).arcsec)
    assert len(apart) >= 5 and np.median(apart) < 0.3


def test_major_axis_lies_where_the_catalogue_says() -> None:
    """The moments of elongated galaxies on the sky give the catalogue's e1, e2: angles from north through east."""
    r, found = rendered(), []
    for i in np.flatnonzero((np.hypot(r["s_shape_e1"], r["s_shape_e2"]) > 0.3) & (r["t_flux_r"] > 8) & (r["class"] <= 3)):
        clean, north = r["hsc_truth"][i][1].astype(float), (np.arange(96) - 47.5)[:, None]
        east = -(np.arange(96) - 47.5)
        weight = clean * np.exp(-(north**2 + east**2) / 2 / 12**2)
        q11, q22, q12 = (weight * north**2).sum(), (weight * east**2).sum(), (weight * north * east).sum()
        found.append((q11 - q22) * r["s_shape_e1"][i] + 2 * q12 * r["s_shape_e2"][i] > 0)
    assert len(found) >= 8 and np.mean(found) > 0.85


def test_psf_stamps_are_the_seeing() -> None:
    """GalSim's Moffat profile of the same width on the same pixels; most light is in the stamp, the peak in its middle."""
    galsim = pytest.importorskip("galsim", reason="GalSim (extra dev) is not installed")
    r = rendered()
    for survey, beta, scale in (("legacy", 3.0, 0.262), ("hsc", 3.5, 0.16795)):
        for i in (0, 11, 50):
            psf = sky()[i].image(survey).psf
            assert psf.shape[1:] == (demo_sky.PSF_SIDE, demo_sky.PSF_SIDE)
            for band, fwhm in enumerate(r[f"{survey}_fwhm"][i]):
                judge = galsim.Moffat(beta, fwhm=float(fwhm)).drawImage(nx=15, ny=15, scale=scale).array
                assert np.abs(psf[band] - judge).max() < 0.01 * judge.max()
                assert 0.7 < psf[band].sum() < 1.001 and psf[band].argmax() == 7 * 15 + 7


def test_footprint_is_compact() -> None:
    ra, dec = (np.array([getattr(o.position, axis).deg for o in sky()]) for axis in ("ra", "dec"))
    assert np.abs(ra - FOOTPRINT[0]).max() <= FOOTPRINT[2] / 2 and np.abs(dec - FOOTPRINT[1]).max() <= FOOTPRINT[2] / 2
    assert ra.std() > 1 and dec.std() > 1


def test_light_curves_vary_more_than_their_errors() -> None:
    for o in sky():
        for curve in o.lightcurves:
            assert curve.band in demo_sky.LIGHT_CURVE_BANDS and curve.unit == u.nmgy
            assert (np.diff(curve.time.mjd) >= 0).all() and (curve.error > 0).all()
    chi2 = [float((((c.flux - c.flux.mean()) / c.error) ** 2).mean()) for o in sky() for c in o.lightcurves if c.band == "g"]
    assert np.median(chi2) > 2


def test_another_sky_has_another_version() -> None:
    """If this fails on purpose, raise `demo_sky.VERSION` and record the new sky: skies on disk must not mix two simulators."""
    r = rendered()
    found = [float(np.abs(r[name][:16]).mean(dtype=float)) for name in ("legacy", "hsc", "desi", "sdss", "s_flux_g")]
    found += [float(np.median(r["legacy_ivar"])), float(r["has_sdss"].mean())]
    recorded = [0.0106612, 0.301353, 1.04283, 1.87261, 5.70359, 12821.0, 0.239583]
    assert (demo_sky.VERSION, found) == (2, pytest.approx(recorded, rel=2e-4))
