"""Light by wavelength: stars, stellar populations, quasars, emission lines, dust. NumPy, computed at first use.

Everything is on one logarithmic grid of rest wavelengths in vacuum, `LOG_STEP` apart, so that a redshift is a shift. The
stars are black bodies with line blanketing, Balmer, metal and molecular absorption whose strengths follow temperature and
metallicity; a stellar population adds up the main sequence of a Chabrier (2003) mass function and its giants. The result
has the breaks, colours and mass-to-light ratios of real populations to some tens of per cent: enough to train and test
on, not to measure ages with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LIGHT = 299792.458  # km/s
LOG_START, LOG_STEP, LOG_COUNT = 2.944, 1e-4, 11200  # 879 to 11,586 Angstrom
FEH = (-1.0, -0.3, 0.3)  # [Fe/H] of the templates
AGES = np.geomspace(0.004, 13.0, 12)  # Gyr of the populations
TEMPERATURES = np.geomspace(2700.0, 38000.0, 40)  # K of the stars
SUN_TEMPERATURE, STEFAN = 5772.0, 5.670374e-5  # K; erg/s/cm2/K4
BALMER = ((6564.61, 1.0), (4862.69, 1.05), (4341.69, 1.0), (4102.89, 0.95), (3971.20, 0.85), (3890.15, 0.75),
          (3836.47, 0.62), (3798.98, 0.5), (3771.70, 0.4), (3751.22, 0.3), (3735.43, 0.22))  # vacuum, relative strength
# Metal lines (vacuum Angstrom, equivalent width of the Sun in Angstrom, width in Angstrom); features of Worthey et al. 1994.
METALS = ((3934.78, 9.0, 9.0), (3969.59, 7.0, 8.0), (4227.9, 1.2, 2.5), (4305.6, 5.0, 12.0), (4384.8, 2.2, 6.0),
          (4532.0, 2.0, 9.0), (4669.0, 2.5, 14.0), (5016.0, 2.5, 12.0), (5168.8, 1.7, 3.0), (5174.1, 2.0, 3.0),
          (5185.0, 2.3, 3.5), (5271.2, 2.2, 6.0), (5336.9, 1.8, 5.0), (5407.0, 1.2, 5.0), (5710.0, 0.8, 6.0),
          (5783.0, 0.6, 5.0), (5891.6, 1.0, 2.0), (5897.6, 0.8, 2.0), (6497.0, 0.9, 5.0), (8500.4, 1.4, 3.0),
          (8544.4, 3.4, 4.0), (8664.5, 2.8, 4.0))
# Heads of titanium oxide bands: they begin sharply and fade to the red (vacuum Angstrom, depth at 3000 K, length in Angstrom).
TITANIUM_OXIDE = ((4762.0, 0.45, 90.0), (4956.0, 0.5, 90.0), (5169.0, 0.5, 120.0), (5450.0, 0.45, 110.0), (5850.0, 0.5, 120.0),
                  (6160.0, 0.55, 140.0), (6652.0, 0.55, 120.0), (7056.0, 0.65, 180.0), (7591.0, 0.5, 160.0),
                  (8434.0, 0.45, 140.0))
# Nebular lines (vacuum Angstrom): the recombination lines relative to H beta (Osterbrock & Ferland 2006, case B, 10^4 K).
NEBULAR = (("[OII]", 3727.09), ("[OII]", 3729.88), ("[NeIII]", 3869.86), ("Hdelta", 4102.89), ("Hgamma", 4341.69),
           ("Hbeta", 4862.69), ("[OIII]", 4960.30), ("[OIII]", 5008.24), ("HeI", 5877.25), ("[OI]", 6302.05),
           ("[NII]", 6549.86), ("Halpha", 6564.61), ("[NII]", 6585.27), ("[SII]", 6718.29), ("[SII]", 6732.67),
           ("[SIII]", 9071.1), ("[SIII]", 9533.2))
# Quasar lines (vacuum Angstrom, equivalent width in Angstrom, FWHM in km/s): Vanden Berk et al. 2001, AJ 122, 549, table 2.
QUASAR = ((1033.0, 9.0, 6000.0), (1215.7, 70.0, 5000.0), (1240.1, 15.0, 5000.0), (1399.8, 8.0, 5500.0), (1549.5, 24.0, 5000.0),
          (1640.4, 5.0, 5000.0), (1908.7, 21.0, 6500.0), (2800.3, 32.0, 4000.0), (3729.0, 1.6, 700.0), (4102.9, 5.0, 4500.0),
          (4341.7, 13.0, 4500.0), (4862.7, 46.0, 4200.0), (4960.3, 5.0, 700.0), (5008.2, 15.0, 700.0),
          (6564.6, 190.0, 4000.0))


@lru_cache(maxsize=1)
def wavelength() -> Array:
    """(LOG_COUNT,) rest Angstrom in vacuum."""
    return 10 ** (LOG_START + LOG_STEP * np.arange(LOG_COUNT))


def planck(temperature: Array) -> Array:
    """Flux a square centimetre of a black body, erg/s/cm2/A, (T, LOG_COUNT) for temperatures (T,) in K."""
    x = 1.438777e8 / (wavelength() * temperature[:, None])
    return 3.741772e27 * wavelength() ** -5.0 / np.expm1(np.minimum(x, 300.0)) * 1e-8 * 1e16 / 1e3


def _lines(lines: Any, strength: Array) -> Array:
    """Optical depth (T, LOG_COUNT) of Gaussian lines (centre, equivalent width, sigma) times strengths (T, number)."""
    lam = wavelength()
    depth = np.zeros((len(strength), LOG_COUNT))
    for i, (centre, width, sigma) in enumerate(lines):
        near = slice(*np.searchsorted(lam, (centre - 6 * sigma, centre + 6 * sigma)))
        profile = np.exp(-0.5 * ((lam[near] - centre) / sigma) ** 2) * width / (sigma * 2.5066)
        depth[:, near] += strength[:, i : i + 1] * profile
    return depth


def stars(feh: float) -> Array:
    """Surface flux (40, LOG_COUNT) of the stars of `TEMPERATURES`, erg/s/cm2/A. Their bolometric flux is sigma T^4."""
    t, lam = TEMPERATURES, wavelength()
    metal = 10 ** (0.35 * feh)
    cool = 1 / (1 + (t / 6600.0) ** 9)  # neutral metals vanish in hot stars
    hot = np.exp(-0.5 * (np.log(t / 9300.0) / 0.28) ** 2)  # the Balmer lines peak in A stars
    ones = np.ones((len(t), 1))
    metals = _lines(METALS, (metal * (0.12 + 1.5 * cool * (5772.0 / t) ** 1.2))[:, None] * np.ones(len(METALS)))
    forest = np.random.default_rng(4).uniform(np.log(3300.0), np.log(6800.0), 500)
    weak = [(float(np.exp(x)), 0.35 * (4600.0 / np.exp(x)) ** 2.5, 1.3) for x in forest]
    depth = metals + _lines(weak, (metal * cool * (5772.0 / t) ** 1.5)[:, None] * np.ones(len(weak)))
    depth += _lines([(c, 16.0 * s, 7.0 + 6.0 * s) for c, s in BALMER], hot[:, None] * np.ones(len(BALMER)))
    jump = 0.75 * hot[:, None] / (1 + np.exp((lam - 3690.0) / 14.0)) * (lam / 3646.0) ** 2
    blanket = metal * cool[:, None] * (0.42 * ones / (1 + np.exp((lam - 3990.0) / 12.0)) + 0.22 * (4200.0 / lam) ** 4)
    oxide = np.zeros_like(depth)
    for head, strong, length in TITANIUM_OXIDE:
        fade = np.clip((lam - head) / length, 0.0, None)
        oxide += strong * 1.6 * np.exp(-fade) * (lam >= head)
    molecules = oxide * (metal / (1 + (t / 3500.0) ** 14))[:, None]
    flux = planck(t) * np.exp(-depth - jump - np.minimum(blanket, 4.0) - molecules)
    return flux * (STEFAN * t**4 / np.trapezoid(planck(t), lam, axis=1))[:, None]


def main_sequence(mass: Array) -> tuple[Array, Array]:
    """Luminosity (Sun = 1) and temperature (K) of stars of a mass (Sun = 1); broken power laws (Salaris & Cassisi 2005)."""
    bright = np.where(mass < 0.43, 0.23 * mass**2.3, np.where(mass < 2, mass**4.0, np.minimum(1.4 * mass**3.5, 32000 * mass)))
    radius = np.where(mass < 1, mass**0.85, mass**0.57)
    return bright, SUN_TEMPERATURE * (bright / radius**2) ** 0.25


def population(age: float, feh: float, library: Array) -> Array:
    """Luminosity (LOG_COUNT,) in Lsun/A a solar mass formed, of stars born together `age` Gyr ago."""
    mass = np.geomspace(0.1, 100.0, 700)
    number = np.where(mass < 1, 0.158 * np.exp(-0.5 * (np.log10(mass / 0.079) / 0.69) ** 2), 0.0443 * mass**-1.3) / mass
    number = number * np.gradient(mass)
    number /= (number * mass).sum()
    bright, temperature = main_sequence(mass)
    lifetime = 10.0 * mass / bright
    on = lifetime > age
    light = number * bright * np.clip(1.0 + 0.6 * np.minimum(age / lifetime, 1.0), 1.0, 1.6) * on
    temperature = temperature * 10 ** (-0.035 * feh) * (1 - 0.04 * np.minimum(age / lifetime, 1.0))
    # Giants: their share of all light grows with age, and they cool with it (Maraston 2005, fig. 3).
    share = np.interp(np.log10(age), [-2.4, -1.5, -0.5, 0.0, 1.1], [0.05, 0.14, 0.3, 0.45, 0.58])
    giant = light.sum() * share / (1 - share)
    cold = np.interp(np.log10(age), [-2.4, -1.0, 0.0, 1.1], [3900.0, 4300.0, 4500.0, 4250.0]) - 350 * feh
    sets = [(temperature[on], light[on]), (np.array([cold + 450, cold, cold - 550]), giant * np.array([0.5, 0.33, 0.17]))]
    weight = np.zeros(len(TEMPERATURES))
    for t, bolometric in sets:
        place = np.interp(np.log(t), np.log(TEMPERATURES), np.arange(len(TEMPERATURES)))
        low = np.minimum(place.astype(int), len(TEMPERATURES) - 2)
        np.add.at(weight, low, bolometric * (1 - (place - low)))
        np.add.at(weight, low + 1, bolometric * (place - low))
    return (weight / (STEFAN * TEMPERATURES**4)) @ library


@dataclass(frozen=True)
class Templates:
    """bank (K, LOG_COUNT) float32: populations first (age by age, the three metallicities of each), in Lsun/A a solar mass;
    then stars (temperature by temperature), with a mean of 1 near 6200 A."""

    bank: Array
    populations: int


@lru_cache(maxsize=1)
def templates() -> Templates:
    """All spectra that galaxies and stars are made of."""
    libraries = [stars(feh) for feh in FEH]
    populations = [population(age, feh, library) for age in AGES for feh, library in zip(FEH, libraries, strict=True)]
    red = slice(*np.searchsorted(wavelength(), (6000.0, 6400.0)))
    single = np.stack(libraries, axis=1).reshape(-1, LOG_COUNT)
    single = single / single[:, red].mean(1, keepdims=True)
    return Templates(np.concatenate([np.stack(populations), single]).astype(np.float32), len(populations))


@lru_cache(maxsize=1)
def quasar_lines() -> Array:
    """(lines, LOG_COUNT) float32 profiles of `QUASAR`, each with its equivalent width over a continuum of 1."""
    lam = wavelength()
    out = np.zeros((len(QUASAR), LOG_COUNT))
    for i, (centre, width, fwhm) in enumerate(QUASAR):
        sigma = centre * fwhm / 2.3548 / LIGHT
        out[i] = width / (sigma * 2.5066) * np.exp(-0.5 * ((lam - centre) / sigma) ** 2)
    return out.astype(np.float32)


def calzetti(lam: Any) -> Any:
    """A(lambda) / A(V) of starburst galaxies (Calzetti et al. 2000, eq. 4). lam: Angstrom, NumPy array or tensor."""
    x = 1e4 / lam
    blue = 2.659 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3) + 4.05
    red = 2.659 * (-1.857 + 1.040 * x) + 4.05
    return (blue * (lam < 6300.0) + red * (lam >= 6300.0)) / 4.05


def galactic(lam: Any) -> Any:
    """A(lambda) / A(V) of the Milky Way's dust, R_V = 3.1, 3030 to 11,500 A (Cardelli, Clayton & Mathis 1989, eq. 3;
    coefficients of O'Donnell 1994)."""
    y = 1e4 / lam - 1.82
    a, b = (sum(c * y**n for n, c in enumerate(series)) for series in (
        (1.0, 0.104, -0.609, 0.701, 1.137, -1.718, -0.827, 1.647, -0.505),
        (0.0, 1.952, 2.908, -3.989, -7.985, 11.102, 5.491, -10.805, 3.347)))
    return a + b / 3.1
