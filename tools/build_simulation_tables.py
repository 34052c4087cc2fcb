"""Compute the simulator's tables with the field's libraries and write them as one small file.

Run once by hand (needs the `dev` extra): `.venv/bin/python tools/build_simulation_tables.py`. It writes
engine/simulate/tables.npz: filter curves on the simulator's grid (speclite), Planck 2018 distances (astropy), the
Gaussians that stand for a Moffat PSF, and the matrices that turn a spectrum into Gaia XP coefficients (GaiaXPy).
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import speclite.filters
from astropy.cosmology import Planck18
from gaiaxpy.calibrator.external_instrument_model import ExternalInstrumentModel
from gaiaxpy.config.paths import config_path
from gaiaxpy.spectrum.sampled_basis_functions import SampledBasisFunctions
from scipy.optimize import least_squares

OUT = Path(__file__).resolve().parents[1] / "engine" / "simulate" / "tables.npz"
FILTERS = [*(f"decamDR1-{b}" for b in "griz"), *(f"hsc2017-{b}" for b in "grizy")]
XP_MODELS = {"bp": "bpC03_v375wi", "rp": "rpC03_v142r"}
XP_RANGE = {"bp": (348.0, 680.0), "rp": (620.0, 1050.0)}  # nm: where each arm has light and our spectra reach


def filters() -> dict[str, np.ndarray]:
    """Transmission of each band every 5 A, as fractions (n_bands, n)."""
    wavelength = np.arange(3470.0, 11271.0, 5.0)
    curves = []
    for name in FILTERS:
        curve = speclite.filters.load_filter(name)
        curves.append(np.interp(wavelength, curve.wavelength, curve.response, left=0.0, right=0.0))
    return {"filter_wavelength": wavelength.astype(np.float32), "filter_response": np.asarray(curves, np.float32)}


def cosmology() -> dict[str, np.ndarray]:
    """log10 of the luminosity distance in cm and of kpc per arcsec, on a grid in ln(1 + z)."""
    ln1z = np.linspace(0.0005, np.log(4.5), 800)
    z = np.expm1(ln1z)
    distance = Planck18.luminosity_distance(z).to_value("cm")
    scale = (Planck18.kpc_proper_per_arcmin(z).to_value("kpc / arcmin")) / 60
    return {"cosmo_ln1z": ln1z, "cosmo_log_dl": np.log10(distance), "cosmo_log_kpc": np.log10(scale)}


def moffat_gaussians(beta: float, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Weights (sum 1) and sigmas in FWHM of the Gaussians nearest to a Moffat profile of FWHM 1 in the image plane."""
    alpha = 0.5 / np.sqrt(2 ** (1 / beta) - 1)
    r = np.linspace(0.0, 4.0, 801)
    target = (beta - 1) / (np.pi * alpha**2) * (1 + (r / alpha) ** 2) ** -beta

    def profile(parameters: np.ndarray) -> np.ndarray:
        weight = np.exp(parameters[:count])
        variance = np.exp(2 * parameters[count:])
        weight = weight / weight.sum()
        return (weight / (2 * np.pi * variance) * np.exp(-0.5 * r[:, None] ** 2 / variance)).sum(1)

    # r weighs each ring by its area, so that flux is as good as the peak.
    start = np.log(np.r_[np.full(count, 1 / count), np.geomspace(0.33, 1.3, count)])
    fit = least_squares(lambda p: (profile(p) - target) * (0.08 + r**0.8), start, xtol=1e-14, ftol=1e-14)
    weight = np.exp(fit.x[:count])
    peak = np.abs(profile(fit.x) - target).max() / target.max()
    print(f"Moffat beta {beta}: {count} Gaussians, worst difference {100 * peak:.2f} % of the peak")
    return weight / weight.sum(), np.exp(fit.x[count:])


def xp_matrices() -> dict[str, np.ndarray]:
    """Matrices from a spectrum in 1e-17 erg/s/cm2/A, every 2 nm, to 55 coefficients in Gaia's own basis of each arm.

    GaiaXPy's external calibration says flux = design matrix @ coefficients (Montegriffo et al. 2023, A&A 674, A3). We
    invert it by ridge regression: the spectrum alone does not fix the highest coefficients, and the ridge keeps them small.
    """
    out = {}
    for arm, model in XP_MODELS.items():
        low, high = XP_RANGE[arm]
        sampling = np.arange(low, high + 0.1, 2.0)
        files = [str(Path(config_path) / f"{model}_{what}.csv") for what in ("dispersion", "response", "bases")]
        with contextlib.redirect_stdout(io.StringIO()):
            instrument = ExternalInstrumentModel.from_config_csv(*files)
            basis = SampledBasisFunctions.from_external_instrument_model(sampling, np.ones(len(sampling)), instrument)
        design = np.asarray(basis.design_matrix, dtype=float)  # (55, n) in W / m2 / nm a coefficient
        design = (design if design.shape[0] == len(sampling) else design.T) / 1e-19
        # Coefficients fall steeply with their order; weighing the ridge by order does the same.
        order = 1.0 + np.arange(design.shape[1])
        scaled = design / order
        gram = scaled.T @ scaled
        ridge = 1e-7 * np.trace(gram) / len(gram) * np.eye(len(gram))
        matrix = np.linalg.solve(gram + ridge, scaled.T) / order[:, None]
        rebuilt = design @ matrix
        bump = 1 + 0.3 * np.sin(sampling / 25.0)
        print(f"XP {arm}: design {design.shape}, rebuilt to {np.abs(rebuilt @ bump - bump).max():.2e}")
        out[f"xp_{arm}_wavelength"] = sampling * 10
        out[f"xp_{arm}_matrix"] = matrix.astype(np.float32)
    return out


def main() -> None:
    tables = filters() | cosmology() | xp_matrices()
    for survey, beta in (("legacy", 3.0), ("hsc", 3.5)):
        tables[f"psf_{survey}_weight"], tables[f"psf_{survey}_sigma"] = moffat_gaussians(beta)
        tables[f"psf_{survey}_beta"] = np.float64(beta)
    np.savez_compressed(OUT, **tables)
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} kB, {len(tables)} arrays")


if __name__ == "__main__":
    main()
