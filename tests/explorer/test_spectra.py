"""Spectra as the browser gets them: nothing lost, nothing invented; line markers where the lines are in vacuum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.time import Time

from engine.io import read
from engine.objects import LightCurve, Spectrum
from explorer import spectra

# Air wavelengths in Angstrom: NIST Atomic Spectra Database; doublets as (wavelength, weight) pairs.
IN_AIR = {
    "Hα": [(6562.79, 1)], "Hβ": [(4861.35, 1)], "Hγ": [(4340.472, 1)], "Hδ": [(4101.734, 1)],
    "[O III]": [(5006.843, 1)], "[O II]": [(3726.032, 1), (3728.815, 1)], "[N II]": [(6583.45, 1)], "[O I]": [(6300.304, 1)],
    "Ca K": [(3933.663, 1)], "Ca H": [(3968.469, 1)], "Na D": [(5889.951, 1), (5895.924, 1)], "[S II]": [(6716.44, 1)],
    "[Ne III]": [(3868.76, 1)], "Ca II": [(8542.09, 1)], "[Ar III]": [(7135.79, 1)], "[S III]": [(9530.6, 1)],
    "[Ne V]": [(3425.86, 1)],
}
IN_VACUUM = {  # below 2000 Angstrom NIST lists vacuum
    "Lyα": [(1215.670, 1)], "C IV": [(1548.187, 2), (1550.772, 1)], "C III]": [(1908.734, 1)],
    "N V": [(1238.821, 2), (1242.804, 1)],
    "Lyβ": [(1025.722, 1)], "Mg II": [(2796.352, 2), (2803.531, 1)], "Si IV": [(1393.755, 2), (1402.770, 1)],
}


def vacuum(air: float) -> float:
    """Ciddor 1996, Applied Optics 35, 1566, eq. 1 (standard air), solved for the vacuum wavelength by iteration."""
    wave = air
    for _ in range(6):
        s2 = (1e4 / wave) ** 2
        wave = air * (1 + 0.05792105 / (238.0185 - s2) + 0.00167917 / (57.362 - s2))
    return wave


def first(name: str) -> float:
    return next(wave for n, wave, _ in spectra.LINES if n == name)


def unpacked(data: bytes) -> Any:
    return np.frombuffer(data, "<f4").reshape(4, -1)


@pytest.mark.parametrize("name", IN_AIR)
def test_optical_lines_stand_at_their_vacuum_wavelengths(name: str) -> None:
    expected = np.average([vacuum(w) for w, _ in IN_AIR[name]], weights=[k for _, k in IN_AIR[name]])
    assert first(name) == pytest.approx(expected, abs=0.12)  # in air they would be 1 to 2.6 Angstrom off


@pytest.mark.parametrize("name", IN_VACUUM)
def test_ultraviolet_lines_stand_at_their_vacuum_wavelengths(name: str) -> None:
    expected = np.average([w for w, _ in IN_VACUUM[name]], weights=[k for _, k in IN_VACUUM[name]])
    assert first(name) == pytest.approx(expected, abs=1.0)


def test_lines_are_distinct_and_of_a_known_kind() -> None:
    waves = [wave for _, wave, _ in spectra.LINES]
    assert len(set(waves)) == len(waves) and {kind for *_, kind in spectra.LINES} == {"e", "a"}


def test_packing_keeps_every_value_and_marks_what_is_bad() -> None:
    n = 7781
    random = np.random.default_rng(5)
    wave, flux, ivar = 3600 + 0.8 * np.arange(n), random.normal(1, 1, n).astype(np.float32), np.full(n, 4.0, np.float32)
    mask = np.zeros(n, bool)
    flux[3], flux[4], ivar[5], mask[6], ivar[7], ivar[8] = np.nan, np.inf, 0, True, -1, np.inf
    w, f, s, b = unpacked(spectra.packed(Spectrum(wave, flux, ivar, mask)))
    assert np.abs(w - wave).max() < 5e-4
    bad = [3, 4, 5, 6, 7, 8]
    assert np.flatnonzero(b).tolist() == bad and not f[bad].any() and not s[bad].any()
    good = b == 0
    assert np.array_equal(f[good], flux[good]) and np.allclose(s[good], 0.5)
    assert np.isfinite(unpacked(spectra.packed(Spectrum(wave, flux * np.nan)))).all()


def test_a_spectrum_without_errors_has_sigma_zero_and_is_not_bad() -> None:
    _, f, s, b = unpacked(spectra.packed(Spectrum(np.array([1.0, 2, 3]), np.array([1.0, -2, 3]))))
    assert f.tolist() == [1, -2, 3] and not s.any() and not b.any()


def test_a_sparkline_shows_the_line_where_it_is_and_gaps_as_gaps() -> None:
    n = 7781
    wave = 3600 + 0.8 * np.arange(n)
    flux = 1 + 8 * np.exp(-0.5 * ((wave - 6564.61) / 20) ** 2) + np.random.default_rng(2).normal(0, 0.1, n)
    good = (wave < 8000) | (wave > 8600)
    heights = np.array(spectra.sparkline(flux, good, 96))
    assert len(heights) == 96 and heights.min() == -1 and heights.max() == 100
    assert wave[int((heights.argmax() + 0.5) * n / 96)] == pytest.approx(6564.61, abs=70)
    middle = wave[((np.arange(96) + 0.5) * n / 96).astype(int)]
    inside = (middle > 8040) & (middle < 8560)
    assert (heights[inside] == -1).all() and (heights[(middle < 7950) | (middle > 8650)] >= 0).all()


@pytest.mark.parametrize("n", [2, 5, 95, 97, 4000])
def test_a_sparkline_has_its_length_whatever_the_spectrums(n: int) -> None:
    heights = spectra.sparkline(np.linspace(0, 1, n), np.ones(n, bool), 96)
    assert len(heights) == 96 and all(-1 <= h <= 100 for h in heights)
    assert spectra.sparkline(np.ones(n), np.zeros(n, bool), 96) == [-1] * 96


def test_one_cosmic_ray_does_not_flatten_a_sparkline() -> None:
    flux = np.sin(np.arange(4000) / 300)
    flux[1234] = 1e6
    heights = np.array(spectra.sparkline(flux, np.ones(4000, bool), 96))
    assert np.std(np.delete(heights, 1234 * 96 // 4000)) > 20


def test_a_light_curve_keeps_times_and_drops_what_was_not_measured() -> None:
    time = Time([58000.123456, 58001, 58002], format="mjd")
    curve = LightCurve(time, np.array([1.0, np.nan, 3.0]), np.array([0.1, 0.1, np.nan]), "g", u.nmgy)
    sent = spectra.light_curve(curve)
    assert sent == {"band": "g", "unit": "nmgy", "magnitude": False, "mjd": [58000.12346, 58002.0], "flux": [1.0, 3.0],
                    "error": [0.1, 0.0]}
    assert spectra.light_curve(LightCurve(time, np.array([18.0, 18, 19]), None, "g", u.ABmag))["magnitude"]
    assert spectra.light_curve(LightCurve(time, np.array([18.0, 18, 19]), None, "g", u.mag))["magnitude"]


def test_real_lines_lie_under_their_markers(shared_data: Path) -> None:
    """In spectra of galaxies with emission, flux rises at the marker of Hα at the catalogue's redshift (vacuum)."""
    found = 0
    for thing in read(shared_data / "sdss_pairs"):
        z = thing.scalars.get("z")
        if z is None or not thing.spectra:
            continue
        wave, flux, _, bad = unpacked(spectra.packed(thing.spectra[0]))
        at = np.flatnonzero((np.abs(wave - first("Hα") * (1 + float(z.value))) < 45) & (bad == 0))
        if len(at) < 20:
            continue
        excess = flux[at] - np.median(flux[at])
        if excess.max() < 8 * 1.4826 * np.median(np.abs(excess)):
            continue  # no emission line here
        top = at[excess.argmax()] + np.arange(-3, 4)
        weight = np.clip(flux[top] - np.median(flux[at]), 0, None)
        centre = np.average(wave[top], weights=weight) / (1 + float(z.value))
        lines = [w for n, w, _ in spectra.LINES if n in ("Hα", "[N II]")]
        assert min(abs(centre - w) for w in lines) < 1.0
        found += 1
    assert found >= 2
