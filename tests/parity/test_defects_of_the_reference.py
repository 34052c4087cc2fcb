"""What the published package (polymathic-aion 0.0.2) gets wrong, shown on it, and that ours gets it right.

| defect                                                     | shown in                                                      |
|------------------------------------------------------------|---------------------------------------------------------------|
| 1  target tokens cannot tell each other apart              | test_parity_omni: target_tokens_tell_each_other_apart         |
| 2  HSC images cannot be decoded                            | hsc_images_can_be_decoded                                     |
| 3  inputs are changed in place                             | the_pixels_given_are_left_alone                               |
| 4  images of less than 96 pixels are cut wrong             | small_images_are_padded_and_not_cut                           |
| 5  tokens after the first 256 are dropped                  | test_parity_omni: nothing_is_cut_after_256_tokens             |
| 6  rows of hidden tokens come back unmarked                | test_parity_omni: hidden_rows_are_marked                      |
| 7  missing weights are not reported                        | test_parity_omni: a_missing_weight_is_an_error                |
| 8  codecs cannot be loaded from a folder                   | codecs_load_from_the_folder_that_the_reference_wrote          |
| 9  results depend on unrelated random numbers              | test_parity_omni: unrelated_random_numbers_change_nothing     |
| 10 examples of its README fail                             | predictions_as_in_its_readme, a_search_as_in_its_readme       |
| 11 catalogues do not reach the model                       | a_catalogue_reaches_the_model, objects_with_a_catalogue_...   |
|    and two modalities cannot be targets                    | test_parity_omni: catalogue_and_segmentation_map_can_be_...   |
| 12 one NaN pixel spoils an image                           | one_nan_pixel_is_one_pixel                                    |
| 13 bad pixels of a spectrum count; a mask may be NaN       | bad_pixels_of_a_spectrum_do_not_count, one_channel_is_no_mask |
| 14 scalars come back half a bin too high; ends collapse    | half_a_bin_is_taken_off, redshifts_above_1_...; faint_...     |
| 15 the loss over tokens weighs by vocabulary               | a_loss_over_tokens_counts_tokens                              |
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("aion", reason="the reference (pip install polymathic-aion==0.0.2) is not installed")

from aion import modalities as theirs
from aion.codecs import CodecManager, catalog, scalar, scalar_field, spectrum
from sklearn.metrics.pairwise import cosine_similarity
from test_parity_codecs import (
    DESI,
    HSC,
    LEGACY,
    NEAR,
    SPECTRUM_SIZES,
    compare_tokens,
    fsq_margin,
    measured,
    reference_image,
    reference_spectrum,
    saved,
    shaken,
    table,
)
from test_parity_omni import BARE, far, some_tokens

from engine import checkpoints
from engine.checkpoints import OmniBundle, load_aion, load_codec
from engine.codecs import CodecWarning
from engine.codecs.image import HSC_UNIT
from engine.objects import Catalog, SkyObject
from engine.objects import Image as Picture
from engine.train.masking import Layout
from engine.train.omni_step import weights as weights_of

SMALL = {"quantizer_levels": [7, 5, 5, 5, 5], "hidden_dims": 32, "multisurvey_projection_dims": 11, "num_consecutive": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The reference's image codec and ours, with the same weights."""
    reference = reference_image(SMALL)
    return reference, load_codec(saved(reference, theirs.LegacySurveyImage, tmp_path_factory.mktemp("image")))


@pytest.fixture(scope="module")
def bundle(peer: Any, tmp_path_factory: pytest.TempPathFactory) -> OmniBundle:
    """Ours of a model with codecs of images, catalogues and segmentation maps that the reference saved."""
    _, weights = peer(BARE)
    folder = tmp_path_factory.mktemp("bundle") / "aion-small"
    shutil.copytree(weights, folder)
    saved(reference_image(SMALL), theirs.LegacySurveyImage, folder)
    saved(reference_catalog(), theirs.LegacySurveyCatalog, folder)
    fields = shaken(scalar_field.ScalarFieldCodec(encoder_output_dim=16, embedding_dim=4))
    saved(fields, theirs.LegacySurveySegmentationMap, folder)
    found = checkpoints.load(folder)
    assert isinstance(found, OmniBundle)
    return found


def pixels(bands: int = 4, size: int = 96, seed: int = 0, level: float = 1.0, count: int = 1) -> Tensor:
    return torch.randn(count, bands, size, size, generator=torch.Generator().manual_seed(seed)) * level


def legacy(flux: Tensor, name: str = "a", **more: Any) -> SkyObject:
    """An object with an image (4, H, W) in nanomaggies."""
    picture = Picture(flux.numpy(), tuple("griz"), "legacy", unit="nmgy", pixel_scale=0.262)
    return SkyObject(name, images=(picture, *more.pop("images", ())), **more)


@torch.no_grad()
def asked(reference: Any, flux: Tensor, bands: list[str]) -> tuple[Tensor, Tensor]:
    """The reference's tokens of images, and how far each is from another; flux is left as it is."""
    z = reference._encode(theirs.Image(flux=flux.clone(), bands=bands))
    return reference.encode(theirs.Image(flux=flux.clone(), bands=bands)), fsq_margin(reference, z)


# -- images ---------------------------------------------------------------------------------------------------------


def test_hsc_images_can_be_decoded(images: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference calls a method that is not there; with the one that it means, it decodes what ours does."""
    reference, ours = images
    tokens = torch.randint(0, ours.vocabulary, (1, 576), generator=torch.Generator().manual_seed(0))
    for bands in (HSC, None):
        with pytest.raises(AttributeError, match="_reverse_zeropoint"):
            reference.decode(tokens, bands=bands)
    rescaler = type(reference.rescaler)
    monkeypatch.setattr(rescaler, "_reverse_zeropoint", rescaler.convert_zeropoint, raising=False)
    with torch.no_grad():
        torch.testing.assert_close(ours.detokenize(tokens, HSC), reference.decode(tokens, bands=HSC).flux, rtol=1e-4, atol=1e-4)
        every = reference.decode(tokens, bands=None).flux  # takes the other survey's pixels for HSC's too
    own = ours.detokenize(tokens, HSC + LEGACY)
    torch.testing.assert_close(own[:, 5:] * HSC_UNIT, every[:, 5:], rtol=1e-4, atol=1e-4)


def test_the_pixels_given_are_left_alone(images: tuple[Any, Any]) -> None:
    reference, ours = images
    flux = pixels(5, level=300)
    tokens, margin = asked(reference, flux, HSC)
    given = flux.clone()
    with torch.no_grad():
        reference.encode(theirs.HSCImage(flux=given, bands=HSC))
        again = reference.encode(theirs.HSCImage(flux=given, bands=HSC))
    assert far(given, flux) > 100 and (again != tokens).float().mean() > 0.5
    given = flux.clone()
    for _ in range(2):
        compare_tokens(ours.tokenize(given, HSC), tokens, margin)
        assert torch.equal(given, flux)
    shared = flux.numpy().copy()  # memory of an array, too
    ours.tokenize(shared, HSC)
    np.testing.assert_array_equal(shared, flux.numpy())


@pytest.mark.parametrize(("size", "found"), [(64, 16), (95, 1), (80, 4)])
def test_small_images_are_padded_and_not_cut(images: tuple[Any, Any], size: int, found: int) -> None:
    """A crop that starts below 0 counts from the end: the reference reads a corner of the image."""
    reference, ours = images
    flux = pixels(size=size)
    assert asked(reference, flux, LEGACY)[0].shape == (1, found)
    padded = torch.zeros(1, 4, 96, 96)
    low = 48 - size // 2
    padded[..., low : low + size, low : low + size] = flux
    with pytest.warns(CodecWarning, match=f"{size} x {size} pixels are smaller than 96 x 96"):
        tokens = ours.tokenize(flux, LEGACY)
    compare_tokens(tokens, *asked(reference, padded, LEGACY))


def test_one_nan_pixel_is_one_pixel(images: tuple[Any, Any]) -> None:
    reference, ours = images
    flux = pixels()
    flux[0, 1, 5, 5] = torch.nan
    spoilt, _ = asked(reference, flux, LEGACY)
    assert (spoilt < 0).all()  # not one is an id
    compare_tokens(ours.tokenize(flux, LEGACY), *asked(reference, flux.nan_to_num(0.0), LEGACY))
    assert (ours.encode(legacy(flux[0])).int() == ours.tokenize(flux, LEGACY)[0]).float().mean() > 0.99


# -- spectra --------------------------------------------------------------------------------------------------------


def test_bad_pixels_of_a_spectrum_do_not_count(tmp_path: Path) -> None:
    """The checkpoints were trained with them, so that they are left out on request only."""
    reference = reference_spectrum(SPECTRUM_SIZES[0])
    ours = load_codec(saved(reference, theirs.DESISpectrum, tmp_path))
    flux, ivar, mask = measured(DESI, 1)
    struck = torch.where(mask, 1e4, flux)  # cosmic rays, and the mask says where
    with torch.no_grad():
        clean, hit = (reference.encode(theirs.Spectrum(flux=f, ivar=ivar, mask=mask, wavelength=DESI[None]))
                      for f in (flux, struck))
    assert (clean != hit).float().mean() > 0.1
    torch.testing.assert_close(ours.tokenize(struck, ivar, mask, DESI).long(), hit.long())  # no latent of these is at 0
    masked = ours.tokenize(struck, ivar, mask, DESI, use_mask=True)
    assert torch.equal(masked, ours.tokenize(flux, ivar, mask, DESI, use_mask=True))


def test_one_channel_is_no_mask(tmp_path: Path) -> None:
    """Without a channel for it the reference's mask is NaN on any wavelengths asked for, which it takes for bad."""
    reference = reference_spectrum(SPECTRUM_SIZES[1])
    ours = load_codec(saved(reference, theirs.DESISpectrum, tmp_path))
    tokens = torch.randint(0, 1024, (1, 273), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference.decode(tokens, wavelength=DESI[None])
    flux, bad = ours.detokenize(tokens, DESI)
    assert expected.mask.all() and not bad.any()
    torch.testing.assert_close(flux, expected.flux, rtol=1e-3, atol=1e-3)


# -- scalars --------------------------------------------------------------------------------------------------------


def test_half_a_bin_is_taken_off(tmp_path: Path) -> None:
    """Every value goes up to the next entry of the table; ours gives the middle of the bin on request."""
    reference = scalar.GridScalarCodec("Z", 1024)
    ours = load_codec(saved(reference, theirs.Z, tmp_path))
    z, half = torch.rand(4000, generator=torch.Generator().manual_seed(0)), 0.5 / 1023
    ids = reference.encode(theirs.Z(value=z))
    up = reference.decode(ids).value - z
    middle = ours.detokenize(ids, centre=True) - z
    assert up.min() > -1e-6 and float(up.mean()) == pytest.approx(half, rel=0.05)
    assert abs(float(middle.mean())) < 0.05 * half and middle.abs().max() < 1.01 * half
    torch.testing.assert_close(ours.detokenize(ids) - z, up)  # as it was trained, if nothing is said


def test_redshifts_above_1_are_no_redshifts_of_1(tmp_path: Path) -> None:
    reference = scalar.GridScalarCodec("Z", 1024)
    ours = load_codec(saved(reference, theirs.Z, tmp_path))
    ids = reference.encode(theirs.Z(value=torch.tensor([0.9999, 1.7, 6.0])))
    assert len(ids.unique()) == 1 and torch.allclose(reference.decode(ids).value, torch.ones(3))
    with pytest.raises(ValueError, match=r"2 of 3 values of Z lie beyond its grid \(the first is 1.7\)"):
        ours.tokenize([0.9999, 1.7, 6.0])
    assert torch.equal(ours.tokenize([0.9999, 1.7, 6.0], saturate=True), ids.long())
    assert ours.decode(ids[-1]).value == "z >= 1"


def test_faint_and_negative_fluxes_share_a_bin_that_says_so(tmp_path: Path) -> None:
    """The published ids of what lies below the floor are one; its bounds tell what may be in it, its value does not."""
    reference = scalar.LogScalarCodec("FLUX_G", 1024, 2000)
    reference._quantizer._index_to_val.copy_(torch.linspace(-3, 5, 1024))
    ours = load_codec(saved(reference, theirs.LegacySurveyFluxG, tmp_path))
    values = torch.tensor([-7.0, 0.0, 0.04, 0.049])
    ids = reference.encode(theirs.LegacySurveyFluxG(value=values))
    assert torch.allclose(reference.decode(ids).value, torch.full((4,), math.exp(-3)))
    assert torch.equal(ours.tokenize(values), ids)
    low, high = (bound[ids] for bound in ours.bounds())
    assert bool((low == -torch.inf).all() & (values <= high).all())


# -- files ----------------------------------------------------------------------------------------------------------


def reference_catalog() -> Any:
    codec = catalog.CatalogCodec()
    for i, (name, values) in enumerate(codec.named_buffers()):
        if name.endswith("_index_to_val"):
            values.copy_(table(i, 1)[0])
    return codec


def test_codecs_load_from_the_folder_that_the_reference_wrote(images: tuple[Any, Any], tmp_path: Path) -> None:
    written = [
        (images[0], theirs.LegacySurveyImage, "ImageCodec"),
        (shaken(spectrum.SpectrumCodec(**SPECTRUM_SIZES[0])), theirs.DESISpectrum, "SpectrumCodec"),
        (shaken(scalar_field.ScalarFieldCodec(encoder_output_dim=16, embedding_dim=4)), theirs.LegacySurveySegmentationMap,
         "SegmentationCodec"),
        (scalar.GridScalarCodec("Z", 1024), theirs.Z, "ScalarCodec"),
        (scalar.LogScalarCodec("FLUX_G", 1024, 2000), theirs.LegacySurveyFluxG, "ScalarCodec"),
        (scalar.MultiScalarCodec("bp_coefficients", ["arcsinh"], ["sinh"], 64, 200, 55), theirs.GaiaXpBp, "ScalarCodec"),
    ]
    for codec, modality, kind in written:
        folder = saved(codec, modality, tmp_path)
        with pytest.raises((TypeError, AssertionError)):  # the weights are found, the config beside them is not
            type(codec).from_pretrained(str(tmp_path), modality=modality)
        assert type(load_codec(folder)).__name__ == kind


# -- its README -----------------------------------------------------------------------------------------------------


def test_predictions_as_in_its_readme(peer: Any) -> None:
    reference, folder = peer(BARE)
    ours, tokens = load_aion(folder), some_tokens(("tok_image",))
    with pytest.raises(TypeError, match="target_mask"):
        reference(tokens, target_mask={"tok_z": torch.zeros(2, 1)}, num_encoder_tokens=600)
    chances = torch.softmax(ours.logits(tokens, ["tok_z"])["tok_z"], -1)
    assert chances.shape == (2, 1, 1025) and torch.allclose(chances.sum(-1), torch.ones(2, 1))
    with pytest.raises(FileNotFoundError, match="aion-base is not an AION-1 model: there is no such folder; fetch it with "
                                                "`omnisky download polymathic-ai/aion-base`"):
        load_aion("aion-base")  # the name there, which no repository has


def test_a_search_as_in_its_readme(bundle: OmniBundle, peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several images given to the reference only the last is kept, and what it makes of one is no vector."""
    reference, _ = peer(BARE)
    codec, flux = reference_image(SMALL), pixels(count=3, level=0.5)
    monkeypatch.setattr(CodecManager, "_load_codec", lambda self, kind: codec)
    tokens = CodecManager().encode(*(theirs.LegacySurveyImage(flux=f[None].clone(), bands=LEGACY) for f in flux))
    assert list(tokens) == ["tok_image"] and torch.equal(tokens["tok_image"], asked(codec, flux[2:], LEGACY)[0])
    with pytest.raises(ValueError, match="dim"):
        cosine_similarity(reference.encode(tokens), reference.encode(tokens))
    vectors = bundle.embed([legacy(f, str(i)) for i, f in enumerate(flux)], ["tok_image"])
    assert cosine_similarity(vectors[1:2], vectors)[0].argmax() == 1


# -- catalogues and segmentation maps -------------------------------------------------------------------------------


def sources(count: int = 7, seed: int = 0) -> list[np.ndarray]:
    """x, y, e1, e2, r of some sources, (count,) each."""
    generator = np.random.default_rng(seed)
    return [*generator.integers(0, 96, (2, count)).astype(float), *generator.normal(size=(3, count))]


def test_a_catalogue_reaches_the_model(peer: Any, tmp_path: Path) -> None:
    """The codec's 100 ids go up to 9999 and the model's 50 to 3467; nothing of the reference turns one into the other."""
    reference, folder = peer(BARE)
    codec, names = reference_catalog(), ("X", "Y", "SHAPE_E1", "SHAPE_E2", "SHAPE_R")
    columns = {name: torch.full((1, 20), 9999.0) for name in names}
    for name, values in zip(names, sources(), strict=True):
        columns[name][0, :7] = torch.from_numpy(values)
    columns |= {name: columns[name].long() for name in "XY"}
    ids = codec.encode(theirs.LegacySurveyCatalog(**columns)).long()
    with pytest.raises(IndexError):
        reference.encode({"catalog": ids})
    ours, mine = load_aion(folder), load_codec(saved(codec, theirs.LegacySurveyCatalog, tmp_path))
    assert torch.equal(mine.tokenize(*columns.values()), ids)
    sequence = mine.to_sequence(ids)
    assert sequence[0].tolist() == [2, *(ids[0, :35] + 204).tolist(), 3, *[0] * 13]
    encoded = ours.encode({"catalog": sequence})
    expected = reference.encode({"catalog": sequence}, {"catalog": sequence == 0})
    assert encoded.visible.sum() == 37 and far(encoded.context[:, :37], expected[:, :37]) < NEAR


def test_objects_with_a_catalogue_and_a_map_have_vectors(bundle: OmniBundle) -> None:
    columns = dict(zip(("x", "y", "shape_e1", "shape_e2", "shape_r"), sources(), strict=True))
    field = torch.rand(1, 96, 96, generator=torch.Generator().manual_seed(1))
    thing = legacy(pixels()[0], catalog=Catalog(columns, {"shape_r": "arcsec"}),
                   images=(Picture(field.numpy(), ("segmentation",)),))
    for key in ("catalog", "tok_segmap"):
        vectors = bundle.embed([thing, legacy(pixels()[0], "without")], [key])
        assert np.isfinite(vectors[0]).all() and np.isnan(vectors[1]).all()
    tokens, hidden = bundle.tokenize([thing], ["catalog", "tok_segmap"])
    assert tokens["catalog"].shape == (1, 50) and tokens["tok_segmap"].shape == (1, 144) and not hidden["catalog"].any()
    alone = bundle.model.encode(tokens)
    parts = [alone.context[0, alone.slices[key]][alone.visible[0, alone.slices[key]]].mean(0) for key in tokens]
    np.testing.assert_allclose(bundle.embed([thing], list(tokens))[0], torch.stack(parts).mean(0), atol=1e-5)


# -- losses ---------------------------------------------------------------------------------------------------------


def test_a_loss_over_tokens_counts_tokens(peer: Any) -> None:
    """The reference weighs modalities by tokens times vocabulary. Its losses of each are those of our logits; our training
    counts every token alike."""
    reference, folder = peer(BARE)
    given, targets = some_tokens(("tok_z",)), some_tokens(("tok_image", "tok_spectrum_desi"), seed=1)
    everything = {}
    for key, ids in (given | targets).items():
        asked_for = key in targets
        seen = torch.zeros_like(ids)
        seen[:, 0] = ids.shape[1]
        everything[key] = {"tensor": ids, "input_mask": torch.full(ids.shape, asked_for), "decoder_attention_mask": seen,
                           "target_mask": torch.full(ids.shape, not asked_for)}
    total, each = super(type(reference), reference).forward(everything, 1, 849, loss_type="token")
    logits = load_aion(folder).logits(given, list(targets))
    rows = {key: F.cross_entropy(logits[key].flatten(0, 1), ids.flatten(), reduction="none") for key, ids in targets.items()}
    for key, losses in rows.items():
        assert float(losses.mean()) == pytest.approx(float(each[key]), rel=1e-4)
    weights = {key: logits[key].numel() for key in targets}
    by_vocabulary = sum(float(rows[key].mean()) * n for key, n in weights.items()) / sum(weights.values())
    assert float(total) == pytest.approx(by_vocabulary, rel=1e-4)
    counts, sums = torch.tensor([len(losses) for losses in rows.values()]), torch.stack([*map(torch.sum, rows.values())])
    ours = float((weights_of(counts, "token", Layout(checkpoints.read_config(folder))) * sums).sum())
    assert ours == pytest.approx(float(torch.cat(list(rows.values())).mean()), rel=1e-4)
    assert abs(ours - float(total)) > 0.01
