"""Who is in the simulated sky: shares, colours, redshifts from magnitudes; light that is the same in filters and spectra."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from astropy.cosmology import Planck18

from engine import simulate
from engine.search import regress
from engine.simulate import light, population
from engine.simulate.population import CLASSES, QUASAR, RARE, SHARES, STAR, Population, populate
from engine.simulate.rng import Draw

GALAXIES, TEST = 4000, 800


def made(seed: int, first: int, count: int) -> tuple[Population, light.Light, Draw]:
    draw = Draw(seed, torch.arange(first, first + count))
    p = populate(draw)
    return p, light.shine(p), draw


@cache
def catalogue() -> dict[str, np.ndarray]:
    """Catalogue values of many objects, without drawing any image."""
    kept: dict[str, list[torch.Tensor]] = {}
    for first in range(0, GALAXIES, 250):
        p, shine, draw = made(5, first, 250)
        row = simulate.catalogue(p, shine, draw) | {"class": p.kind, "rare": p.rare}
        for name, value in row.items():
            kept.setdefault(name, []).append(value)
    return {name: torch.cat(values).numpy() for name, values in kept.items()}


def magnitudes() -> np.ndarray:
    c = catalogue()
    return np.stack([22.5 - 2.5 * np.log10(np.clip(c[f"s_flux_{b}"], 0.01, None)) for b in "griz"], axis=1)


def test_magnitudes_alone_give_redshifts_as_in_real_surveys() -> None:
    c, features = catalogue(), magnitudes()
    galaxy = c["class"] < STAR
    asked, known = np.flatnonzero(galaxy[:TEST]), np.flatnonzero(galaxy[TEST:]) + TEST
    z = c["t_z"]
    error = regress(features[known], z[known], features[asked]) - z[asked]
    assert 0.68 < 1 - np.mean(error**2) / np.var(z[asked]) < 0.82  # 0.70 to 0.80 of the sky, and the scatter of 800 objects


def test_shares_of_classes_and_of_the_rare() -> None:
    c = catalogue()
    found = np.bincount(c["class"], minlength=len(CLASSES)) / GALAXIES
    assert found[[STAR, QUASAR]] == pytest.approx([SHARES[STAR], SHARES[QUASAR]], abs=0.015)
    assert found.min() > 0.02
    rare = np.bincount(c["rare"], minlength=len(RARE))
    assert 0.015 < rare[1:].sum() / GALAXIES < 0.04
    assert (rare[1:] > 0).all()
    assert (c["class"][c["rare"] == RARE.index("white dwarf")] == STAR).all()


def test_sky_has_the_order_of_the_real_one() -> None:
    """Old galaxies are redder than spirals, quasars blue; counts rise to the faint; numbers stay in bounds."""
    c, m = catalogue(), magnitudes()
    colour = m[:, 0] - m[:, 1]
    median = [np.median(colour[c["class"] == i]) for i in range(len(CLASSES))]
    assert median[CLASSES.index("elliptical")] > median[CLASSES.index("spiral")] + 0.15
    assert median[CLASSES.index("irregular")] < median[CLASSES.index("spiral")]
    assert median[QUASAR] < 0.3
    galaxy = c["class"] < STAR
    assert np.mean((colour[galaxy] > 0.3) & (colour[galaxy] < 1.6)) > 0.85
    assert (c["t_z"][galaxy] > 0).all() and (c["t_z"][galaxy] < 1).all()
    assert c["t_z"][c["class"] == QUASAR].max() < 3.0
    bright, faint = np.sum(np.abs(m[galaxy, 1] - 17.5) < 0.5), np.sum(np.abs(m[galaxy, 1] - 19.5) < 0.5)
    assert faint / bright == pytest.approx(10 ** (0.28 * 2), rel=0.3)
    assert 9.0 < np.nanmedian(c["t_log_mstar"]) < 11.5
    assert np.isnan(c["t_log_mstar"][~galaxy]).all()


def test_catalogue_errors_are_the_scatter() -> None:
    c = catalogue()
    for band in "griz":
        pull = (c[f"s_flux_{band}"] - c[f"t_flux_{band}"]) / c[f"s_flux_{band}_error"]
        assert np.std(pull) == pytest.approx(1, abs=0.05)
        assert abs(np.mean(pull)) < 0.06


def test_filters_see_the_spectrum() -> None:
    """The whole spectrum, integrated through speclite's curves, gives the band fluxes of the catalogue."""
    filters = pytest.importorskip("speclite.filters", reason="speclite (extra dev) is not installed")
    p, shine, _ = made(21, 0, 40)
    lam = torch.arange(3500.0, 11250.0, 0.8, dtype=torch.float64)
    share = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(40, 4)
    flux = light.spectrum(p, shine, share, lam, (2000.0, 5500.0)).numpy()
    expected = shine.bands[..., :3].sum(-1).numpy()
    names = [f"decamDR1-{b}" for b in "griz"] + [f"hsc2017-{b}" for b in "grizy"]
    for i, name in enumerate(names):
        curve = filters.load_filter(name)
        inside = (curve.wavelength > 3500) & (curve.wavelength < 11250)
        assert curve.response[inside].sum() / curve.response.sum() > 0.999, name
        response = np.interp(lam.numpy(), curve.wavelength, curve.response)
        maggies = np.trapezoid(response * flux * lam.numpy(), lam.numpy(), axis=1) * 1e-17 / np.trapezoid(
            response * 0.10885461 / lam.numpy(), lam.numpy())  # 3631 Jy is 0.1089 / lambda^2 erg/s/cm2/A
        difference = 2.5 * np.log10(maggies * 1e9 / expected[:, i])
        assert np.median(np.abs(difference)) < 0.003, name
        assert np.abs(difference).max() < 0.02, name


def test_distances_are_planck18() -> None:
    z = torch.tensor([0.02, 0.1, 0.37, 0.9, 2.5])
    distance = Planck18.luminosity_distance(z.numpy()).to_value("cm")
    assert population.luminosity_distance(z).numpy() == pytest.approx(np.log10(distance), abs=1e-3)
    kpc = 1 / Planck18.arcsec_per_kpc_proper(z.numpy()).value
    assert population.scale_kpc(z).numpy() == pytest.approx(kpc, rel=1e-3)
    assert population.cosmic_age(z).numpy() == pytest.approx(Planck18.age(z.numpy()).to_value("Gyr"), rel=0.01)


def test_lines_are_where_the_redshift_puts_them() -> None:
    """H alpha of star-forming galaxies is at (1 + z) times its vacuum wavelength; ellipticals have a 4000 A break."""
    p, shine, _ = made(33, 0, 200)
    lam = light.desi_wavelength()
    flux = light.spectrum(p, shine, torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(200, 4), lam, (2000.0, 5500.0))
    strong = (shine.lines[:, 11] > 30).nonzero()[:, 0].tolist()  # H alpha
    strong = [i for i in strong if 6564.61 * (1 + float(p.z[i])) < 9700]
    assert len(strong) > 20
    for i in strong:
        centre = 6564.61 * (1 + float(p.z[i]))
        near = (lam - centre).abs() < 15
        assert abs(float(lam[near][flux[i, near].argmax()]) - centre) < 1.5
    old = ((p.kind == 0) & (p.z > 0.05) & (p.z < 0.5) & (p.rare == 0)).nonzero()[:, 0].tolist()
    rest = lam / (1 + p.z[old, None].double())
    red, blue = ((rest > a) & (rest < b) for a, b in ((4050.0, 4250.0), (3750.0, 3950.0)))
    step = torch.stack([flux[i][red[k]].mean() / flux[i][blue[k]].mean() for k, i in enumerate(old)])
    assert float(step.median()) > 1.4
