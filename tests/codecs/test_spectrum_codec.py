"""The spectrum codec on arrays and on objects: grids, masks, units, and what the reference gets wrong."""

from __future__ import annotations

from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
import torch
from small_codecs import spectrum_codec

from engine.codecs import CodecWarning, SpectrumCodec, fast
from engine.codecs.spectrum import bridge, interpolate
from engine.io.surveys import SPECTRUM_UNIT
from engine.objects import SkyObject, Spectrum

DESI = 3600 + 0.8 * torch.arange(7781)
SDSS = 10 ** (3.58 + 1e-4 * torch.arange(3800, dtype=torch.float64))


@pytest.fixture(scope="module")
def codec() -> SpectrumCodec:
    return spectrum_codec()


def measured(wavelength: torch.Tensor = DESI, count: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, wavelength.shape[-1])
    flux = 5 + torch.sin(wavelength / 90).float() + 0.5 * torch.randn(shape, generator=generator)
    return flux, torch.full(shape, 4.0), torch.rand(shape, generator=generator) < 0.02


def sky(count: int = 2, survey: str = "desi", wavelength: torch.Tensor = DESI, **more: object) -> list[SkyObject]:
    flux, ivar, mask = (x.numpy() for x in measured(wavelength, count))
    options = {"survey": survey, "unit": SPECTRUM_UNIT} | more
    return [SkyObject(f"{survey}-{i}", spectra=(Spectrum(wavelength.numpy(), flux[i], ivar[i], mask[i], **options),))  # type: ignore[arg-type]
            for i in range(count)]


def test_shapes_and_batches(codec: SpectrumCodec) -> None:
    flux, ivar, mask = measured(count=3)
    tokens = codec.tokenize(flux, ivar, mask, DESI)
    assert tokens.shape == (3, 273) and tokens.dtype == torch.int32
    assert torch.equal(tokens[1:], codec.tokenize(flux[1:], ivar[1:], mask[1:], DESI.repeat(2, 1)))
    assert codec.tokenize(flux[:0], ivar[:0], mask[:0], DESI).shape == (0, 273)
    drawn, bad = codec.detokenize(tokens)
    assert drawn.shape == bad.shape == (3, 8704) and bad.dtype == torch.bool
    assert codec.detokenize(tokens, SDSS)[0].shape == (3, 3800) and codec.detokenize(tokens[:0])[0].shape == (0, 8704)


def test_the_mask_counts_only_when_asked_for(codec: SpectrumCodec) -> None:
    flux, ivar, mask = measured()
    spoilt = torch.where(mask, 500.0, flux)
    level = codec.tokenize(flux, ivar, mask, DESI)
    plain = codec.tokenize(spoilt, ivar, mask, DESI)
    assert torch.equal(plain[:, 0], level[:, 0]) and not torch.equal(plain, level)
    masked = codec.tokenize(spoilt, ivar, mask, DESI, use_mask=True)
    assert torch.equal(masked, codec.tokenize(torch.where(mask, torch.nan, flux), ivar, mask, DESI, use_mask=True))
    assert (masked == level).float().mean() > (plain == level).float().mean()


def test_bridging() -> None:
    y = torch.tensor([[9.0, 1.0, 9.0, 9.0, 4.0, 9.0], [9.0] * 6])
    bad = torch.tensor([[True, False, True, True, False, True], [True] * 6])
    x = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    assert bridge(y, bad, x).tolist() == [[1.0, 1.0, 2.0, 3.0, 4.0, 4.0], [0.0] * 6]


def test_interpolation_is_numpy_s() -> None:
    generator = np.random.default_rng(0)
    x, new = np.sort(generator.uniform(0, 10, 50)), np.linspace(-1, 11, 300)
    y = generator.normal(size=(2, 1, 50))
    expected = np.stack([np.interp(new, x, row[0], left=0, right=0) for row in y])
    for given in (torch.from_numpy(x), torch.from_numpy(x).repeat(2, 1)):
        for wanted in (torch.from_numpy(new), torch.from_numpy(new).repeat(2, 1)):
            np.testing.assert_allclose(interpolate(given, torch.from_numpy(y), wanted)[:, 0], expected, atol=1e-12)


def test_beyond_the_grid_nothing_is_decoded(codec: SpectrumCodec) -> None:
    tokens = codec.tokenize(*measured(), DESI)
    at = torch.tensor([3000.0, 3499.0, 3500.0, 5000.0, 10462.4, 10463.0])
    flux, bad = codec.detokenize(tokens, at)
    assert bad[:, [0, 1, 5]].all() and bool(torch.isfinite(flux).all())
    single = spectrum_codec(decoder_widths=(16, 8, 8, 1))  # without a channel for it, nothing else is bad
    flux, bad = single.detokenize(tokens, at)
    assert bad.tolist() == [[True, True, False, False, False, True]] * 2
    assert not bool(single.detokenize(tokens)[1].any())


@pytest.mark.parametrize(("wavelength", "message"), [
    (DESI.flip(0), "must increase; from pixel 0 to 1"),
    (DESI[:-1], r"wavelength must be \(n,\) or \(B, n\) beside flux \(2, 7781\), got \(7780,\)"),
    (DESI + 20000, "from 23600.0 to 29824.0 Angstrom do not overlap with the codec's, 3500.0 to 10462.4"),
    (DESI * torch.nan, "must be finite"),
])
def test_wavelengths_that_cannot_be(codec: SpectrumCodec, wavelength: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.tokenize(*measured(), wavelength)


def test_shapes_and_tokens_that_cannot_be(codec: SpectrumCodec) -> None:
    flux, ivar, mask = measured()
    with pytest.raises(ValueError, match="flux, ivar and mask must be"):
        codec.tokenize(flux, ivar, mask.float(), DESI)
    with pytest.raises(ValueError, match="flux, ivar and mask must be"):
        codec.tokenize(flux, ivar[:1], mask, DESI)
    with pytest.raises(ValueError, match=r"tokens must be \(B, 273\)"):
        codec.detokenize(torch.zeros(1, 272).long())
    for at in (0, 5):
        tokens = torch.zeros(1, 273).long()
        tokens[0, at] = 1024
        with pytest.raises(ValueError, match=r"id 1024 of .* is out of range; ids go from 0 to 1023"):
            codec.detokenize(tokens)


def test_objects_there_and_back(codec: SpectrumCodec) -> None:
    objects = [*sky(2), *sky(1, "sdss", SDSS), *sky(1)]
    tokens = codec.encode(objects)
    assert tokens.dtype == torch.int16 and tokens.shape == (4, 273) and torch.equal(tokens[2], codec.encode(objects[2]))
    flux, ivar, mask = measured()
    assert torch.equal(tokens[:2].int(), codec.tokenize(flux, ivar, mask, DESI))
    spectra = codec.decode(tokens)
    assert len(spectra) == 4 and spectra[0].unit == SPECTRUM_UNIT and spectra[0].ivar is None and len(spectra[0].flux) == 8704
    one = codec.decode(tokens[2], wavelength=SDSS)
    np.testing.assert_allclose(one.wavelength, SDSS)
    with pytest.warns(CodecWarning, match="no inverse variance"):
        assert codec.encode([SkyObject(str(i), spectra=(s,)) for i, s in enumerate(spectra)]).shape == (4, 273)


def test_units_of_objects(codec: SpectrumCodec) -> None:
    (one,) = sky(1)
    spectrum = one.spectra[0]
    cgs = replace(spectrum, flux=spectrum.flux.astype(float) * 1e-17, ivar=spectrum.ivar.astype(float) * 1e34,
                  unit=u.erg / u.s / u.cm**2 / u.AA)
    assert (codec.encode(SkyObject("a", spectra=(cgs,))) == codec.encode(one)).float().mean() > 0.99
    for wrong in (replace(spectrum, unit=u.ct), replace(spectrum, unit=None), replace(spectrum, calibrated=False)):
        with pytest.raises(ValueError, match=r"spectrum of object a .* must be a flux density"):
            codec.encode(SkyObject("a", spectra=(wrong,)))


def test_objects_that_do_not_fit(codec: SpectrumCodec) -> None:
    (one,) = sky(1)
    spectrum = one.spectra[0]
    with pytest.raises(KeyError, match="object a has no spectrum; it has none"):
        codec.encode([one, SkyObject("a")])
    with pytest.raises(KeyError, match="object desi-0 has no spectrum of sdss; it has desi"):
        codec.encode(one, survey="sdss")
    with pytest.raises(ValueError, match="spectrum of object a has no good pixel"):
        codec.encode(SkyObject("a", spectra=(replace(spectrum, mask=np.ones(7781, bool)),)))
    with pytest.raises(ValueError, match="do not overlap"):
        codec.encode(SkyObject("a", spectra=(replace(spectrum, wavelength=spectrum.wavelength * 10),)))


def test_a_fast_copy(codec: SpectrumCodec) -> None:
    quick, given = fast(codec), measured()
    tokens = codec.tokenize(*given, DESI)
    assert torch.equal(quick.tokenize(*given, DESI)[:, 0], tokens[:, 0])
    assert (quick.tokenize(*given, DESI) == tokens).float().mean() > 0.7
    exact, drawn = codec.detokenize(tokens)[0], quick.detokenize(tokens)[0]
    assert (drawn - exact).std() < 0.1 * exact.std()
