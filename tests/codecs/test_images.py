"""The image codec on arrays and on objects: whatever comes in is encoded as it should be or refused by name."""

from __future__ import annotations

from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
import torch
from small_codecs import image_codec, segmentation_codec

from engine.codecs import CodecWarning, ImageCodec, fast
from engine.codecs.image import HSC_UNIT, stamp
from engine.io.surveys import ab_unit
from engine.objects import Image, SkyObject

DES = ["DES-G", "DES-R", "DES-I", "DES-Z"]
HSC = ["HSC-G", "HSC-R", "HSC-I", "HSC-Z", "HSC-Y"]


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    return image_codec()


def pixels(count: int = 2, bands: int = 4, size: int = 96, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, bands, size, size, generator=torch.Generator().manual_seed(seed)) * 0.3


def sky(count: int = 2, survey: str = "legacy", size: int = 96, **more: object) -> list[SkyObject]:
    bands = tuple("griz" if survey == "legacy" else "grizy")
    scale, unit = (0.262, u.nmgy) if survey == "legacy" else (0.168, ab_unit(27.0))
    planes = pixels(count, len(bands), size).numpy()
    return [SkyObject(f"{survey}-{i}", images=(Image(p, bands, survey, unit=unit, pixel_scale=scale, **more),))  # type: ignore[arg-type]
            for i, p in enumerate(planes)]


def test_counts_of_hsc_are_63_times_nanomaggies(codec: ImageCodec) -> None:
    """The same light in both units: between the clips an HSC image is that of a survey in nmgy, in and out."""
    assert pytest.approx(63.0957, abs=1e-4) == HSC_UNIT
    flux = pixels(1, 5).clamp(-1, 1)
    x, _ = codec.prepared(flux * HSC_UNIT, HSC)
    y, _ = codec.prepared(flux[:, :4], DES)
    torch.testing.assert_close(x[:, :4], y, rtol=1e-5, atol=1e-6)
    same = image_codec()  # one whose readout draws the same in every band
    same.readout.weight[:], same.readout.bias[:] = same.readout.weight[:1].clone(), same.readout.bias[:1].clone()
    tokens = torch.randint(0, codec.vocabulary, (1, 576))
    torch.testing.assert_close(same.detokenize(tokens, "hsc")[:, :4], same.detokenize(tokens, "legacy") * HSC_UNIT)


def test_decoding_some_bands_is_decoding_all_and_choosing(codec: ImageCodec) -> None:
    tokens = torch.randint(0, codec.vocabulary, (3, 576))
    every = codec.detokenize(tokens, HSC + DES)
    some = codec.detokenize(tokens, ["DES-Z", "HSC-R"])
    torch.testing.assert_close(some, every[:, [8, 1]], rtol=1e-4, atol=1e-5)


def test_batches_do_not_matter(codec: ImageCodec) -> None:
    flux = pixels(11)
    tokens = codec.tokenize(flux, DES)
    assert tokens.dtype == torch.int32 and tokens.shape == (11, 576)
    assert (tokens[9:] == codec.tokenize(flux[9:], DES)).float().mean() > 0.999
    assert codec.tokenize(flux[:0], DES).shape == (0, 576) and codec.detokenize(tokens[:0], DES).shape == (0, 4, 96, 96)
    assert torch.equal(codec.tokenize(flux[:2].numpy(), DES), codec.tokenize(flux[:2].double(), DES))


def test_what_comes_in_stays_as_it_is(codec: ImageCodec) -> None:
    flux = pixels(2, 5) * 5000
    before = flux.clone()
    first = codec.tokenize(flux, HSC)
    assert torch.equal(flux, before) and torch.equal(first, codec.tokenize(flux, HSC))


def test_the_order_of_bands_is_that_of_the_channels(codec: ImageCodec) -> None:
    flux = pixels(1)
    tokens = codec.tokenize(flux, DES)
    assert (codec.tokenize(flux.flip(1), DES[::-1]) == tokens).float().mean() > 0.99
    assert (codec.tokenize(flux.flip(1), DES) == tokens).float().mean() < 0.9


@pytest.mark.parametrize("size", [1, 64, 95])
def test_small_images_are_padded_and_said_to_be(codec: ImageCodec, size: int) -> None:
    flux = pixels(1, size=size)
    with pytest.warns(CodecWarning, match=f"{size} x {size} pixels are smaller than 96 x 96"):
        tokens = codec.tokenize(flux, DES)
    whole = torch.zeros(1, 4, 96, 96)
    low = 48 - size // 2
    whole[..., low : low + size, low : low + size] = flux
    assert torch.equal(tokens, codec.tokenize(whole, DES))


def test_the_middle_pixel_stays_in_the_middle() -> None:
    for size in (1, 2, 64, 95, 96, 97, 160, 161):
        x = torch.zeros(size, size)
        x[size // 2, size // 2] = 1
        assert stamp(x)[48, 48] == 1 and stamp(x).shape == (96, 96)
    assert stamp(torch.ones(200, 50)).sum() == 96 * 50


def test_pixels_that_are_not_numbers_count_as_zero(codec: ImageCodec) -> None:
    flux = pixels()
    flux[0, 1, 40:44, 50], flux[1, 2, 3, 3] = torch.nan, torch.inf
    mended = flux.clone()
    mended[0, 1, 40:44, 50], mended[1, 2, 3, 3] = 0.0, 20.0
    assert torch.equal(codec.tokenize(flux, DES), codec.tokenize(mended, DES))


@pytest.mark.parametrize(("bands", "error", "message"), [
    (["DES-G", "DES-U"], KeyError, "unknown band 'DES-U'; the image codec knows HSC-G, .*DES-Z"),
    (["DES-G", "HSC-G"], ValueError, "two surveys in one image: DES-G, HSC-G"),
    (["DES-G", "DES-G"], ValueError, "all different"),
    ([], ValueError, "at least one"),
    (["DES-G"], ValueError, r"flux must be \(B, 1, H, W\) for the bands \['DES-G'\], got the shape \(1, 2, 96, 96\)"),
    ("sdss", KeyError, "unknown band 'sdss'"),
])
def test_bands_that_cannot_be(codec: ImageCodec, bands: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        codec.tokenize(pixels(1, 2), bands)


def test_tokens_that_cannot_be(codec: ImageCodec) -> None:
    with pytest.raises(ValueError, match="id 4375 of FSQ is out of range"):
        codec.detokenize(torch.full((1, 576), 4375), DES)
    with pytest.raises(ValueError, match=r"tokens must be \(B, 576\), got the shape \(1, 500\)"):
        codec.detokenize(torch.zeros(1, 500).long(), DES)


def test_objects_there_and_back(codec: ImageCodec) -> None:
    for survey, bands in (("legacy", DES), ("hsc", HSC)):
        objects = sky(3, survey)
        tokens = codec.encode(objects)
        assert tokens.dtype == torch.int16 and tokens.shape == (3, 576) and codec.encode(objects[0]).shape == (576,)
        flux = torch.from_numpy(np.stack([o.images[0].pixels for o in objects]))
        assert (tokens.int() == codec.tokenize(flux, bands)).float().mean() > 0.999
        images = codec.decode(tokens, bands)
        assert images[0].survey == survey and images[0].unit == objects[0].images[0].unit
        assert images[0].bands == objects[0].images[0].bands and images[0].pixel_scale == objects[0].images[0].pixel_scale
        np.testing.assert_allclose(images[2].pixels, codec.detokenize(tokens, survey)[2].numpy(), rtol=1e-5)
        assert codec.decode(tokens[0], bands[:2]).pixels.shape == (2, 96, 96)
        again = codec.encode([SkyObject("again", images=(i,)) for i in images])
        assert again.shape == tokens.shape
    with pytest.raises(ValueError, match="two surveys"):
        codec.decode(tokens, ["DES-G", "HSC-G"])


def test_objects_of_several_sizes_and_bands_in_one_batch(codec: ImageCodec) -> None:
    mixed = [*sky(2, size=96), *sky(1, size=130)]
    fewer = replace(mixed[1].images[0], pixels=mixed[1].images[0].pixels[:2], bands=("g", "r"))
    mixed.insert(1, SkyObject("two", images=(fewer,)))
    tokens = codec.encode(mixed)
    for row, obj in enumerate(mixed):
        assert (tokens[row] == codec.encode(obj)).float().mean() > 0.999


def test_units_of_objects(codec: ImageCodec) -> None:
    (one,) = sky(1)
    image = one.images[0]
    in_njy = replace(image, pixels=image.pixels * 3630.7805, unit=u.nJy)
    assert (codec.encode(SkyObject("a", images=(in_njy,))) == codec.encode(one)).float().mean() > 0.99
    for wrong in (replace(image, unit=u.ct), replace(image, calibrated=False)):
        with pytest.raises(ValueError, match=r"image of object a .* cannot be turned into nmgy"):
            codec.encode(SkyObject("a", images=(wrong,)))


def test_bad_pixels_of_objects(codec: ImageCodec) -> None:
    (one,) = sky(1)
    image = one.images[0]
    mask = np.zeros(image.pixels.shape, bool)
    mask[1, 20:30, 40:60] = True
    spoilt = np.where(mask, np.nan, image.pixels)
    clean = np.where(mask, 0.0, image.pixels).astype(np.float32)
    expected = codec.encode(SkyObject("a", images=(replace(image, pixels=clean),)))
    assert torch.equal(codec.encode(SkyObject("a", images=(replace(image, pixels=spoilt),))), expected)
    assert torch.equal(codec.encode(SkyObject("a", images=(replace(image, mask=mask),))), expected)
    with pytest.raises(ValueError, match="image of object a has no good pixel"):
        codec.encode(SkyObject("a", images=(replace(image, mask=np.ones_like(mask)),)))


def test_other_scales_only_on_request(codec: ImageCodec) -> None:
    coarse = [SkyObject("c", images=(replace(sky(1)[0].images[0], pixel_scale=0.4),))]
    with pytest.raises(ValueError, match=r"image of object c has 0.4\" pixels .* 0.262\" of legacy; resample=True"):
        codec.encode(coarse)
    with pytest.warns(CodecWarning, match=r"c: brought to the bands and the 0.262\" pixels of legacy"):
        assert codec.encode(coarse, resample=True).shape == (1, 576)
    other = Image(np.random.default_rng(0).normal(size=(2, 120, 120)), ("g", "r"), "rubin", unit=u.nJy, pixel_scale=0.2)
    with pytest.raises(KeyError, match="object r has rubin"):
        codec.encode(SkyObject("r", images=(other,)))
    with pytest.raises(KeyError, match="no image of hsc; it has rubin"):
        codec.encode(SkyObject("r", images=(other,)), survey="hsc")
    for mixed in ([SkyObject("r", images=(other,)), *coarse], [*coarse, SkyObject("r", images=(other,))]):
        with pytest.raises(KeyError, match="survey= and resample=True bring other surveys' images to one of them"):
            codec.encode(mixed, resample=True)
    with pytest.warns(CodecWarning, match="r: brought to"):
        codec.encode(SkyObject("r", images=(other,)), survey="hsc", resample=True)


def test_objects_that_do_not_fit(codec: ImageCodec) -> None:
    with pytest.raises(KeyError, match="object a has none"):
        codec.encode(SkyObject("a"))
    with pytest.raises(KeyError, match="no survey 'sdss'; it knows legacy, hsc"):
        codec.encode(sky(1), survey="sdss")
    image = sky(1)[0].images[0]
    with pytest.warns(CodecWarning, match=r"bands \['u'\] are not known"):
        codec.encode(SkyObject("a", images=(replace(image, bands=("u", "g", "r", "z")),)))
    with pytest.raises(KeyError, match="object a has the bands"):
        codec.encode(SkyObject("a", images=(replace(image, bands=("u", "W1", "W2", "Y")),)))
    with pytest.warns(CodecWarning, match="legacy-0: 64 x 64 pixels, padded with zeros to 96 x 96"):
        codec.encode(sky(1, size=64))


def test_a_fast_copy(codec: ImageCodec) -> None:
    quick = fast(codec)
    flux = pixels(4)
    assert quick.embed.weight.data_ptr() == codec.embed.weight.data_ptr() and not quick.training
    assert (quick.tokenize(flux, DES) == codec.tokenize(flux, DES)).float().mean() > 0.8
    exact, drawn = codec.detokenize(codec.tokenize(flux, DES), DES), quick.detokenize(codec.tokenize(flux, DES), DES)
    assert (drawn - exact).std() < 0.1 * exact.std()


def test_inference_mode_does_not_matter() -> None:
    flux = pixels(1)
    with torch.inference_mode():
        made = image_codec()
        first = made.tokenize(flux, DES)
    assert torch.equal(made.tokenize(flux, DES), first)
    outside = image_codec()
    with torch.inference_mode():
        assert torch.equal(outside.tokenize(flux, DES), first) and outside.detokenize(first, DES).shape == (1, 4, 96, 96)
    assert torch.equal(outside.tokenize(flux, DES), first) and outside.detokenize(first, DES).shape == (1, 4, 96, 96)


def test_segmentation_maps() -> None:
    codec = segmentation_codec()
    field = torch.rand(2, 120, 100, generator=torch.Generator().manual_seed(0))
    tokens = codec.tokenize(field)
    assert tokens.shape == (2, 144) and tokens.dtype == torch.int32 and codec.vocabulary == 1000
    back = codec.detokenize(tokens)
    assert back.shape == (2, 96, 96) and back.min() >= 0 and back.max() <= 1
    assert torch.equal(codec.tokenize(field[:, 12:108, 2:98]), tokens)
    with pytest.raises(ValueError, match=r"a field must be \(B, H, W\)"):
        codec.tokenize(field[0])
    with pytest.raises(ValueError, match="id 1000 of FSQ"):
        codec.detokenize(torch.full((1, 144), 1000))
    with pytest.warns(CodecWarning, match="padded"):
        codec.tokenize(field[:, :50])
    objects = [SkyObject(f"m{i}", images=(Image(f[None].numpy(), ("segmentation",)),)) for i, f in enumerate(field)]
    assert torch.equal(codec.encode(objects).int(), tokens) and codec.encode(objects).dtype == torch.int16
    maps = codec.decode(codec.encode(objects))
    assert maps[1].bands == ("segmentation",) and maps[1].pixels.shape == (1, 96, 96)
    assert codec.encode([SkyObject("again", images=(m,)) for m in maps]).shape == (2, 144)
    with pytest.raises(KeyError, match="no image of the one band 'segmentation'; it has g/r/i/z"):
        codec.encode(sky(1))
    with pytest.raises(ValueError, match="object l goes from 0 to 3; it must be from 0 to 1"):
        codec.encode(SkyObject("l", images=(Image(np.arange(4).reshape(1, 2, 2), ("segmentation",)),)))


def test_arrays_as_files_hold_them_are_taken(recwarn: pytest.WarningsRecorder) -> None:
    codec = image_codec()
    flux = np.random.default_rng(2).normal(0, 0.1, (1, 4, 96, 96)).astype(np.float32)
    bands = ["DES-G", "DES-R", "DES-I", "DES-Z"]
    expected = codec.tokenize(flux, bands=bands)
    foreign = flux.astype(">f4")
    foreign.flags.writeable = False
    assert torch.equal(codec.tokenize(foreign, bands=bands), expected) and not recwarn.list
    assert foreign.dtype.str == ">f4"
