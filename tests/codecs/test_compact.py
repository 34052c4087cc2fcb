"""The compact image codec: brightness, subsets of bands, both surveys, codes, objects, files, refusals."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.checkpoints import halved, load_codec, save_codec
from engine.codecs import CodecWarning, CompactConfig, CompactImageCodec, ScalarCodec, ScalarConfig, SpectrumCodec
from engine.codecs.image import BANDS_OF, HSC_UNIT
from engine.codecs.quantizers import FSQ
from engine.modalities import MODALITIES
from engine.models.omni_config import OmniConfig
from engine.models.tokens import position_table
from engine.objects import Image, SkyObject
from engine.train.codec_recipes import TINY_SPECTRUM

CONFIG = CompactConfig(width=16, blocks=1)


@pytest.fixture(scope="module")
def codec() -> CompactImageCodec:
    torch.manual_seed(0)
    made = CompactImageCodec(CONFIG)
    for name, p in made.named_parameters():  # what starts at zero would hide mistakes
        if not p.any():
            torch.nn.init.normal_(p, std=0.05 if "norm" not in name else 0.3)
    return made.eval().requires_grad_(False)


def galaxy(flux: float, bands: int, scale: float = 0.262, radius: float = 1.0) -> Tensor:
    """(1, bands, 96, 96): a round galaxy of that flux in every band, in nmgy."""
    axis = (torch.arange(96) - 47.5) * scale
    profile = torch.exp(-(axis[:, None] ** 2 + axis**2) / (2 * radius**2))
    return (flux * profile / profile.sum()).expand(1, bands, 96, 96)


def test_tokens_are_a_brightness_and_a_square(codec: CompactImageCodec) -> None:
    tokens = codec.tokenize(galaxy(10.0, 4), "legacy")
    assert tokens.shape == (1, 145) and tokens.dtype == torch.int32 and codec.vocabulary == 4375
    assert codec.detokenize(tokens, "legacy").shape == (1, 4, 96, 96)
    assert codec.tokenize(torch.zeros(0, 4, 96, 96), "legacy").shape == (0, 145)


@pytest.mark.parametrize("flux", [0.5, 3.0, 40.0, 2000.0])
def test_brightness_is_finer_than_a_hundredth_of_a_magnitude(codec: CompactImageCodec, flux: float) -> None:
    image = galaxy(flux, 4)
    inside = flux * (1 - np.exp(-(2.0**2) / 2))  # within 2"
    said = float(codec.brightness_of(codec.tokenize(image, "legacy")[:, 0])[0])
    assert abs(2.5 * np.log10(said / inside)) < 0.012  # half a step, and the pixels at the edge of the disc


def test_both_surveys_see_the_same_brightness(codec: CompactImageCodec) -> None:
    legacy = codec.tokenize(galaxy(20.0, 4), "legacy")[0, 0]
    hsc = codec.tokenize(galaxy(20.0, 5, 0.168) * HSC_UNIT, "hsc")[0, 0]
    assert abs(int(legacy - hsc)) <= 1


def test_nothing_and_less_than_nothing_have_the_faintest_brightness(codec: CompactImageCodec) -> None:
    dark = torch.cat([torch.zeros(1, 4, 96, 96), galaxy(-3.0, 4), torch.full((1, 4, 96, 96), torch.nan)])
    assert codec.tokenize(dark, "legacy")[:, 0].tolist() == [0, 0, 0]
    bright = codec.tokenize(torch.full((1, 4, 96, 96), torch.inf), "legacy")
    assert int(bright[0, 0]) == CONFIG.steps - 1


def test_brightness_scales_and_shape_does_not_change(codec: CompactImageCodec) -> None:
    step = 10 ** (0.4 * CONFIG.step)
    one, brighter = (codec.tokenize(galaxy(7.0 * step**k, 4), "legacy")[0] for k in (0, 40))
    assert int(brighter[0] - one[0]) == 40
    assert (one[1:] == brighter[1:]).float().mean() > 0.98


@pytest.mark.parametrize("bands", [["DES-R"], ["DES-G", "DES-Z"], ["DES-Z", "DES-G"], ["HSC-Y", "HSC-I", "HSC-G"]])
def test_any_subset_of_bands_in_any_order(codec: CompactImageCodec, bands: list[str]) -> None:
    survey = "hsc" if bands[0].startswith("HSC") else "legacy"
    every = BANDS_OF[survey]
    image = galaxy(10.0, len(every)) * torch.linspace(0.5, 2, len(every))[:, None, None]
    some = image[:, [every.index(b) for b in bands]]
    tokens = codec.tokenize(some, bands)
    turned = codec.tokenize(some.flip(1), bands[::-1])
    assert torch.equal(tokens, turned)
    whole = codec.detokenize(tokens, survey)
    torch.testing.assert_close(codec.detokenize(tokens, bands), whole[:, [every.index(b) for b in bands]])
    if len(bands) < len(every):
        assert not torch.equal(tokens, codec.tokenize(image, survey))


def test_bands_of_both_surveys_can_be_asked_for(codec: CompactImageCodec) -> None:
    tokens = codec.tokenize(galaxy(10.0, 4), "legacy")
    both = codec.detokenize(tokens, ["HSC-G", "DES-R", "HSC-Y"])
    torch.testing.assert_close(both[:, 1], codec.detokenize(tokens, "DES-R")[:, 0])
    torch.testing.assert_close(both[:, [0, 2]], codec.detokenize(tokens, ["HSC-G", "HSC-Y"]))


def test_rows_do_not_depend_on_their_batch(codec: CompactImageCodec) -> None:
    images = torch.cat([galaxy(f, 4) for f in range(1, 12)])
    tokens = codec.tokenize(images, "legacy")
    assert torch.equal(tokens[9:10], codec.tokenize(images[9:10], "legacy"))


def test_codes_decode_as_their_ids_do(codec: CompactImageCodec) -> None:
    tokens = codec.tokenize(galaxy(10.0, 4), "legacy")
    codes, level = codec.codes_of(tokens[:, 1:]), codec.brightness_of(tokens[:, 0])
    assert codes.shape == (1, 144, 5) and codec.codes_of(torch.arange(codec.vocabulary)).shape == (4375, 5)
    torch.testing.assert_close(codec.decode_codes(level, codes, "hsc"), codec.detokenize(tokens, "hsc"))
    torch.testing.assert_close(codec.decode_codes(2 * level, codes, "hsc"), 2 * codec.detokenize(tokens, "hsc"))


def test_straight_through_gives_the_codes_and_a_gradient() -> None:
    fsq = FSQ((8, 5, 5, 5))
    z = torch.randn(50, 4, requires_grad=True)
    codes = fsq.through(z)
    torch.testing.assert_close(codes.detach(), fsq.decode(fsq.encode(z)))
    codes.sum().backward()
    assert z.grad is not None and bool((z.grad > 0).all())


def test_input_is_left_as_it_is_and_size_does_not_matter(codec: CompactImageCodec) -> None:
    image = torch.nn.functional.pad(galaxy(10.0, 4), (3, 4, 4, 5), value=9.0)
    before = image.clone()
    assert torch.equal(codec.tokenize(image.numpy(), "legacy"), codec.tokenize(galaxy(10.0, 4), "legacy"))
    assert torch.equal(image, before)
    with pytest.warns(CodecWarning, match="padded"):
        codec.tokenize(image[:, :, :50, :50], "legacy")


def test_objects_come_and_go(codec: CompactImageCodec) -> None:
    pixels = galaxy(10.0, 4)[0].numpy().copy()
    bad = np.zeros(pixels.shape, bool)
    bad[:, 3, 3] = True
    spoiled = np.where(bad, np.float32(1e6), pixels)
    image = Image(spoiled, ("g", "r", "i", "z"), "legacy", unit=None, mask=bad, pixel_scale=0.262)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = codec.encode(SkyObject("one", images=(replace(image, unit=_nmgy()),)))
    pixels[bad] = 0
    assert torch.equal(tokens.int(), codec.tokenize(pixels[None], "legacy")[0])
    back = codec.decode(tokens, "legacy")
    assert isinstance(back, Image) and back.bands == ("g", "r", "i", "z") and back.pixels.shape == (4, 96, 96)
    with pytest.raises(KeyError, match="one has no image of hsc"):
        codec.encode(SkyObject("one", images=(image,)), survey="hsc")


def test_a_band_that_nobody_looked_at_is_none(codec: CompactImageCodec) -> None:
    """It counts as one that is not in the file, and what is made up for it is told."""
    pixels = galaxy(10.0, 4)[0].numpy().copy()
    bad = np.zeros(pixels.shape, bool)
    bad[2] = True
    image = Image(np.where(bad, np.nan, pixels), ("g", "r", "i", "z"), "legacy", unit=_nmgy(), mask=bad, pixel_scale=0.262)
    with pytest.warns(CodecWarning, match="one: no i of legacy, filled in"):
        tokens = codec.encode(SkyObject("one", images=(image,)))
    assert torch.equal(tokens.int(), codec.tokenize(pixels[None, [0, 1, 3]], ["DES-G", "DES-R", "DES-Z"])[0])


def _nmgy() -> object:
    from engine.io.surveys import SURVEYS

    return SURVEYS["legacy"].unit


def test_what_it_refuses(codec: CompactImageCodec) -> None:
    with pytest.raises(KeyError, match="unknown band"):
        codec.tokenize(galaxy(1.0, 1), "DES-U")
    with pytest.raises(ValueError, match="two surveys"):
        codec.tokenize(galaxy(1.0, 2), ["DES-G", "HSC-G"])
    with pytest.raises(ValueError, match="flux must be"):
        codec.tokenize(galaxy(1.0, 3), "legacy")
    with pytest.raises(ValueError, match="tokens must be"):
        codec.detokenize(torch.zeros(1, 144, dtype=torch.long), "legacy")
    for wrong in (4375, -1):
        with pytest.raises(ValueError, match="out of range"):
            codec.detokenize(torch.full((1, 145), wrong), "legacy")
    with pytest.raises(ValueError, match="more than the 1000 ids"):
        CompactConfig(levels=(8, 5, 5, 5), steps=1200)
    with pytest.raises(ValueError, match="divide 96"):
        CompactConfig(patch=7)


# -- on disk ------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same(codec: CompactImageCodec, tmp_path: Path) -> None:
    image = galaxy(10.0, 4)
    save_codec(tmp_path, codec, {"hours": 1})
    found = load_codec(tmp_path)
    halved(codec)
    assert isinstance(found, CompactImageCodec) and found.config == codec.config
    assert torch.equal(found.tokenize(image, "legacy"), codec.tokenize(image, "legacy"))
    assert json.loads((tmp_path / "config.json").read_text())["trained"] == {"hours": 1}


def test_a_folder_is_read_strictly(codec: CompactImageCodec, tmp_path: Path) -> None:
    save_codec(tmp_path, codec, {})
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())
    for change, message in (({"kind": "huge"}, "of the kind 'huge'"), ({"depth": 3}, "does not describe"),
                            ({"width": 24}, "is .16"), ({"blocks": 2}, "missing encoder.1"), ({"steps": 10**6}, "more than")):
        path.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=message):
            load_codec(tmp_path)


def test_our_spectra_use_their_mask_and_say_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = SpectrumCodec(TINY_SPECTRUM).eval().requires_grad_(False)
    codec.levels.values.copy_(torch.linspace(0.05, 3, len(codec.levels.values)))
    for p in codec.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    save_codec(tmp_path, codec, {})
    halved(codec)
    found = load_codec(tmp_path)
    assert isinstance(found, SpectrumCodec) and found.config.use_mask
    assert found.config.tokens == 137 and found.vocabulary == 4375
    flux, ivar = torch.rand(2, 7781) + 3, torch.ones(2, 7781)
    mask = torch.zeros(2, 7781, dtype=torch.bool)
    mask[:, 4000:4010] = True
    spoiled = torch.where(mask, 1e4, flux)
    wavelength = 3600 + 0.8 * torch.arange(7781)
    tokens = found.tokenize(spoiled, ivar, mask, wavelength)
    assert torch.equal(tokens, found.tokenize(flux, ivar, mask, wavelength))
    assert torch.equal(tokens, codec.tokenize(flux, ivar, mask, wavelength, use_mask=True))
    assert not torch.equal(tokens, found.tokenize(spoiled, ivar, mask, wavelength, use_mask=False))
    drawn, bad = found.detokenize(tokens, wavelength)
    again, _ = found.decode_codes(found.level_of(tokens[:, 0])[:, 0], found.codes_of(tokens[:, 1:]), wavelength)
    assert torch.equal(drawn, again) and not bad.any()


def test_our_scalars_stand_for_the_middle_of_their_bin(tmp_path: Path) -> None:
    codec = ScalarCodec(ScalarConfig("Z", "grid", 5, centre=True))
    codec.table.values.copy_(torch.tensor([0.0, 1, 2, 3, 6]))
    save_codec(tmp_path, codec, {})
    found = load_codec(tmp_path)
    assert found.detokenize(torch.tensor([2])) == 1.5 and found.detokenize(torch.tensor([2]), centre=False) == 2.0
    assert found.tokenize(torch.tensor([5.0])) == 4
    with pytest.raises(ValueError, match="0 to 6"):
        found.tokenize(torch.tensor([7.0]))
    codec.table.values[2] = 0.5
    save_codec(tmp_path, codec, {})
    with pytest.raises(ValueError, match="not a table of numbers that increase"):
        load_codec(tmp_path)


# -- positions ----------------------------------------------------------------------------------------------------------


def omni(sizes: dict[str, tuple[int, int]]) -> OmniConfig:
    return OmniConfig(("tok_image", "tok_segmap"), ("tok_image",), True, "GELU", dim=16, num_heads=2, sizes=sizes)


def test_the_brightness_stands_nowhere_and_the_shape_on_its_square() -> None:
    config = omni({"tok_image": (145, 4375)})
    table = position_table(config.modality("tok_image"), 16)
    assert table.shape == (145, 16) and not table[0].any()
    assert torch.equal(table[1:], position_table(config.modality("tok_segmap"), 16))
    assert position_table(MODALITIES["tok_image"], 16).shape == (576, 16)
    with pytest.raises(ValueError, match="or one more for its brightness"):
        omni({"tok_image": (146, 4375)})


def test_a_transformer_tells_an_image_with_brightness_from_a_map() -> None:
    from engine.models.omni import Omni

    model = Omni(omni({"tok_image": (145, 4375)}))
    model.init_weights(0)
    shapes = {tuple(b.shape) for name, b in model.named_buffers() if name.startswith("positions")}
    assert shapes == {(145, 16), (144, 16)}
    tokens = {"tok_image": torch.zeros(1, 145, dtype=torch.long), "tok_segmap": torch.zeros(1, 144, dtype=torch.long)}
    assert model.encode(tokens) is not None
