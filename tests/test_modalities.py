"""The table of modalities against the facts of AION-1's published tokenizers."""

from __future__ import annotations

import astropy.units as u

from engine.modalities import AION, MODALITIES


def test_forty_rows_of_aion_with_their_budgets() -> None:
    assert len(AION) == 40 and len({m.key for m in AION}) == 40
    assert sum(m.tokens for m in AION) == 2 * 576 + 2 * 273 + 50 + 144 + 2 * 55 + 32
    assert MODALITIES["tok_image"].vocabulary == 7 * 5**4
    assert MODALITIES["tok_segmap"].vocabulary == 8 * 5**3
    assert MODALITIES["tok_z"].vocabulary == 1025


def test_units_are_units_and_scalars_have_names() -> None:
    for m in MODALITIES.values():
        if m.unit is not None:
            assert u.Unit(m.unit) is not None, m.key
        if m.kind in ("scalar", "coefficients"):
            assert m.scalar, m.key
    names = [m.scalar for m in MODALITIES.values() if m.scalar]
    assert len(names) == len(set(names))
