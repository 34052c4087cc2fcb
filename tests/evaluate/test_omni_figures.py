"""The rows of a model of AION-1's kind on cases with known answers."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from astropy.cosmology import Planck18

from engine.evaluate import images, lines, posterior, probes, redshifts, retrieval, samples, templates
from engine.evaluate.astroclip import ranks
from engine.evaluate.figures import bootstrapped, nmad, r2_difference
from engine.evaluate.sky import OmniSky
from engine.simulate import GRIDS, render

K = 60


def gaussians(centre: np.ndarray, width: float) -> np.ndarray:
    p = np.exp(-0.5 * ((np.arange(K) - centre[:, None]) / width) ** 2)
    return p / p.sum(1, keepdims=True)


def drawn(p: np.ndarray, seed: int = 9) -> np.ndarray:
    u = np.random.default_rng(seed).random((len(p), 1))
    return np.minimum((p.cumsum(1) < u).sum(1), K - 1)


EDGES = (np.arange(K) / 10, np.arange(1, K + 1) / 10)


@pytest.mark.parametrize("width", [0.3, 4.0])
def test_a_right_posterior_is_uniform_and_covers(width: float) -> None:
    p = gaussians(np.random.default_rng(1).uniform(20, 40, 3000), width)
    bins = drawn(p)
    pit = posterior.randomised(p, bins)
    assert posterior.distance(pit) < 1.6 / math.sqrt(3000), "Kolmogorov's 1 % point is 1.63"
    found = posterior.scores(p, bins, (bins + 0.5) / 10, EDGES)
    assert abs(found["68% off (sigma)"].value) < 3 and abs(found["95% off (sigma)"].value) < 3
    assert found["in 68%"].low < found["in 68%"].value < found["in 68%"].high and found["KS"].n == 3000


def test_a_shifted_or_narrow_posterior_is_found_out() -> None:
    p = gaussians(np.random.default_rng(1).uniform(20, 40, 2000), 4.0)
    bins = drawn(p)
    shifted = np.roll(p, 4, axis=1)  # by one sigma: the median's PIT is Phi(-1)
    pit = posterior.randomised(shifted, bins)
    assert np.median(pit) == pytest.approx(0.159, abs=0.03)
    assert posterior.distance(pit) == pytest.approx(0.383, abs=0.03), "2 Phi(1/2) - 1"
    narrow = posterior.scores(p**4 / (p**4).sum(1, keepdims=True), bins, (bins + 0.5) / 10, EDGES)
    assert narrow["in 68%"].value == pytest.approx(0.38, abs=0.04), "half the width holds one half of a sigma"
    right = posterior.scores(p, bins, (bins + 0.5) / 10, EDGES)
    for name, sign in (("CRPS", 1), ("log score", -1)):
        assert sign * right[name].value < sign * narrow[name].value


def test_crps_of_a_bin_and_of_a_gaussian() -> None:
    certain = np.eye(K)[[10]]
    assert posterior.crps(certain, np.array([1.05]), EDGES) == pytest.approx(0.1 / 12), "the middle of a flat bin: width / 12"
    assert posterior.crps(certain, np.array([2.05]), EDGES) == pytest.approx(1.0 - 0.1 / 6, rel=1e-3)
    wide = posterior.crps(gaussians(np.array([30.0]), 5.0), np.array([3.05]), EDGES)
    assert wide == pytest.approx(0.5 * 0.2337, rel=0.01), "sigma (2 phi(0) - 1 / sqrt(pi))"


def test_baselines_leave_the_object_itself_out() -> None:
    random = np.random.default_rng(2)
    magnitudes = random.uniform(16, 21, (400, 4))
    bins = random.integers(0, K, 400)
    for p in (posterior.everyone(bins, K), posterior.neighbours(magnitudes, bins, K)):
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-4)
        assert posterior.log_score(p, bins).mean() < -np.log(K) + 0.1, "chance tells nothing of chance"
    told = np.repeat(np.clip((10 * (magnitudes[:, 1:2] - 16)).astype(int), 0, K - 1), 1, axis=1)[:, 0]
    p = posterior.neighbours(magnitudes, told, K)
    assert posterior.log_score(p, told).mean() > posterior.log_score(posterior.everyone(told, K), told).mean()


def ellipse(turn: float, side: int = 96, scale: float = 0.168) -> torch.Tensor:
    x, y = images.axes(side, scale)
    a, b = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    return torch.exp(-0.5 * ((a / 1.2) ** 2 + (b / 0.6) ** 2))[None]


@pytest.mark.parametrize("degrees", [0.0, 20.0, 75.0, 130.0])
def test_a_turned_image_has_that_orientation_error(degrees: float) -> None:
    e, first = images.shapes(ellipse(0.3), 0.168)
    _, second = images.shapes(ellipse(0.3 + math.radians(degrees)), 0.168)
    assert float(e) > 0.2
    assert float(images.turned(first, second)) == pytest.approx(min(degrees, 180 - degrees), abs=0.3)


def test_psnr_light_radius_and_power_of_known_images() -> None:
    true = ellipse(0.0)[:, None]
    seen = torch.ones_like(true, dtype=torch.bool)
    noise = 0.01 * torch.randn(true.shape, generator=torch.Generator().manual_seed(0))
    assert float(images.psnr(true + noise, true, seen)) == pytest.approx(40, abs=0.2)
    hidden = seen & (torch.arange(96) < 48)
    broken = torch.where(hidden, true, 1e3)
    assert float(images.psnr(broken, true, hidden)) > 100, "what was not observed does not count"
    assert torch.allclose(images.magnitudes(true * 10, 0.168), images.magnitudes(true, 0.168) - 2.5)
    round_ = torch.exp(-0.5 * (images.axes(96, 0.168)[0] ** 2 + images.axes(96, 0.168)[1] ** 2))[None]
    assert float(images.half_light(round_, 0.168)) == pytest.approx(math.sqrt(2 * math.log(2)), abs=0.03)
    power, coherence = images.spectra(2 * true[:, 0], true[:, 0], 0.168)
    assert torch.allclose(power[:, :4], torch.tensor(4.0)) and torch.allclose(coherence[:, :4], torch.tensor(1.0))


def test_probes_tell_what_can_be_told() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(600, 20))
    y = 3 * x[:, 0] - x[:, 1] + 5
    assert nmad(probes.ridge(x[:400], y[:400], x[400:]) - y[400:]) < 1e-2
    assert np.corrcoef(probes.nearest(x[:400, :2], y[:400], x[400:, :2]), y[400:])[0, 1] > 0.98
    assert np.corrcoef(probes.boosted(x[:400], y[:400], x[400:]), y[400:])[0, 1] > 0.9
    both = np.concatenate([x[:, :1], random.normal(size=(600, probes.COLOURS - 1)), x[:, 1:3]], 1)  # trees see one of the two
    trees, stacked = (probe(both[:400, :n], y[:400], both[400:, :n]) for probe, n in (
        (probes.boosted, probes.COLOURS), (probes.boosted_and_ridge, 9)))
    assert nmad(stacked - y[400:]) < 0.8 * nmad(trees - y[400:])
    noise = random.normal(size=(600, 20))
    assert np.abs(probes.ridge(noise[:400], y[:400], noise[400:]) - y[:400].mean()).max() < 1.5, "of noise, the mean"
    tokens = random.integers(-60, 60, (600, 6, 8)).astype(np.int8)
    told = tokens[:, 2, 3] / 60.0
    tokens[:, :, 0] = (np.arange(6) == 2) * 100  # the token that tells is marked
    assert np.corrcoef(probes.attentive(tokens[:400], told[:400], tokens[400:]), told[400:])[0, 1] > 0.8


def test_masses_from_light_at_the_redshifts_that_are_possible() -> None:
    random = np.random.default_rng(6)
    bins = np.linspace(0.001, 0.701, 401)
    z = bins[random.integers(30, 310, 700)]
    modulus = Planck18.distmod(z).value
    magnitudes = modulus[:, None] - 21 + np.cumsum(random.normal(0.4, 0.2, (700, 4)), 1)
    colour = magnitudes[:, 0] - magnitudes[:, 1]
    masses = -0.4 * (magnitudes[:, 1] - modulus) + 1.1 * colour * (1 - 0.5 * z) + 2
    at = (bins == z[500:, None]).astype(float)

    def found(p: np.ndarray) -> np.ndarray:
        return probes.mass_at_redshift(magnitudes[:500], z[:500], masses[:500], magnitudes[500:], p, bins)

    assert np.abs(found(at) - masses[500:]).max() < 0.01
    far = np.tile(np.eye(401)[200], (200, 1))
    assert found(0.3 * at + 0.7 * far) == pytest.approx(0.3 * found(at) + 0.7 * found(far), abs=1e-9)
    assert np.isnan(found(np.eye(401)[np.zeros(200, int)])).all()
    assert found(at + np.eye(401)[0]) == pytest.approx(found(at)), "nothing of those known is so near"


def test_limits_that_trees_know_are_told_to_the_token() -> None:
    n, middles = 60, np.array([0.1, 0.3, 0.5, 2.0])
    p = np.tile(np.array([0.2, 0.6, 0.0, 0.2], np.float32), (n, 1))
    view = SimpleNamespace(redshift=p, there=np.arange(n) > 0, balanced=np.zeros((n, 3)))
    values = {f"s_flux_{band}": np.ones(n) for band in "griz"}
    test = OmniSky(0, 40, {**values, "t_z": np.where(np.arange(n) < 40, 0.25, 0.4 - np.arange(n) % 2 * 0.2)}, {}, {})
    views: Any = {"image": view}
    found = redshifts.redshifts(test, views, np.ones(n, bool), middles, near=True).found
    own, cut, within = (found[f"image · {kind}"] for kind in (redshifts.OWN, redshifts.CUT, redshifts.RANGE))
    assert own[1:] == pytest.approx(0.6) and cut[1:] == pytest.approx(0.25) and np.isnan(cut[0])
    assert within[1:] == pytest.approx(0.3), "of those known none is nearer than .2"
    plain = redshifts.redshifts(test, views, np.ones(n, bool), middles).found
    assert f"image · {redshifts.OWN}" in plain and f"image · {redshifts.CUT}" not in plain


def test_search_with_identical_or_linear_vectors_is_perfect() -> None:
    random = np.random.default_rng(4)
    x = random.normal(size=(300, 8)).astype(np.float32)
    turned = x @ np.linalg.qr(random.normal(size=(8, 8)))[0] + 3
    fit = np.arange(300) >= 100
    for spectra in (x, turned):
        assert (ranks(retrieval.mapped(x, spectra, fit)[:100, :100]) == 0).mean() == 1.0


def test_differences_are_paired() -> None:
    random = np.random.default_rng(5)
    truth = random.normal(size=300)
    noise = random.normal(size=300)
    found = r2_difference(truth, truth + 0.5 * noise, truth + 0.55 * noise)
    assert 0 < found.low < found.value < found.high < 0.1
    assert bootstrapped(300, lambda rows: (noise[rows] > 0).mean(-1)).value == pytest.approx((noise > 0).mean())


def test_draws_as_the_truth_hold_their_share() -> None:
    random = np.random.default_rng(6)
    values = random.normal(size=(samples.SAMPLES + 1, 20000))
    assert lines.inside(values[1:], values[0]).mean() == pytest.approx(samples.NOMINAL, abs=0.01)


def test_lines_of_the_truth_are_complete_and_those_of_noise_false() -> None:
    true = np.array([[50.0, 0.0], [80.0, 1.0], [40.0, 0.5]])
    of = {"line": true, "true line": true, "line error": np.full((3, 2), 2.0)}
    right = lines.figures(of)
    assert right["completeness"].value == 1 and right["completeness"].n == 3 and right["false"].value == 0
    turned = lines.figures(of | {"line": true[:, ::-1]})
    assert turned["completeness"].value == 0 and turned["false"].value == 1


@pytest.mark.parametrize("name", ["desi", "sdss"])
def test_templates_tell_the_redshift_of_bright_galaxies(name: str) -> None:
    sky = render(7, torch.arange(32))
    rows = (sky["class"] < 6) & (sky["s_flux_r"] > 20) & (sky["t_z"] < 0.6)
    ivar = torch.where(sky[f"{name}_mask"], 0.0, sky[f"{name}_ivar"])[rows].double().numpy()
    z = templates.redshifts(GRIDS[name]().numpy(), sky[name][rows].double().numpy(), ivar)
    off = 3e5 * (z - sky["t_z"][rows].numpy()) / (1 + z)
    assert len(off) > 5 and np.median(np.abs(off)) < 60 and (np.abs(off) < 1000).mean() > 0.8
