"""Gaia XP coefficients as a spectrum, against GaiaXPy 2.1.5 and against the simulator's own stars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine import demo_sky, xp
from engine.io import read
from engine.objects import Scalar, SkyObject

# gaiaxpy.calibrate of XP_CONTINUOUS_RAW.csv with its default sampling, W / m2 / nm at samples 0, 50, 150, 200 and 342
SAMPLES = (0, 50, 150, 200, 342)
REFERENCE = {
    "5853498713190525696": (3.3061011831503994e-16, 1.890976412960263e-16, 2.4456684641880803e-15, 1.0184831540881833e-14,
                            2.5361332708105264e-14),
    "5762406957886626816": (7.09946308187746e-16, 3.299131433037501e-16, 1.1519240686269627e-16, 6.507962799685332e-17,
                            1.4530437198150374e-17),
}


def test_real_coefficients_give_gaiaxpys_spectrum(shared_data: Path) -> None:
    for thing in read(shared_data / "gaia" / "XP_CONTINUOUS_RAW.csv"):
        found = xp.spectrum(thing)
        assert found is not None and len(found.wavelength) == 343 and found.unit is not None
        assert (found.wavelength[0], found.wavelength[-1]) == (3360.0, 10200.0)
        flux = (found.flux * found.unit).to_value("W / (m2 nm)")
        np.testing.assert_allclose(flux[list(SAMPLES)], REFERENCE[thing.id], rtol=1e-4)


def test_one_arm_alone_has_its_own_range() -> None:
    arm = Scalar(np.arange(55.0))
    blue, red, both = (xp.spectrum(SkyObject(id="star", scalars=s))
                       for s in ({"xp_bp": arm}, {"xp_rp": arm}, {"xp_bp": arm, "xp_rp": arm}))
    assert blue is not None and red is not None and both is not None
    assert blue.wavelength[0] == 3360 and 6300 < blue.wavelength[-1] < red.wavelength[0] < 6500 and red.wavelength[-1] == 10200
    np.testing.assert_allclose(both.flux[: len(blue.flux)], blue.flux)
    assert xp.spectrum(SkyObject(id="galaxy")) is None
    assert xp.spectrum(SkyObject(id="short", scalars={"xp_bp": Scalar(np.ones(3))})) is None


def test_a_simulated_stars_coefficients_stand_for_its_spectrum() -> None:
    stars = [o for o in demo_sky.objects(11, 0, 60) if "xp_bp" in o.scalars]
    assert stars
    for star in stars:
        made, measured = xp.spectrum(star), next(s for s in star.spectra if s.survey == "desi")
        assert made is not None
        ratio = []  # the fibre takes the same share of the light at all wavelengths, nearly
        for low, high in ((4500, 5500), (7000, 9000)):
            inside = (measured.wavelength > low) & (measured.wavelength < high)
            if measured.mask is not None:
                inside &= ~measured.mask
            window = (made.wavelength > low) & (made.wavelength < high)
            ratio.append(made.flux[window].mean() / measured.flux[inside].mean())
        assert ratio[0] == pytest.approx(ratio[1], rel=0.1) and 1 < ratio[0] < 3
