"""How the page writes things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from engine.generation import Reobserved
from engine.objects import Image, SkyObject, Spectrum
from engine.positions import parse
from explorer.words import chi_line, position_of, without_places


@pytest.mark.parametrize(("position", "name"), [
    ("10h00m24.279s +02d12m30.18s", "J100024.27+021230.1"), ("10h00m24.27s -00d12m30.1s", "J100024.27-001230.1"),
    ("23h59m59.999s -89d59m59.99s", "J235959.99-895959.9"), ("0h0m0s +90d0m0s", "J000000.00+900000.0"),
    ("12h34m00s -12d00m00s", "J123400.00-120000.0")])
def test_the_digits_of_a_name_are_cut_not_rounded(position: str, name: str) -> None:
    """As the IAU asks, so that names agree with those in catalogues; what is exact is not cut below itself."""
    found = position_of(SkyObject("a", SkyCoord(position)))
    assert found is not None and found["name"] == name
    again = parse(name)
    assert again is not None and again.separation(SkyCoord(position)).arcsec < 0.2


def test_no_hour_is_the_24th() -> None:
    found = position_of(SkyObject("a", SkyCoord(-1e-12, 2, unit="deg")))
    assert found == {"ra": 0.0, "dec": 2.0, "text": "00h00m00.00s +02°00'00.0\" (ICRS)", "name": "J000000.00+020000.0"}


def test_a_name_that_is_read_is_written_the_same() -> None:
    for i in range(7, 8_640_000, 40_003):  # hundredths of a second, tenths of an arcsecond
        name = f"J{i // 360_000:02}{i // 6000 % 60:02}{i % 6000 / 100:05.2f}"
        name += f"-{i // 360_000:02}{i // 600 % 60:02}{i % 600 / 10:04.1f}"
        found = position_of(SkyObject("a", parse(name)))
        assert found is not None and found["name"] == name


@pytest.mark.parametrize(("told", "shown"), [
    ("/data/ada love/small.sky/maps/x.npy is damaged", "small.sky/maps/x.npy is damaged"),
    ("/data/ada love/other.sky is none", "other.sky is none"), ("skies/far.sky/a.npy is cut", "far.sky/a.npy is cut"),
    ("no room in '/var/lib/omnisky/assets/omnisky-demo': full", "no room in 'omnisky-demo': full"),
    ("[Errno 2] no such file (/opt/a/b.npy)", "[Errno 2] no such file (b.npy)"),
    *(2 * (plain,) for plain in ("see https://omnisky.org/a/b", "3 erg/s/cm2, g/r/z, 1 / (2 / 3)."))])
def test_visitors_are_told_no_folders_of_the_server(told: str, shown: str) -> None:
    assert without_places(told, Path("/data/ada love/small.sky"), Path("skies/far.sky"), Path()) == shown


@pytest.mark.parametrize(("measured", "allowed"), [
    (Image(np.ones((1, 2, 2)), ("g",)), "noise, colour terms and 5 % of flux and PSF width"),
    (Spectrum(np.arange(1, 4.0), np.ones(3)), "noise, 5 % of the flux and 30 % of lines and breaks"),
    ({}, "noise and 5 % of the flux")])
@pytest.mark.parametrize(("p_value", "verdict", "how"), [(0.5, "consistent", "if"), (0.001, "inconsistent", "even if")])
def test_how_well_it_agrees_is_said_with_what_is_allowed_for(measured: Any, allowed: str, p_value: float, verdict: str,
                                                             how: str) -> None:
    found = Reobserved(measured, measured, (), np.zeros(3), 8.5, 1200, 4.31, p_value, {}, 0.05, ())
    assert chi_line(found) == f"{how} {allowed} are allowed for: 4.3 σ. Against noise alone, reduced χ² is 8.50."
    assert str(found) == (f"{verdict} with the input: reduced chi2 8.5 of 1,200 pixels counts noise alone; the verdict allows "
                          f"for {allowed}, beyond which both differ by 4.3 sigma (p = {p_value:g}; inconsistent below 0.01)")
