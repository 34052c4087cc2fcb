"""Photometry against known profiles, masks, and spectra brought to the grid without loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from engine.io.surveys import SURVEYS, nanomaggies_per_unit
from engine.models.inputs import (
    APERTURES,
    FIELDS,
    HSC,
    LEGACY,
    WavelengthGrid,
    asinh_flux,
    measure,
    prepare_image,
    prepare_spectrum,
    rebin,
)
from engine.models.spectrum import drawing, logarithmic_edges

GRID = WavelengthGrid()


def gaussian(field, sigma: float = 1.2, dy: float = 0.0, dx: float = 0.0, flux: float = 100.0) -> torch.Tensor:
    """(1, C, N, N) of a round Gaussian source, sigma and place in arcsec."""
    axis = (torch.arange(field.size) - (field.size - 1) / 2) * field.scale
    profile = torch.exp(-((axis[:, None] - dy) ** 2 + (axis - dx) ** 2) / (2 * sigma**2))
    return (flux * profile / (2 * math.pi * sigma**2) * field.scale**2).expand(1, len(field.bands), -1, -1).clone()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.3, -0.4)])
def test_aperture_fluxes_of_a_gaussian(field, place: tuple[float, float]) -> None:
    """Inside r: 1 - exp(-r^2 / 2 sigma^2), also for a source that is not quite in the middle."""
    image = gaussian(field, dy=place[0], dx=place[1])
    fluxes = measure(image, torch.ones_like(image, dtype=torch.bool), torch.ones(1, len(field.bands)), field.scale)
    expected = [100 * (1 - math.exp(-(r**2) / (2 * 1.2**2))) for r in APERTURES]
    np.testing.assert_allclose(fluxes[0, 0].numpy(), expected, rtol=0.05)
    np.testing.assert_allclose(fluxes[0, 0, 3:].numpy(), expected[3:], rtol=0.01)


def test_bad_pixels_are_made_up_for() -> None:
    image = gaussian(LEGACY)
    good = torch.rand(image.shape, generator=torch.Generator().manual_seed(1)) > 0.1
    whole = measure(image, torch.ones_like(good), torch.ones(1, 4), LEGACY.scale)
    holed = measure(image.where(good, torch.tensor(1e6)), good, torch.ones(1, 4), LEGACY.scale)
    np.testing.assert_allclose(holed[..., 4:].numpy(), whole[..., 4:].numpy(), rtol=0.05)


def test_a_bad_band_is_absent_and_leaves_no_trace() -> None:
    image = gaussian(HSC)
    image[0, 2] = math.nan
    mask = torch.zeros_like(image, dtype=torch.bool)
    mask[0, 3] = True
    out = prepare_image(image, torch.ones_like(image), mask, HSC)
    assert out["present"].tolist() == [[True, True, False, False, True]]
    assert not out["stamp"][0, 2:4].any() and not out["photometry"][0, 2:4].any()
    assert all(torch.isfinite(value).all() for value in out.values())


def test_stamps_count_in_noise_and_photometry_in_nanomaggies() -> None:
    image = gaussian(HSC) / HSC.nmgy
    one = prepare_image(image, torch.full_like(image, 4.0), torch.zeros_like(image, dtype=torch.bool), HSC)
    more = prepare_image(2 * image, torch.full_like(image, 1.0), torch.zeros_like(image, dtype=torch.bool), HSC)
    torch.testing.assert_close(one["stamp"], more["stamp"])
    torch.testing.assert_close(asinh_flux(torch.tensor(100.0)), one["photometry"][0, 0, len(APERTURES) - 1], rtol=1e-3, atol=0)
    assert float(asinh_flux(torch.tensor(1000.0)) - asinh_flux(torch.tensor(100.0))) == pytest.approx(1.0, abs=1e-5)


def test_photometry_does_not_turn_with_the_image() -> None:
    image = gaussian(LEGACY, dy=0.4, dx=0.2) + 0.01 * torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(2))
    mask, ivar = torch.zeros_like(image, dtype=torch.bool), torch.full_like(image, 1e4)
    there = prepare_image(image, ivar, mask, LEGACY)["photometry"]
    for turned in (image.flip(-1), image.rot90(1, (-2, -1))):
        torch.testing.assert_close(prepare_image(turned, ivar, mask, LEGACY)["photometry"], there, rtol=1e-4, atol=1e-4)


def test_fields_agree_with_the_table_of_surveys() -> None:
    for f in FIELDS:
        assert f.scale == SURVEYS[f.survey].pixel_scale
        for band, wavelength in zip(f.bands, f.wavelengths, strict=True):
            assert SURVEYS[f.survey].bands[band].wavelength == pytest.approx(wavelength)
            assert nanomaggies_per_unit(f.survey, band) == pytest.approx(f.nmgy)


def test_small_stamps_are_refused() -> None:
    small = torch.zeros(1, 4, 32, 32)
    with pytest.raises(ValueError, match="32 x 32"):
        prepare_image(small, small, small.bool(), LEGACY)


def test_the_own_grid_is_a_special_case_of_overlap() -> None:
    generator = torch.Generator().manual_seed(3)
    flux, ivar = torch.randn(2, GRID.pixels, generator=generator), torch.rand(2, GRID.pixels, generator=generator)
    mask = torch.rand(2, GRID.pixels, generator=generator) < 0.2
    own = prepare_spectrum(flux, ivar, mask, GRID.wavelength(), GRID)
    shifted = prepare_spectrum(flux, ivar, mask, GRID.wavelength() + 2e-3, GRID)
    torch.testing.assert_close(own["weight"] ** 2, shifted["weight"] ** 2, atol=0.01, rtol=0)
    torch.testing.assert_close(own["flux"] * own["weight"] ** 2, shifted["flux"] * shifted["weight"] ** 2, atol=0.02, rtol=0)


@pytest.mark.parametrize("wavelength", [10 ** (3.58 + 1e-4 * torch.arange(3800, dtype=torch.float64)),
                                        torch.arange(3000.0, 10500.0, 20.0, dtype=torch.float64),
                                        torch.arange(3500.0, 9900.0, 0.3, dtype=torch.float64)])
def test_level_and_information_survive_any_grid(wavelength: torch.Tensor) -> None:
    n = len(wavelength)
    level = (wavelength / 5000).float()[None]
    width = wavelength.diff().mean()
    ivar = torch.full((1, n), 4.0) * wavelength.diff(append=wavelength[-1:] + width).float() / float(width)
    out = prepare_spectrum(level, ivar, torch.zeros(1, n, dtype=torch.bool), wavelength, GRID)
    seen = out["weight"][0] > 0
    inner = seen & (GRID.centres() > wavelength[0] + 30) & (GRID.centres() < wavelength[-1] - 30)
    np.testing.assert_allclose(out["flux"][0, inner].numpy(), GRID.centres()[inner].numpy() / 5000, rtol=3e-3)
    bins = GRID.step * GRID.binning
    np.testing.assert_allclose(out["weight"][0, inner].numpy() ** 2, 4.0 * bins / float(width), rtol=0.02)


def test_gaps_stay_empty() -> None:
    wavelength = torch.cat([torch.arange(4000.0, 5000.0), torch.arange(6000.0, 7000.0)]).double()
    ones = torch.ones(1, 2000)
    out = prepare_spectrum(ones, ones, torch.zeros(1, 2000, dtype=torch.bool), wavelength, GRID)
    centres, seen = GRID.centres(), out["weight"][0] > 0
    assert not seen[(centres > 5010) & (centres < 5990)].any() and seen[(centres > 6010) & (centres < 6990)].all()


def test_rebin_is_the_weighted_mean() -> None:
    flux, weight = torch.rand(3, GRID.bins), torch.rand(3, GRID.bins)
    edges = logarithmic_edges(GRID, 16)
    mean, total = rebin(flux, weight, edges, GRID.centres().float())
    inside = (GRID.centres() >= edges[3]) & (GRID.centres() < edges[4])
    expected = np.average(flux[0, inside], weights=weight[0, inside] ** 2)
    assert float(mean[0, 3]) == pytest.approx(float(expected), rel=1e-4)
    np.testing.assert_allclose((total**2).sum(1), (weight**2).sum(1), rtol=1e-4)


def lines_at(shift: float, level: float = 3.0) -> torch.Tensor:
    """(1, L) of two lines and a break, moved to the red by `shift` in the logarithm of wavelength."""
    x = torch.log(GRID.wavelength() / 5000) - shift
    bright, dark = (torch.exp(-(((x - place) / 0.01) ** 2)) for place in (0.0, 0.2))
    return (level * (1 + 2 * bright - 0.3 * dark + 0.4 * (x > 0.1)))[None].float()


def test_a_redshift_shifts_the_drawing_and_brightness_does_not_change_it() -> None:
    step = float(torch.log(logarithmic_edges(GRID, 200)).diff().mean())
    here, there = (drawing(lines_at(n * step), GRID, 200)[0, 1, 40:160] for n in (0, 7))
    torch.testing.assert_close(there[7:], here[:-7], atol=0.1, rtol=0.05)
    assert float((there - here).abs().max()) > 1
    torch.testing.assert_close(drawing(lines_at(0.0, 30.0), GRID, 200)[0, 1], drawing(lines_at(0.0), GRID, 200)[0, 1],
                               atol=0.05, rtol=0.05)


def test_a_flat_spectrum_has_no_lines() -> None:
    assert drawing(torch.full((2, GRID.pixels), 2.0), GRID, 64).abs().max() < 1e-4
