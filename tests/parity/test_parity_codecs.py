"""The codecs against AION-1's own, polymathic-aion 0.0.2: saved by it with random weights, loaded by us, equal tokens.

A token may differ only where the reference's latent lies within 1e-4 of the boundary between two; these are counted, printed.
Nothing of the reference is imported by the product; without it these tests are skipped.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytest.importorskip("aion", reason="the reference (pip install polymathic-aion==0.0.2) is not installed")

from aion import modalities as theirs
from aion.codecs import catalog, image, scalar, scalar_field, spectrum

from engine.checkpoints import load_codec

NEAR = 1e-4
LEGACY = ["DES-G", "DES-R", "DES-I", "DES-Z"]
HSC = ["HSC-G", "HSC-R", "HSC-I", "HSC-Z", "HSC-Y"]
DESI = 3600 + 0.8 * torch.arange(7781)
SDSS = 10 ** (3.58 + 1e-4 * torch.arange(3800))


def shaken(module: nn.Module, seed: int = 1, gain: float = 1.2) -> Any:
    """Every parameter and running statistic random, so that no branch is idle: fresh gates are closed, fresh shifts zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            inputs = p[0].numel()
            if p.ndim > 1 and inputs > 1 and "grn" not in name:
                p.normal_(0, (gain / inputs) ** 0.5, generator=generator)
            else:
                p.normal_(1.0 if name.endswith("weight") and p.ndim == 1 else 0.0, 0.3, generator=generator)
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d):
                assert m.running_mean is not None and m.running_var is not None
                m.running_mean.normal_(0, 0.2, generator=generator)
                m.running_var.uniform_(0.5, 2, generator=generator)
    return module.eval()


def saved(codec: Any, modality: Any, folder: Path) -> Path:
    codec.save_pretrained(str(folder), modality=modality)
    return folder / "codecs" / modality.name


def spread(projection: Any, z: Tensor) -> None:
    """Scale the last layer before rounding so that its latents z (B, D, T) fill the levels: many tokens, not few."""
    with torch.no_grad():
        mean, scatter = z.mean((0, 2)), z.std((0, 2)).clamp_min(0.03)
        projection.weight /= scatter.view(-1, *[1] * (projection.weight.ndim - 1))
        projection.bias.sub_(mean).div_(scatter)


def compare_tokens(ours: Tensor, reference: Tensor, margin: Tensor) -> None:
    """margin: how far the reference's latents are from the next boundary, of the shape of the tokens."""
    assert ours.shape == reference.shape
    different = ours.long() != reference.long()
    near = int((margin < NEAR).sum())
    print(f"parity: {int(different.sum())} of {different.numel()} tokens differ, {near} are near a boundary")
    assert bool((margin[different] < NEAR).all()), f"the farthest token that differs is {margin[different].max()} away"


def fsq_margin(codec: Any, z: Tensor) -> Tensor:
    """z: (B, D, T) of the reference."""
    bounded = codec.quantizer._bound(z.moveaxis(1, -1))
    return ((bounded - bounded.floor()) - 0.5).abs().amin(-1)


# -- images ---------------------------------------------------------------------------------------------------------

IMAGE_SIZES = [
    {"quantizer_levels": [7, 5, 5, 5, 5], "hidden_dims": 32, "multisurvey_projection_dims": 11, "num_consecutive": 2},
    {"quantizer_levels": [5, 5, 7, 5, 5], "hidden_dims": 64, "num_consecutive": 1, "range_compression_factor": 0.05},
    {"quantizer_levels": [8, 6, 4], "hidden_dims": 48, "multisurvey_projection_dims": 7, "n_compressions": 1,
     "embedding_dim": 3, "num_consecutive": 1, "mult_factor": 4.0},
    {"quantizer_levels": [3, 4], "hidden_dims": 64, "multisurvey_projection_dims": 9, "n_compressions": 3, "embedding_dim": 2,
     "num_consecutive": 1},
]


def reference_image(sizes: dict[str, Any], seed: int = 1) -> Any:
    codec = shaken(image.ImageCodec(**sizes), seed)
    with torch.no_grad():  # a decoder whose values sinh does not carry off
        codec.subsample_out.weight *= 0.03
        codec.subsample_out.bias *= 0.03
        flux = torch.randn(1, 4, 96, 96, generator=torch.Generator().manual_seed(9))
        spread(codec.pre_quant_proj, codec._encode(theirs.Image(flux=flux, bands=LEGACY)))
    return codec


@pytest.fixture(scope="module", params=range(len(IMAGE_SIZES)))
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    reference = reference_image(IMAGE_SIZES[request.param], request.param)
    return reference, load_codec(saved(reference, theirs.LegacySurveyImage, tmp_path_factory.mktemp("image")))


def compare_images(reference: Any, ours: Any, flux: Tensor, bands: list[str]) -> Tensor:
    """Latents, tokens and decoded pixels; returns the tokens."""
    before = flux.clone()
    with torch.no_grad():
        z = reference._encode(theirs.Image(flux=flux.clone(), bands=bands))
        tokens = reference.encode(theirs.Image(flux=flux.clone(), bands=bands))
        torch.testing.assert_close(ours.latents(flux, bands).flatten(1, 2).transpose(1, 2), z, rtol=1e-4, atol=1e-4)
        compare_tokens(ours.tokenize(flux, bands), tokens, fsq_margin(reference, z))
        code = reference.quantizer.decode(tokens).unflatten(2, (ours.config.side, -1))
        every = torch.ones(len(tokens), 9, dtype=torch.bool)
        raw = reference.subsample_out(reference.decoder(reference.post_quant_proj(code)), every)
        expected = reference.image_padder.backward(reference._reverse_range_compress(raw), bands)
        if bands[0].startswith("DES"):
            torch.testing.assert_close(expected, reference.decode(tokens, bands=bands).flux)
        else:  # the reference fails there
            expected = expected * 10 ** ((27.0 - 22.5) / 2.5)
        torch.testing.assert_close(ours.detokenize(tokens, bands), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(flux, before)
    return tokens


@pytest.mark.parametrize("bands", [LEGACY, ["DES-Z", "DES-G"], ["DES-I"], HSC, ["HSC-Y", "HSC-R", "HSC-G"]], ids="-".join)
def test_images_of_any_bands(images: tuple[Any, Any], bands: list[str]) -> None:
    generator = torch.Generator().manual_seed(len(bands))
    scale = 63.0 if bands[0].startswith("HSC") else 1.0
    faint = torch.randn(2, len(bands), 96, 96, generator=generator) * 0.05
    bright = torch.randn(1, len(bands), 96, 96, generator=generator) * 20  # beyond what is clipped
    tokens = compare_images(*images, torch.cat([faint, bright]) * scale, bands)
    assert tokens.shape == (3, images[1].config.tokens) and len(tokens.unique()) > 5


@pytest.mark.parametrize("size", [(97, 96), (101, 160), (152, 131)])
def test_images_of_any_size(images: tuple[Any, Any], size: tuple[int, int]) -> None:
    flux = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(size[0]))
    top, left = ((n - 96) // 2 for n in size)
    tokens = compare_images(*images, flux, LEGACY)
    assert torch.equal(tokens, compare_images(*images, flux[..., top : top + 96, left : left + 96], LEGACY))


def test_images_that_do_not_use_the_memory_of_a_tensor(images: tuple[Any, Any]) -> None:
    flux = torch.randn(1, 100, 120, 4, generator=torch.Generator().manual_seed(5)).permute(0, 3, 1, 2)
    assert torch.equal(compare_images(*images, flux, LEGACY), compare_images(*images, flux.contiguous(), LEGACY))


def test_infinite_pixels_are_clipped_as_there(images: tuple[Any, Any]) -> None:
    flux = torch.randn(1, 4, 96, 96, generator=torch.Generator().manual_seed(6))
    flux[0, 0, 3, 4], flux[0, 2, 50, 50] = torch.inf, -torch.inf
    assert torch.equal(compare_images(*images, flux, LEGACY), compare_images(*images, flux.clamp(-1e6, 1e6), LEGACY))


def test_all_nine_bands_at_once(images: tuple[Any, Any]) -> None:
    reference, ours = images
    tokens = torch.randint(0, ours.vocabulary, (1, ours.config.tokens))
    with torch.no_grad():
        expected = torch.cat([ours.detokenize(tokens, HSC), reference.decode(tokens, bands=LEGACY).flux], 1)
    torch.testing.assert_close(ours.detokenize(tokens, HSC + LEGACY), expected, rtol=1e-4, atol=1e-4)


def test_image_codec_of_the_published_size(tmp_path: Path) -> None:
    reference = reference_image({"quantizer_levels": [7, 5, 5, 5, 5]})
    ours = load_codec(saved(reference, theirs.HSCImage, tmp_path))
    assert ours.vocabulary == 4375 and sum(p.numel() for p in ours.parameters()) == 70_058_592
    tokens = compare_images(reference, ours, torch.randn(1, 4, 96, 96, generator=torch.Generator().manual_seed(3)), LEGACY)
    assert tokens.shape == (1, 576) and len(tokens.unique()) > 50


# -- spectra --------------------------------------------------------------------------------------------------------

SPECTRUM = {"encoder_depths": (1, 2, 1, 1), "encoder_dims": (8, 16, 24, 32), "decoder_depths": (1, 1, 2, 1),
            "decoder_dims": (24, 16, 8, 2), "latent_channels": 32, "embedding_dim": 10}
SPECTRUM_SIZES: list[dict[str, Any]] = [
    SPECTRUM,
    SPECTRUM | {"decoder_dims": (24, 16, 8, 1), "clip_flux": 20.0, "clip_ivar": 3.0, "input_scaling": 0.5},
    SPECTRUM | {"embedding_dim": 7, "dim": 7, "codebook_size": 128, "num_pixels": 4096, "resolution": 1.6,
                "lambda_min": 3600.0},
    SPECTRUM | {"encoder_depths": (1, 1), "encoder_dims": (8, 32), "decoder_depths": (1, 1), "decoder_dims": (16, 2)},
]


@pytest.fixture(scope="module", params=range(len(SPECTRUM_SIZES)))
def spectra(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    reference = reference_spectrum(SPECTRUM_SIZES[request.param], request.param)
    return reference, load_codec(saved(reference, theirs.DESISpectrum, tmp_path_factory.mktemp("spectrum")))


def measured(wavelength: Tensor, count: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Flux, ivar and mask (B, n), one row bright, one faint, one negative."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, wavelength.shape[-1])
    level = torch.tensor([30.0, 0.05, -2.0, 1.0])[:count, None]
    flux = level * (1 + 0.3 * torch.sin(wavelength / 70)) + torch.randn(shape, generator=generator)
    return flux, 10 ** (4 * torch.rand(shape, generator=generator) - 2), torch.rand(shape, generator=generator) < 0.05


def reference_spectrum(sizes: dict[str, Any], seed: int = 1) -> Any:
    codec = shaken(spectrum.SpectrumCodec(**sizes), seed)
    flux, ivar, mask = measured(DESI, 1)
    with torch.no_grad():
        z, _ = codec._encode(theirs.Spectrum(flux=flux, ivar=ivar, mask=mask, wavelength=DESI[None]))
    spread(codec.quant_conv, z)
    return codec


def level_margin(reference: Any, flux: Tensor, mask: Tensor) -> Tensor:
    """(B, 1): how far the logarithm of the level is from the next entry of its table."""
    flux = torch.nan_to_num(flux)
    clip = reference.clip_flux
    flux = flux if clip is None else flux.clamp(-clip, clip)
    level = torch.log10(((flux * ~mask).sum(1) / ((~mask).sum(1) + 1)).clamp_min(0.1) + 1)
    return (level[:, None] - reference.normalization_quantizer.buckets).abs().amin(1, keepdim=True)


def compare_spectra(reference: Any, ours: Any, flux: Tensor, ivar: Tensor, mask: Tensor, wavelength: Tensor) -> Tensor:
    grid = wavelength.expand(flux.shape)
    before = [x.clone() for x in (flux, ivar, mask, wavelength)]
    with torch.no_grad():
        given = theirs.Spectrum(flux=flux, ivar=ivar, mask=mask, wavelength=grid.contiguous())
        z, _ = reference._encode(given)
        tokens = reference.encode(given)
        precise = theirs.Spectrum(flux=flux.double(), ivar=ivar.double(), mask=mask, wavelength=grid.double())
        exact, _ = deepcopy(reference).double()._encode(precise)
        assert_near(ours.latents(flux, ivar, mask, wavelength).transpose(1, 2), z, exact)
        margin = torch.cat([level_margin(reference, flux, mask), z.abs().amin(1)], 1)
        compare_tokens(ours.tokenize(flux, ivar, mask, wavelength), tokens, margin)
        compare_decoded(reference, ours, tokens, wavelength)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, (flux, ivar, mask, wavelength), strict=True))
    return tokens


def assert_near(ours: Tensor, reference: Tensor, exact: Tensor) -> None:
    """To 1e-4, or as near to the exact value (in float64) as the reference: random weights can magnify the last digits of a
    float, as a norm over the two last channels does where these are nearly alike. Such values are few.
    """
    scale = 1 + exact.abs()
    away = (ours - reference).abs() / scale
    wrong, theirs = ((x - exact).abs() / scale for x in (ours, reference))
    assert float((away > 1e-4).float().mean()) < 0.01
    assert float(wrong.max()) < 1e-4 + 4 * float(theirs.max()), f"{float(wrong.max())} from the exact value"


def compare_decoded(reference: Any, ours: Any, tokens: Tensor, wavelength: Tensor) -> None:
    own, bad = ours.detokenize(tokens)
    expected = reference.decode(tokens)
    exact = deepcopy(reference).double()
    assert_near(own, expected.flux, exact.decode(tokens).flux)
    torch.testing.assert_close(ours.wavelength(), reference.latent_grid.wavelength, rtol=0, atol=0)
    flux, mask = ours.detokenize(tokens, wavelength)
    grid = wavelength.expand(len(tokens), -1).contiguous()
    observed = reference.decode(tokens, wavelength=grid)
    assert_near(flux, observed.flux, exact.decode(tokens, wavelength=grid.double()).flux)
    inside = (grid >= ours.wavelength()[0]) & (grid <= ours.wavelength()[-1])
    assert bool(mask[~inside].all())  # there the reference says good
    if ours.config.decoder_widths[-1] == 2:  # with one channel the reference says bad everywhere, from NaN
        assert (bad != expected.mask).float().mean() <= 1e-4 and (mask != observed.mask)[inside].float().mean() <= 1e-3
    else:
        assert not bool(bad.any()) and not bool(mask[inside].any())


@pytest.mark.parametrize("wavelength", [DESI, SDSS, torch.linspace(3000, 11000, 2000), torch.linspace(5000, 5100, 40)],
                         ids=["desi", "sdss", "beyond both ends", "short"])
def test_spectra_on_a_common_grid(spectra: tuple[Any, Any], wavelength: Tensor) -> None:
    flux, ivar, mask = measured(wavelength)
    tokens = compare_spectra(*spectra, flux, ivar, mask, wavelength)
    each = compare_spectra(*spectra, flux, ivar, mask, wavelength.repeat(3, 1))
    assert torch.equal(tokens, each)


def test_spectra_each_on_a_grid_of_its_own(spectra: tuple[Any, Any]) -> None:
    wavelength = torch.stack([DESI[:3000], SDSS[400:3400], torch.linspace(3400, 9900, 3000)])
    tokens = compare_spectra(*spectra, *measured(wavelength), wavelength)
    assert tokens.shape == (3, spectra[1].config.tokens) and len(tokens.unique(dim=0)) == 3


def test_spectra_with_nan_and_infinities(spectra: tuple[Any, Any]) -> None:
    flux, ivar, mask = measured(DESI)
    flux[0, 100:120], flux[1, 5], ivar[2, 7], ivar[0, 9] = torch.nan, -torch.nan, torch.nan, torch.inf
    mask[1] = True  # nothing good
    tokens = compare_spectra(*spectra, flux, ivar, mask, DESI)
    filled = compare_spectra(*spectra, flux.nan_to_num(), ivar.nan_to_num(posinf=1e30), mask, DESI)
    assert torch.equal(tokens, filled)


def test_spectrum_codec_of_the_assumed_size(tmp_path: Path) -> None:
    sizes = {"encoder_dims": (96, 192, 384, 512), "decoder_dims": (384, 192, 96, 2), "embedding_dim": 10}
    reference = reference_spectrum(sizes)
    ours = load_codec(saved(reference, theirs.SDSSSpectrum, tmp_path))
    assert ours.config.tokens == 273
    flux, ivar, mask = measured(DESI, 1)
    tokens = compare_spectra(reference, ours, flux, ivar, mask, DESI)
    assert tokens.shape == (1, 273) and len(tokens.unique()) > 30


# -- scalars --------------------------------------------------------------------------------------------------------


def table(seed: int, count: int, size: int = 1024) -> Tensor:
    """Quantiles of something skewed, with some of them alike, as in a catalogue with a favourite value."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, size, generator=generator).mul(1.3).exp().sub(1.5).sort(-1).values.clamp(max=20)
    values[:, 100:105] = values[:, 100:101]
    return values


SCALARS = [
    (lambda: scalar.ScalarCodec("a_g", 1024, 2000), theirs.HSCAG),
    (lambda: scalar.ScalarCodec("ra", 100, 300), theirs.Ra),
    (lambda: scalar.LogScalarCodec("FLUX_G", 1024, 2000), theirs.LegacySurveyFluxG),
    (lambda: scalar.LogScalarCodec("parallax", 1024, 2000, min_log_value=-5), theirs.GaiaParallax),
    (lambda: scalar.GridScalarCodec("Z", 1024), theirs.Z),
    (lambda: scalar.GridScalarCodec("Z", 1025), theirs.Z),
    (lambda: scalar.MultiScalarCodec("bp_coefficients", ["arcsinh"], ["sinh"], 1024, 500, 55), theirs.GaiaXpBp),
    (lambda: scalar.MultiScalarCodec("rp_coefficients", ["arcsinh"], ["sinh"], 64, 200, 55), theirs.GaiaXpRp),
]


@pytest.fixture(params=range(len(SCALARS)), ids=lambda i: f"{SCALARS[i][1].name}-{i}")
def scalars(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    """One half of them with the prefix of the published files."""
    build, modality = SCALARS[request.param]
    reference = build()
    for name, values in reference.named_buffers():
        if name.endswith("_index_to_val"):
            values.copy_(table(sum(map(ord, name)), 1, len(values))[0])
    folder = saved(reference, modality, tmp_path)
    if request.param % 2:
        tensors = load_file(folder / "model.safetensors")
        save_file({k.removeprefix("_"): v for k, v in tensors.items()}, folder / "model.safetensors")
    return reference, load_codec(folder)


def test_scalars(scalars: tuple[Any, Any]) -> None:
    reference, ours = scalars
    generator = torch.Generator().manual_seed(4)
    channels = ours.config.channels
    values = torch.randn(500 if channels is None else (500, channels), generator=generator) * 3
    values[:3] = torch.tensor([0.0, 1e6, -1e6]) if channels is None else torch.tensor([0.0, 1e6, -1e6])[:, None]
    entries = ours.detokenize(torch.arange(ours.vocabulary) if channels is None else
                              torch.arange(ours.vocabulary)[:, None].expand(-1, channels))
    values = torch.cat([values, entries])
    given = values.clone()
    expected = reference.encode(reference.modality(value=values.clone()))
    tokens = ours.tokenize(values, saturate=True)
    margin = torch.zeros(len(values) - len(entries) if channels is None else (len(values) - len(entries), channels))
    margin = torch.cat([torch.ones_like(margin), torch.zeros_like(entries)])  # entries of a table lie on boundaries
    if ours.config.codec in ("cdf", "grid"):
        margin += 1.0
    compare_tokens(tokens, expected, margin)
    torch.testing.assert_close(ours.detokenize(expected), reference.decode(expected).value, rtol=1e-5, atol=1e-6)
    assert torch.equal(values, given)


def test_scalars_of_any_shape(scalars: tuple[Any, Any]) -> None:
    _, ours = scalars
    shape = (3, 4, 55) if ours.config.channels else (3, 4)
    values = torch.rand(shape)
    tokens = ours.tokenize(values)
    assert tokens.shape == shape and torch.equal(tokens[1, 2], ours.tokenize(values[1, 2]))
    assert ours.detokenize(tokens).shape == shape


def test_the_reference_writes_into_fluxes_and_we_do_not(tmp_path: Path) -> None:
    reference = SCALARS[2][0]()
    ours = load_codec(saved(reference, theirs.LegacySurveyFluxG, tmp_path))
    values = torch.tensor([-1.0, 2.0])
    ours.tokenize(values)
    assert values.tolist() == [-1.0, 2.0]


# -- segmentation maps and catalogues -------------------------------------------------------------------------------

FIELDS: list[dict[str, Any]] = [
    {"encoder_output_dim": 32, "embedding_dim": 4},
    {"encoder_output_dim": 32, "embedding_dim": 4, "ema_model_weights": True, "output_activation_extension": 0.1, "lr": 0.3},
    {"encoder_output_dim": 24, "decoder_input_dim": 40, "embedding_dim": 3, "levels": [4, 4, 4], "num_downsamples": 2,
     "num_res_layers": 1, "res_hidden_dims": 7},
]


@pytest.mark.parametrize("sizes", FIELDS)
@pytest.mark.parametrize("size", [(96, 96), (101, 128)])
def test_segmentation_maps(sizes: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    reference = shaken(scalar_field.ScalarFieldCodec(**sizes))
    ours = load_codec(saved(reference, theirs.LegacySurveySegmentationMap, tmp_path))
    field = torch.rand(3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        z = reference._encode(theirs.LegacySurveySegmentationMap(field=field))
        tokens = reference.encode(theirs.LegacySurveySegmentationMap(field=field))
        torch.testing.assert_close(ours.latents(field).flatten(1, 2).transpose(1, 2), z, rtol=1e-4, atol=1e-4)
        compare_tokens(ours.tokenize(field), tokens, fsq_margin(reference, z))
        torch.testing.assert_close(ours.detokenize(tokens), reference.decode(tokens).field, rtol=1e-4, atol=1e-4)


def test_catalogues(tmp_path: Path) -> None:
    reference = catalog.CatalogCodec()
    for i, (name, values) in enumerate(reference.named_buffers()):
        if name.endswith("_index_to_val"):
            values.copy_(table(i, 1)[0])
    ours = load_codec(saved(reference, theirs.LegacySurveyCatalog, tmp_path))
    generator = torch.Generator().manual_seed(5)
    absent = torch.rand(4, 20, generator=generator) < 0.4
    place = torch.randint(0, 96, (2, 4, 20), generator=generator)
    shapes = torch.randn(3, 4, 20, generator=generator)
    x, y = place.masked_fill(absent, 9999)
    e1, e2, r = shapes.masked_fill(absent, 9999.0)
    expected = reference.encode(theirs.LegacySurveyCatalog(X=x, Y=y, SHAPE_E1=e1, SHAPE_E2=e2, SHAPE_R=r))
    ids = ours.tokenize(x, y, e1, e2, r)
    assert ids.shape == (4, 100) and torch.equal(ids, expected.long())
    decoded = reference.decode(expected.long())
    for ours_, name in zip(ours.detokenize(ids), ("X", "Y", "SHAPE_E1", "SHAPE_E2", "SHAPE_R"), strict=True):
        torch.testing.assert_close(ours_[~absent], getattr(decoded, name)[~absent].float())
        assert bool(ours_[absent].isnan().all())


def test_what_the_config_holds_is_what_the_reference_writes(tmp_path: Path) -> None:
    """No key of a config is passed over in silence, so none may raise a warning here."""
    folder = saved(SCALARS[0][0](), theirs.HSCAG, tmp_path)
    assert set(json.loads((folder / "config.json").read_text())) == {"modality", "codebook_size", "reservoir_size"}
