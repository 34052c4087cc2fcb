"""Quantisers by their definitions, and scalars with units at the object level."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from small_codecs import scalar_codec

from engine.codecs.border import in_unit
from engine.codecs.quantizers import FSQ, LFQ
from engine.objects import Scalar, SkyObject


def test_fsq_by_hand() -> None:
    fsq = FSQ((8, 5, 5, 5))
    ids = torch.arange(fsq.vocabulary)
    codes = fsq.decode(ids)
    assert codes.unique(dim=0).shape == (1000, 4) and codes.min() == -1
    assert torch.equal(codes[1] - codes[0], torch.tensor([0.25, 0, 0, 0]))  # the first channel is the fastest
    assert torch.equal(fsq.encode(torch.full((4,), 9.0)), torch.tensor(999, dtype=torch.int32))
    assert torch.equal(fsq.encode(torch.full((2, 4), -9.0)), torch.zeros(2, dtype=torch.int32))
    odd = FSQ((7, 5))
    assert torch.equal(odd.encode(odd.decode(torch.arange(35)) * 1.5), torch.arange(35).int())


def test_lfq_bits_are_big_endian() -> None:
    lfq = LFQ(3)
    assert lfq.encode(torch.tensor([0.1, -2.0, 0.0])) == 4  # zero is not positive
    ids = torch.arange(8).reshape(2, 4)
    assert torch.equal(lfq.encode(lfq.decode(ids)), ids.int())


@pytest.mark.parametrize("wrong", [torch.tensor([3, 1000]), torch.tensor([-1]), torch.tensor([0.5])])
def test_ids_out_of_range_are_named(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"id (1000|-1) of FSQ is out of range; ids go from 0 to 999|must be integers"):
        FSQ((8, 5, 5, 5)).decode(wrong)


def test_ids_round_up_and_centres_take_the_half_bin_off() -> None:
    codec = scalar_codec("Z", "grid")
    z = torch.rand(2000, generator=torch.Generator().manual_seed(1))
    ids = codec.tokenize(z)
    up, middle = codec.detokenize(ids) - z, codec.detokenize(ids, centre=True) - z
    assert up.min() >= -1e-6 and 0.4 < up.mean() * 1023 < 0.6
    assert middle.abs().max() <= 0.5 / 1023 + 1e-6 and abs(float(middle.mean())) * 1023 < 0.05
    low, high = codec.bounds()
    assert bool(((z > low[ids]) & (z <= high[ids])).all()) and high[-1] == torch.inf and low[0] == -torch.inf


def test_redshifts_beyond_the_grid() -> None:
    codec = scalar_codec("Z", "grid")
    with pytest.raises(ValueError, match=r"1 of 2 values of Z lie beyond its grid \(the first is 1.5\).*saturate=True"):
        codec.tokenize([0.5, 1.5])
    assert codec.tokenize([0.5, 1.5], saturate=True).tolist() == [512, 1023]
    assert codec.tokenize([-0.001]).tolist() == [0]  # a star coming towards us
    with pytest.raises(ValueError, match="beyond its grid"):
        codec.tokenize(-1.0)
    assert codec.decode(torch.tensor(1023)) == Scalar("z >= 1")
    assert codec.decode(torch.tensor(1023), open_bins="number") == Scalar(1.0)
    assert [type(s.value) for s in codec.decode(torch.tensor([3, 1023]))] == [float, str]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match=r"1 of 3 values of FLUX_G are not finite"):
        scalar_codec("FLUX_G", "log").tokenize([1.0, bad, 2.0])


def test_nothing_is_written_into() -> None:
    values = torch.tensor([-3.0, 0.0, 2.0])
    codec = scalar_codec("FLUX_G", "log")
    ids = codec.tokenize(values)
    assert values.tolist() == [-3.0, 0.0, 2.0] and ids[0] == ids[1]
    assert codec.tokenize(values.numpy()).tolist() == ids.tolist() and codec.tokenize(2.0).shape == ()


def test_coefficients_are_each_looked_up_in_their_own_table() -> None:
    codec = scalar_codec("bp_coefficients", "multi", 55)
    values = torch.randn(7, 55, generator=torch.Generator().manual_seed(0)) * 2
    ids = codec.tokenize(values)
    for i in (0, 20, 54):
        assert torch.equal(ids[:, i], torch.bucketize(torch.asinh(values[:, i]), codec.table.values[i, :-1]))
        torch.testing.assert_close(codec.detokenize(ids)[:, i], torch.sinh(codec.table.values[i, ids[:, i]]))
    with pytest.raises(ValueError, match=r"55 coefficients, got the shape \(7, 54\)"):
        codec.tokenize(values[:, 1:])
    with pytest.raises(ValueError, match="55 ids"):
        codec.detokenize(ids[:, 1:])


def test_objects_and_units() -> None:
    codec = scalar_codec("FLUX_G", "log")
    one = SkyObject("a", scalars={"flux_g": Scalar(2.0, unit=u.nmgy)})
    same = SkyObject("b", scalars={"flux_g": Scalar(2.0 * 3630.7805, unit=u.nJy)})
    bare = SkyObject("c", scalars={"flux_g": Scalar(2.0)})
    ids = codec.encode([one, same, bare])
    assert ids.dtype == torch.int16 and ids.shape == (3,) and ids[0] == ids[1] == ids[2] == codec.encode(one)
    decoded = codec.decode(ids)
    assert decoded[0].unit == u.nmgy and decoded[0].value == pytest.approx(float(codec.detokenize(ids)[0]))
    with pytest.raises(ValueError, match="flux_g of object d is in arcsec"):
        codec.encode(SkyObject("d", scalars={"flux_g": Scalar(2.0, unit=u.arcsec)}))
    with pytest.raises(ValueError, match="'bright', not a number"):
        codec.encode(SkyObject("d", scalars={"flux_g": Scalar("bright")}))
    with pytest.raises(KeyError, match="object e has no scalar 'flux_g'"):
        codec.encode([one, SkyObject("e", scalars={"z": Scalar(0.1)})])
    with pytest.raises(ValueError, match="no objects"):
        codec.encode([])
    with pytest.raises(TypeError, match="got float"):
        codec.encode([1.0])  # type: ignore[list-item]


@pytest.mark.parametrize("flux", [Scalar(7.2615610, unit=u.uJy), Scalar(7.2615610e-29, unit=u.Unit("erg / (s cm2 Hz)")),
                                  Scalar(21.7474250, unit=u.ABmag), Scalar(21.7474250, unit=u.mag),
                                  Scalar(726.15610, unit=u.Unit("10 nJy"))])
def test_fluxes_and_magnitudes_of_any_unit_are_the_same_light(flux: Scalar) -> None:
    assert in_unit(flux.value, flux.unit, "nmgy", "flux_g") == pytest.approx(2.0, rel=1e-7)
    assert in_unit(flux.value, flux.unit, "mag(AB)", "mag_g") == pytest.approx(21.7474250, abs=1e-7)
    a = {"flux_g": flux, "mag_g": flux}
    b = {"flux_g": Scalar(2.0), "mag_g": Scalar(21.7474250)}
    for folder, codec in (("FLUX_G", "log"), ("g_cmodel_mag", "cdf")):
        ids = scalar_codec(folder, codec).encode([SkyObject("a", scalars=a), SkyObject("b", scalars=b)])
        assert ids[0] == ids[1]


@pytest.mark.parametrize(("value", "unit", "wanted"), [
    (1.0, u.STmag, "nmgy"), (1.0, u.electron / u.s, "nmgy"), (0.1, u.ABmag, "mag"), (1.0, u.nJy, "ct"), (1.0, u.nJy, None)])
def test_what_is_not_the_same_light_is_refused(value: float, unit: u.UnitBase, wanted: str | None) -> None:
    with pytest.raises(ValueError, match=r"x is in .*, which is not a"):
        in_unit(value, unit, wanted, "x")


def test_a_flux_that_is_not_positive_has_no_magnitude() -> None:
    with pytest.raises(ValueError, match="not finite"):
        scalar_codec("g_cmodel_mag", "cdf").encode(SkyObject("a", scalars={"mag_g": Scalar(-5.0, unit=u.nJy)}))


def test_positions_magnitudes_and_coefficients() -> None:
    here = SkyObject("a", SkyCoord(1.0, -0.5, unit="deg"), scalars={
        "mag_g": Scalar(0.3, unit=u.ABmag), "mag_r": Scalar(0.3, unit=u.mag), "xp_bp": Scalar(np.linspace(-2, 2, 55))})
    assert scalar_codec("ra", "cdf").encode(here) == scalar_codec("ra", "cdf").tokenize(1.0)
    assert scalar_codec("g_cmodel_mag", "cdf").encode(here) == scalar_codec("g_cmodel_mag", "cdf").tokenize(0.3)
    assert scalar_codec("r_cmodel_mag", "cdf").encode(here) == scalar_codec("r_cmodel_mag", "cdf").tokenize(0.3)
    codec = scalar_codec("bp_coefficients", "multi", 55)
    ids = codec.encode(here)
    assert ids.shape == (55,) and codec.decode(ids).value.shape == (55,) and len(codec.decode(ids[None])) == 1
    assert codec.decode(ids).unit == u.electron / u.s
