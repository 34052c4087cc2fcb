"""`render`: what the contract promises, and that noise, masks and truth mean what they say."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.simulate import BANDS, CLASSES, GRIDS, RARE, images, noise, render, with_sdss
from engine.simulate.images import CAMERAS, Camera
from engine.simulate.population import BARRED, QUASAR, SPIRAL, STAR, SUPERNOVA
from engine.simulate.rng import Draw

COUNT = 160
FIELDS = pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)


@cache
def sky() -> dict[str, Tensor]:
    return render(7, torch.arange(COUNT), truth=True)


def unequal(a: dict[str, Tensor], b: dict[str, Tensor], rows_a: list[int], rows_b: list[int]) -> list[str]:
    """Keys whose rows are not equal bit for bit (NaN equals NaN)."""
    return [k for k in a if not np.array_equal(a[k][rows_a].numpy(), b[k][rows_b].numpy(), equal_nan=a[k].is_floating_point())]


def test_keys_and_shapes_of_the_contract() -> None:
    out = render(7, torch.arange(3))
    for camera, bands in BANDS.items():
        for name, kind in ((camera, torch.float32), (f"{camera}_ivar", torch.float32), (f"{camera}_mask", torch.bool)):
            assert out[name].shape == (3, len(bands), 96, 96) and out[name].dtype == kind
    assert BANDS == {"legacy": ("g", "r", "i", "z"), "hsc": ("g", "r", "i", "z", "y")}
    desi, sdss = GRIDS["desi"](), GRIDS["sdss"]()
    assert len(desi) == 7781 and desi[0] == 3600 and float(desi[-1]) == pytest.approx(9824)
    assert torch.log10(sdss)[:2].tolist() == pytest.approx([3.58, 3.5801])
    for name, grid in (("desi", desi), ("sdss", sdss)):
        assert out[name].shape == out[f"{name}_ivar"].shape == out[f"{name}_mask"].shape == (3, len(grid))
    assert out["xp_bp"].shape == out["xp_rp"].shape == (3, 55)
    assert out["lc_flux"].shape == out["lc_error"].shape == (3, 3, out["lc_time"].shape[1])
    assert all(value.shape == (3,) for name, value in out.items() if name.startswith(("s_", "t_", "has_")))
    assert {f"s_flux_{b}" for b in "griz"} | {f"s_mag_{b}" for b in "grizy"} <= set(out)
    assert not any("truth" in name or name.startswith("artefact") for name in out)


def test_same_object_twice_on_any_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = render(7, torch.arange(40), truth=True)
        torch.set_num_threads(2)
        two = render(7, torch.arange(40), truth=True)
    finally:
        torch.set_num_threads(threads)
    assert not unequal(one, two, list(range(40)), list(range(40)))


COMPANY = torch.tensor([39, 3, 900, 17, 5, 12_345_678_901, 22])


def test_object_does_not_depend_on_its_company() -> None:
    """Alone, in another order or among others, all choices are the same and all numbers agree to float32's rounding."""
    whole, other = sky(), render(7, COMPANY, truth=True)
    rows, places = [39, 3, 17, 5, 22], [0, 1, 3, 4, 6]
    for name, value in whole.items():
        a, b = value[rows], other[name][places]
        if not a.is_floating_point():
            assert torch.equal(a, b), name
            continue
        assert torch.equal(a.isnan(), b.isnan()), name
        scale = a.nan_to_num().abs().flatten(1).amax(1) if a.ndim > 1 else a.nan_to_num().abs()
        error = (a - b).nan_to_num().abs().flatten(1).amax(1) if a.ndim > 1 else (a - b).nan_to_num().abs()
        assert (error <= 1e-5 * scale).all(), name


def test_object_is_the_same_bit_for_bit_in_any_company() -> None:
    other = render(7, COMPANY, truth=True)
    assert not unequal(sky(), other, [39, 3, 17, 5, 22], [0, 1, 3, 4, 6])


def test_seeds_and_objects_differ() -> None:
    a, b = render(7, torch.arange(4)), render(8, torch.arange(4))
    for name in ("legacy", "desi", "s_ra", "s_flux_r"):
        assert (a[name] != b[name]).any()
        assert (a[name][0] != a[name][1]).any()


def test_random_numbers_are_uniform_normal_and_independent() -> None:
    draw = Draw(3, torch.arange(2000))
    u, n = draw.uniform("a", 40), draw.normal("b", 40)
    counts = torch.histc(u, 20, 0, 1)
    assert float(((counts - 4000) ** 2 / 4000).sum()) < 43.8  # chi2 of 19 degrees of freedom, 0.1 %
    assert u.min() > 0 and u.max() < 1
    assert abs(float(n.mean())) < 0.015 and float(n.std()) == pytest.approx(1, abs=0.01)
    assert float((n.abs() > 3).float().mean()) == pytest.approx(0.0027, abs=0.0006)
    streams = torch.stack([u.flatten(), draw.uniform("c", 40).flatten(), Draw(4, draw.index).uniform("a", 40).flatten(),
                           u.roll(1, 0).flatten(), u.roll(1, 1).flatten(), n.flatten()])
    assert float((torch.corrcoef(streams) - torch.eye(6)).abs().max()) < 0.015


@FIELDS
def test_image_noise_is_what_ivar_says_and_is_correlated(camera: Camera) -> None:
    out, name = sky(), camera.name
    plain = out[f"{name}_artefact"] == 0
    pull = ((out[name] - out[f"{name}_truth"]) * out[f"{name}_ivar"].sqrt())[plain]
    assert abs(float(pull.mean())) < 0.01
    assert float(pull.std()) == pytest.approx(1, abs=0.01)
    weights = {(y, x): w for y, x, w in noise.KERNEL}
    norm = sum(w * w for w in weights.values())
    for step, (y, x) in (((1, 0), (1, 0)), ((0, 1), (0, 1))):
        expected = sum(w * weights.get((a + y, b + x), 0.0) for (a, b), w in weights.items()) / norm
        shifted = pull[..., step[0] :, step[1] :] * pull[..., : 96 - step[0], : 96 - step[1]]
        assert float(shifted.mean()) == pytest.approx(expected, abs=0.01)
        assert expected > 0.2


@FIELDS
def test_artefacts_lie_in_their_mask(camera: Camera) -> None:
    """Whatever is far from the truth is told, and what is told has an artefact."""
    out, name = sky(), camera.name
    spoiled, kind = out[f"artefact_{name}"], out[f"{name}_artefact"]
    assert not spoiled[kind == 0].any() and not out[f"{name}_mask"][kind == 0].any()
    assert spoiled.flatten(1).any(1)[kind > 0].float().mean() > 0.8  # some are at the rim of the stamp
    assert not (out[f"{name}_mask"] & ~spoiled).any()
    known = out[f"{name}_ivar"] > 0
    pull = (out[name] - out[f"{name}_truth"]) * out[f"{name}_ivar"].sqrt()
    assert not ((pull.abs() > 11) & ~spoiled).any()
    assert (out[f"{name}_mask"] | known).all()


@FIELDS
def test_five_images_in_a_hundred_have_artefacts(camera: Camera) -> None:
    found = torch.zeros(len(noise.ARTEFACTS))
    for first in range(0, 3000, 250):
        draw = Draw(12, torch.arange(first, first + 250))
        blank = torch.zeros(250, len(camera.bands), 96, 96)
        _, _, kind = noise.spoil(blank, torch.ones_like(blank), torch.ones(250, len(camera.bands)), draw, camera)
        found += torch.bincount(kind, minlength=len(noise.ARTEFACTS))
    assert float(found[1:].sum()) / 3000 == pytest.approx(noise.ARTEFACT_RATE, abs=0.012)
    assert (found[1:] > 5).all()


@pytest.mark.parametrize("name", ["desi", "sdss"])
def test_spectra_have_honest_noise_and_told_residuals(name: str) -> None:
    out = sky()
    residual = out[f"artefact_{name}"]
    pull = (out[name] - out[f"{name}_truth"]) * out[f"{name}_ivar"].sqrt()
    good = ~residual & ~out[f"{name}_mask"]
    clean = good & ~residual.any(1, keepdim=True)
    assert float(pull[clean].std()) == pytest.approx(1, abs=0.01)
    assert abs(float(pull[clean].mean())) < 0.01
    assert 0.03 < float(residual.any(1).float().mean()) < 0.2
    assert float(pull[residual].std()) > 1.3
    assert (out[f"{name}_ivar"][out[f"{name}_mask"]] == 0).all()


def test_seeing_and_depth_follow_the_surveys() -> None:
    draw = Draw(9, torch.arange(4000))
    for camera in CAMERAS:
        fwhm, depth = noise.conditions(draw, camera)
        assert fwhm.median(0).values.tolist() == pytest.approx(list(camera.seeing), rel=0.01)
        assert depth.median(0).values.tolist() == pytest.approx(list(camera.depth), abs=0.02)
        assert float(fwhm.log().std()) > 0.05 and float(depth.std()) > 0.1
        assert 0.2 < float(torch.corrcoef(fwhm.log().T)[0, 1]) < 0.5  # nights are shared in part


def test_fibre_takes_what_a_moffat_profile_gives() -> None:
    """Light of a point in the middle inside the radius R is 1 - (1 + (R / alpha)^2)^(1 - beta)."""
    for diameter, fwhm in ((1.5, 1.1), (3.0, 1.3)):
        alpha = fwhm / 2 / math.sqrt(2 ** (1 / 3.5) - 1)
        expected = 1 - (1 + (diameter / 2 / alpha) ** 2) ** -2.5
        weight = images.fibre_weight(diameter, fwhm, "cpu")
        middle = weight[99:101, 99:101].mean()  # of four pixels about the middle: 0.09" off
        assert float(middle) == pytest.approx(expected, abs=0.015)
        assert float(weight[100, 160]) < 0.02
        xy = images.axis(images.FINE, images.FINE_SCALE)
        centre = (weight * (xy + 0 * weight)).sum() / weight.sum(), (weight * (xy[:, None] + 0 * weight)).sum() / weight.sum()
        assert max(abs(float(c)) for c in centre) < 0.02


def test_larger_fibre_takes_more_light() -> None:
    """Both spectrographs see the same object: SDSS's wider fibre more of it, of points about the same."""
    out = sky()
    desi, sdss = (out[f"{name}_truth"][:, (GRIDS[name]() > 6000) & (GRIDS[name]() < 6800)].mean(1) for name in ("desi", "sdss"))
    galaxy, star = out["class"] < STAR, out["class"] == STAR
    assert (sdss / desi)[galaxy].min() > 1
    assert (sdss / desi)[galaxy].median() > (sdss / desi)[star].median() + 0.1


def test_masks_of_bars_and_arms_belong_to_their_galaxies() -> None:
    out = sky()
    bar, arm, kind = out["bar_mask"].flatten(1).any(1), out["arm_mask"].flatten(1).any(1), out["class"]
    assert bar[kind == BARRED].float().mean() > 0.9 and not bar[kind != BARRED].any()
    assert arm[kind == SPIRAL].float().mean() > 0.7 and not arm[(kind != SPIRAL) & (kind != BARRED)].any()
    assert out["bar_mask"].shape == out["arm_mask"].shape == (COUNT, 96, 96)


def test_arms_are_bluer_than_the_rest() -> None:
    """Colour gradients: young stars are in the arms, so g - r is bluer there than off the arms at these radii."""
    out = sky()
    g, r = out["legacy_truth"][:, 0], out["legacy_truth"][:, 1]
    axis = (torch.arange(96) - 47.5) * 0.262
    radius = torch.hypot(axis, axis[:, None])
    steps = []
    for i in ((out["class"] == SPIRAL) & (out["rare"] == 0)).nonzero()[:, 0].tolist():
        arm = out["arm_mask"][i]
        if arm.sum() < 60:
            continue
        off = ~arm & (radius > radius[arm].min()) & (radius < 0.8 * radius[arm].max()) & (r[i] > 0.2 * r[i][arm].mean())
        steps.append(float(2.5 * torch.log10(g[i][arm].sum() / r[i][arm].sum() / (g[i][off].sum() / r[i][off].sum()))))
    assert len(steps) >= 8
    assert np.median(steps) > 0.0


def test_images_hold_the_catalogue_flux() -> None:
    """Of lone point sources: the flux in the noise-free stamp within 2.5" is the true flux but for wings and neighbours."""
    out = sky()
    axis = (torch.arange(96) - 47.5) * 0.262
    inside = torch.hypot(axis, axis[:, None]) < 2.5
    star = out["class"] == STAR
    for i, band in enumerate("griz"):
        ratio = out["legacy_truth"][star, i][:, inside].sum(1) / out[f"t_flux_{band}"][star]
        assert 0.9 < float(ratio.median()) < 1.03


def test_only_stars_have_xp_and_only_what_varies_light_curves() -> None:
    out = sky()
    xp, varies = out["xp_bp"].isfinite().all(1), out["lc_flux"].isfinite().all(2).all(1)
    assert xp.any() and not xp[out["class"] != STAR].any()
    assert torch.equal(xp, out["xp_rp"].isfinite().all(1))
    assert varies[out["class"] == QUASAR].all()
    allowed = (out["class"] == QUASAR) | (out["class"] == STAR) | (out["rare"] == SUPERNOVA)
    assert not varies[~allowed].any()
    time = out["lc_time"][varies]
    assert (time.diff(dim=1) >= 0).all() and time.min() > 57000


def test_every_object_has_images_and_a_desi_spectrum() -> None:
    out = sky()
    for name in ("legacy", "hsc", "desi"):
        assert out[f"has_{name}"].all()
        assert out[name].isfinite().all() and out[f"{name}_ivar"].isfinite().all()
    assert 0.1 < float(out["has_sdss"].float().mean()) < 0.4
    assert int(out["class"].max()) < len(CLASSES) and int(out["rare"].max()) < len(RARE)


def test_who_has_a_spectrum_of_sdss_is_known_without_making_anyone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = torch.nonzero(sky()["has_sdss"])[:, 0]
    monkeypatch.setattr("engine.simulate.populate", lambda draw: pytest.fail("all parameters of all objects take gigabytes"))
    assert torch.equal(with_sdss(7, torch.arange(COUNT)), seen)


def test_dtype_is_that_of_all_floats() -> None:
    out = render(7, torch.arange(2), dtype=torch.float64)
    assert {value.dtype for value in out.values()} == {torch.float64, torch.bool, torch.int64}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_draws_the_same_sky() -> None:
    cpu, gpu = render(7, torch.arange(16)), render(7, torch.arange(16), device="cuda")
    for name in ("legacy", "hsc", "desi"):
        assert float((cpu[name] - gpu[name].cpu()).abs().max()) < 1e-3 * float(cpu[name].abs().max())
    assert torch.equal(cpu["class"], gpu["class"].cpu())
