"""The table of modalities against the facts of AION-1's published tokenizers, and the units of the rest of the house."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest

from engine import demo_sky
from engine.io.surveys import SURVEYS
from engine.modalities import AION, MODALITIES, OURS

# token key, codec's folder, codec, tokens, vocabulary, unit (-: a pure number), as the package has them
PUBLISHED = """
tok_image          image                image    576 4375 nmgy
tok_image_hsc      image                image    576 4375 ct
tok_spectrum_desi  spectrum             spectrum 273 1024 1e-17 erg / (s cm2 Angstrom)
tok_spectrum_sdss  spectrum             spectrum 273 1024 1e-17 erg / (s cm2 Angstrom)
catalog            catalog              catalog   50 3468 -
tok_segmap         segmentation_map     field    144 1000 -
tok_flux_g         FLUX_G               log        1 1024 nmgy
tok_flux_r         FLUX_R               log        1 1024 nmgy
tok_flux_i         FLUX_I               log        1 1024 nmgy
tok_flux_z         FLUX_Z               log        1 1024 nmgy
tok_flux_w1        FLUX_W1              log        1 1024 nmgy
tok_flux_w2        FLUX_W2              log        1 1024 nmgy
tok_flux_w3        FLUX_W3              log        1 1024 nmgy
tok_flux_w4        FLUX_W4              log        1 1024 nmgy
tok_shape_r        SHAPE_R              log        1 1024 arcsec
tok_shape_e1       SHAPE_E1             cdf        1 1024 -
tok_shape_e2       SHAPE_E2             cdf        1 1024 -
tok_ebv            EBV                  cdf        1 1024 mag
tok_z              Z                    grid       1 1025 -
tok_a_g            a_g                  cdf        1 1024 mag
tok_a_r            a_r                  cdf        1 1024 mag
tok_a_i            a_i                  cdf        1 1024 mag
tok_a_z            a_z                  cdf        1 1024 mag
tok_a_y            a_y                  cdf        1 1024 mag
tok_mag_g          g_cmodel_mag         cdf        1 1024 mag(AB)
tok_mag_r          r_cmodel_mag         cdf        1 1024 mag(AB)
tok_mag_i          i_cmodel_mag         cdf        1 1024 mag(AB)
tok_mag_z          z_cmodel_mag         cdf        1 1024 mag(AB)
tok_mag_y          y_cmodel_mag         cdf        1 1024 mag(AB)
tok_shape11        i_sdssshape_shape11  cdf        1 1024 arcsec2
tok_shape22        i_sdssshape_shape22  cdf        1 1024 arcsec2
tok_shape12        i_sdssshape_shape12  cdf        1 1024 arcsec2
tok_flux_g_gaia    phot_g_mean_flux     log        1 1024 electron / s
tok_flux_bp_gaia   phot_bp_mean_flux    log        1 1024 electron / s
tok_flux_rp_gaia   phot_rp_mean_flux    log        1 1024 electron / s
tok_parallax       parallax             log        1 1024 mas
tok_ra             ra                   cdf        1 1024 deg
tok_dec            dec                  cdf        1 1024 deg
tok_xp_bp          bp_coefficients      multi     55 1024 electron / s
tok_xp_rp          rp_coefficients      multi     55 1024 electron / s
"""


def test_the_forty_rows_of_aion() -> None:
    published = [line.split(maxsplit=5) for line in PUBLISHED.strip().splitlines()]
    assert len(published) == len(AION) == 40
    for row, (key, folder, codec, tokens, vocabulary, unit) in zip(AION, published, strict=True):
        assert (row.key, row.folder, row.codec) == (key, folder, codec)
        assert (row.tokens, row.vocabulary) == (int(tokens), int(vocabulary)), key
        assert (row.unit is None) == (unit == "-"), key
        assert row.unit is None or u.Unit(row.unit) == u.Unit(unit), key


def test_budgets_add_up_and_vocabularies_are_products_of_levels() -> None:
    assert sum(m.tokens for m in AION) == 2 * 576 + 2 * 273 + 50 + 144 + 2 * 55 + 32
    assert MODALITIES["tok_image"].vocabulary == 7 * 5**4 and MODALITIES["tok_segmap"].vocabulary == 8 * 5**3


def test_ours_come_after_and_have_keys_of_their_own() -> None:
    assert [m.kind for m in OURS] == ["lightcurve"]
    assert list(MODALITIES) == [m.key for m in (*AION, *OURS)] and len(MODALITIES) == 40 + len(OURS)


def test_scalars_have_names_and_no_two_the_same() -> None:
    names = [m.scalar for m in MODALITIES.values() if m.kind in ("scalar", "coefficients")]
    assert all(names) and len(names) == len(set(names)) == 34
    assert not any(m.scalar for m in MODALITIES.values() if m.kind not in ("scalar", "coefficients"))


def test_images_are_in_the_unit_of_their_survey() -> None:
    assert u.Unit(MODALITIES["tok_image"].unit) == u.Unit(SURVEYS["legacy"].unit)
    assert MODALITIES["tok_image_hsc"].unit == "ct"  # what a count is worth, the table of surveys alone knows
    worth = u.Unit(SURVEYS["hsc"].unit).to(u.nmgy)
    assert -2.5 * np.log10(worth) + 22.5 == pytest.approx(27.0, abs=1e-6)


def test_the_simulated_sky_gives_its_scalars_in_these_units() -> None:
    by_name = {m.scalar: m for m in MODALITIES.values() if m.scalar}
    given = {name: unit for name, (_, unit) in demo_sky.PLAIN.items()} | demo_sky.WITH_ERRORS
    shared = set(given) & set(by_name)
    assert len(shared) >= 14
    for name in shared:
        assert (None if given[name] is None else u.Unit(given[name])) == (
            None if by_name[name].unit is None else u.Unit(by_name[name].unit)), name
