"""Objects of any survey become the arrays of the model: units, bands, scales, sizes, gaps, and nothing crashes."""

from __future__ import annotations

import math
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from standin_sky import render

from engine import adapt_inputs, checkpoints
from engine.io.surveys import SPECTRUM_UNIT, ab_unit
from engine.models import AstroClip, AstroClipConfig
from engine.models.inputs import FIELDS, HSC, LEGACY
from engine.objects import Image, SkyObject, Spectrum


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> checkpoints.Bundle:
    folder = tmp_path_factory.mktemp("model")
    model = AstroClip(AstroClipConfig(width=32, image_layers=1, spectrum_layers=1, heads=2, expand=2, space=16, drawn=64))
    model.init_weights(3)
    checkpoints.save(folder, model, {})
    return checkpoints.load(folder)


def source(size: int, scale: float, flux: float = 50.0, bands: int = 1, place: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """(bands, size, size) Gaussian of 1.5" with this flux, place (y, x) in arcsec from the middle."""
    axis = (np.arange(size) - (size - 1) / 2) * scale
    profile = np.exp(-((axis[:, None] - place[0]) ** 2 + (axis - place[1]) ** 2) / (2 * 1.5**2))
    return np.repeat((flux * profile / (2 * math.pi * 1.5**2) * scale**2)[None], bands, axis=0)


def demo(count: int, seed: int = 5) -> list[SkyObject]:
    """Objects as the demo sky has them."""
    sky = {name: value.numpy() for name, value in render(seed, torch.arange(count)).items()}
    wave = 3600 + 0.8 * np.arange(7781)
    return [SkyObject(f"d{i}", images=(
        Image(sky["legacy"][i], tuple("griz"), "legacy", unit=u.nmgy, ivar=sky["legacy_ivar"][i], pixel_scale=0.262),
        Image(sky["hsc"][i], tuple("grizy"), "hsc", unit=ab_unit(27.0), ivar=sky["hsc_ivar"][i], pixel_scale=0.168)),
        spectra=(Spectrum(wave, sky["desi"][i], sky["desi_ivar"][i], survey="desi", unit=SPECTRUM_UNIT),))
        for i in range(count)]


def test_own_surveys_go_in_as_they_are() -> None:
    obj = demo(1)[0]
    raw = adapt_inputs.images([obj], FIELDS)
    np.testing.assert_array_equal(raw["legacy"][0][0], obj.images[0].pixels[:, 16:80, 16:80])
    np.testing.assert_allclose(raw["hsc"][0][0], obj.images[1].pixels, rtol=1e-6)
    assert not raw["legacy"][2].any() and not raw["hsc"][2].any()


@pytest.mark.parametrize(("size", "scale"), [(96, 0.262), (400, 0.03), (40, 0.4), (300, 0.2), (25, 0.262)])
def test_flux_survives_any_scale_and_size(size: int, scale: float) -> None:
    image = Image(source(size, scale), ("r",), "rubin", unit=u.nmgy, ivar=np.ones((1, size, size)), pixel_scale=scale)
    field = adapt_inputs.nearest_field(image, FIELDS)
    pixels, _, mask = (x[0, 1] for x in adapt_inputs.images([SkyObject("a", images=(image,))], FIELDS)[field.survey])
    seen = min(1.0, size * scale / 12)
    assert pixels.sum() * field.nmgy == pytest.approx(50.0, rel=0.03 if seen == 1 else 0.2)
    assert mask.any() == (size * scale < field.size * field.scale)


def test_bands_go_to_the_nearest_channel() -> None:
    bands = ("F090W", "F115W", "F444W")
    image = Image(np.ones((3, 50, 50)), bands, "jwst-nircam", unit=u.MJy / u.sr, pixel_scale=0.03)
    assert adapt_inputs.channels_of(image, HSC) == {3: 0, 4: 1}  # F090W is z; of the others F115W is nearest to y
    hst = Image(np.ones((2, 50, 50)), ("F606W", "F814W"), "hst-acs", pixel_scale=0.03)
    assert adapt_inputs.channels_of(hst, HSC) == {1: 0, 2: 1}


def test_bands_of_zeros_were_never_exposed() -> None:
    pixels = np.ones((2, 50, 50))
    pixels[0] = 0
    assert adapt_inputs.channels_of(Image(pixels, ("g", "r"), "rubin"), LEGACY) == {1: 1}


def test_units_become_nanomaggies() -> None:
    nmgy = source(64, 0.262)
    for values, survey, unit in ((nmgy, "sdss", u.nmgy), (nmgy * 3.6307805, "rubin", u.uJy), (nmgy * 10**3, "des", None)):
        image = Image(values, ("r",), survey, unit=unit, pixel_scale=0.262)
        raw = adapt_inputs.images([SkyObject("a", images=(image,))], FIELDS)
        np.testing.assert_allclose(raw["legacy"][0][0, 1], nmgy[0], rtol=1e-4, atol=1e-7)


def test_pictures_are_brought_to_a_usual_level() -> None:
    image = Image(source(96, 0.262, bands=3) * 777, ("red", "green", "blue"), None, calibrated=False, pixel_scale=0.262)
    pixels = adapt_inputs.images([SkyObject("a", images=(image,))], FIELDS)["legacy"][0][0]
    axis = (np.arange(64) - 31.5) * 0.262
    assert pixels[1, np.hypot(axis[:, None], axis) < 1.5].sum() == pytest.approx(adapt_inputs.MIDDLE_FLUX, rel=1e-3)
    assert [bool(p.any()) for p in pixels] == [True, True, True, False]


def test_large_images_are_cut_about_the_object() -> None:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [100.5, 100.5]
    wcs.wcs.cdelt = [-0.262 / 3600, 0.262 / 3600]
    pixels = source(200, 0.262, place=(10.48, -7.86))  # 40 pixels up, 30 to the left
    image = Image(pixels, ("r",), "legacy", wcs=wcs, unit=u.nmgy)
    place = SkyCoord(*wcs.pixel_to_world_values(99.5 - 30, 99.5 + 40), unit="deg")
    stamp = adapt_inputs.images([SkyObject("a", place, images=(image,))], FIELDS)["legacy"][0][0, 1]
    np.testing.assert_allclose(stamp, source(64, 0.262)[0], atol=2e-3)


def test_noise_is_estimated_where_it_is_not_given() -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, (1, 96, 96)) + source(96, 0.262)
    image = Image(noise, ("r",), "legacy", unit=u.nmgy, pixel_scale=0.262)
    ivar = adapt_inputs.images([SkyObject("a", images=(image,))], FIELDS)["legacy"][1][0, 1]
    assert float(ivar.max()) ** -0.5 == pytest.approx(0.3, rel=0.05)


def test_variance_after_resampling_is_that_of_the_sum() -> None:
    random = np.random.default_rng(1)
    image = Image(random.normal(0, 0.1, (1, 512, 512)), ("r",), "hst-acs", ivar=np.full((1, 512, 512), 100.0),
                  unit=u.nmgy, pixel_scale=0.042)
    pixels, ivar, mask = (x[0, 1] for x in adapt_inputs.images([SkyObject("a", images=(image,))], FIELDS)["hsc"])
    assert float((pixels * np.sqrt(ivar))[~mask].std()) == pytest.approx(1.0, rel=0.05)


def test_spectra_of_any_unit() -> None:
    wave = np.linspace(3700.0, 9500.0, 900)
    flux = np.full(900, 3.0)
    per_nm = Spectrum(wave, flux * 1e-19, np.full(900, 1e38), unit=u.Unit("W / (m2 nm)"))  # 1e-19 W/m2/nm = 1e-17 cgs
    jansky = Spectrum(wave, (flux * SPECTRUM_UNIT).to_value(u.uJy, u.spectral_density(wave * u.AA)), unit=u.uJy)
    counts = Spectrum(wave, flux * 1234, calibrated=False)
    for spectrum, level in ((per_nm, 3.0), (jansky, 3.0), (counts, adapt_inputs.MEDIAN_FLUX)):
        np.testing.assert_allclose(adapt_inputs.spectrum_arrays(spectrum)[0], level, rtol=1e-4)


def test_desi_comes_before_others() -> None:
    wave = np.linspace(3700.0, 9500.0, 900)
    spectra = tuple(Spectrum(wave, np.full(900, v), survey=s) for v, s in ((1.0, "sdss"), (2.0, "desi"), (3.0, "lamost")))
    (group,) = adapt_inputs.spectra([SkyObject("none"), SkyObject("a", spectra=spectra)])
    assert group.rows.tolist() == [1] and group.flux[0, 0] == 2.0


def test_embedding_does_not_depend_on_company(bundle: checkpoints.Bundle) -> None:
    objects = demo(5)
    together, alone = bundle.vectors(objects, batch=4), bundle.vectors(objects[3:4])
    for space in together:
        assert np.abs(together[space][3] - alone[space][0]).max() < 0.02
        np.testing.assert_allclose(np.linalg.norm(together[space], axis=1), 1.0, atol=1e-3)


def test_embedding_equals_that_of_rendered_arrays(bundle: checkpoints.Bundle) -> None:
    from engine.train.data import prepare

    prepared = prepare(render(5, torch.arange(3)), bundle.model.config.grid)
    stamps = {f.survey: prepared[f"stamp_{f.survey}"] for f in FIELDS}
    image = bundle.model.encode_image(stamps, prepared["photometry"], prepared["present"]).numpy()
    spectrum = bundle.model.encode_spectrum(prepared["desi_flux"], prepared["desi_weight"]).numpy()
    out = bundle.vectors(demo(3))
    assert np.abs(out["image"] - image).max() < 0.03 and np.abs(out["spectrum"] - spectrum).max() < 0.03


@pytest.mark.parametrize("pixels", [np.full((1, 10, 10), np.nan), np.zeros((1, 200, 3)), np.full((1, 30, 30), 1e30),
                                    -np.ones((2, 64, 64)), np.ones((1, 1, 1))])
def test_odd_images_neither_crash_nor_spread_nan(bundle: checkpoints.Bundle, pixels: np.ndarray) -> None:
    image = Image(pixels, tuple("gr"[: len(pixels)]), None, calibrated=False)
    row = bundle.vectors([SkyObject("odd", images=(image,))])["image"][0]
    assert np.isnan(row).all() or np.linalg.norm(row) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("flux", [np.full(500, np.nan), np.zeros(500), np.full(500, 1e30), -np.ones(500)])
def test_odd_spectra_neither_crash_nor_spread_nan(bundle: checkpoints.Bundle, flux: np.ndarray) -> None:
    spectrum = Spectrum(np.linspace(4000.0, 9000.0, 500), flux, np.full(500, np.inf))
    row = bundle.vectors([SkyObject("odd", spectra=(spectrum,))])["spectrum"][0]
    assert np.isnan(row).all() or np.linalg.norm(row) == pytest.approx(1.0, abs=1e-3)


def test_spectra_elsewhere_have_no_vector(bundle: checkpoints.Bundle) -> None:
    infrared = Spectrum(np.linspace(15000.0, 24000.0, 500), np.ones(500))
    assert np.isnan(bundle.vectors([SkyObject("ir", spectra=(infrared,))])["spectrum"]).all()


def test_real_files_embed(bundle: checkpoints.Bundle, shared_data: Path) -> None:
    from engine.io import read

    files = [*sorted(shared_data.glob("hsc_grizy/hsc_ra*.fits")), *sorted(shared_data.glob("lens_surveys/KiDS*.fits"))]
    out = bundle.vectors([obj for path in files for obj in read(path)])
    assert len(files) == 4 and np.isfinite(out["image"]).all()
    assert np.isnan(out["spectrum"]).all()
