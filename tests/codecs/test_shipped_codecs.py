"""The codecs that ship keep what they are there to keep, on objects that they were not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine import simulate
from engine.checkpoints import CodecBundle
from engine.codecs import CompactImageCodec, SpectrumCodec
from engine.codecs.compact import light
from engine.codecs.image import BANDS, BANDS_OF, INDEX

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "omnisky-demo"


@pytest.fixture(scope="module")
def bundle() -> CodecBundle:
    return CodecBundle.load(FOLDER)


@pytest.fixture(scope="module")
def sky() -> dict[str, Tensor]:
    return simulate.render(4711, torch.arange(48), truth=True)


def test_there_is_one_of_every_modality_of_the_simulated_sky(bundle: CodecBundle) -> None:
    assert {"tok_image", "tok_image_hsc", "tok_spectrum_desi", "tok_spectrum_sdss", "tok_xp_bp", "tok_xp_rp", "tok_segmap",
            "catalog", "tok_z", "tok_flux_g", "tok_mag_y", "tok_shape_e1", "tok_ebv"} <= set(bundle.codecs)
    assert bundle.modalities["tok_image"].tokens == 145 and bundle.modalities["tok_spectrum_desi"].tokens == 137


@pytest.mark.parametrize("survey", ["legacy", "hsc"])
def test_images_are_nearer_to_the_truth_than_noisy_pixels(bundle: CodecBundle, sky: dict[str, Tensor], survey: str) -> None:
    codec = bundle.codecs["tok_image"]
    assert isinstance(codec, CompactImageCodec)
    truth, unit = sky[f"{survey}_truth"], BANDS[INDEX[BANDS_OF[survey][0]]].unit
    noisy = torch.where(sky[f"{survey}_mask"], 0.0, sky[survey])
    drawn = codec.detokenize(codec.tokenize(noisy, survey), survey)

    def psnr(pixels: Tensor) -> float:
        error = (pixels - truth).square().flatten(2).mean(2) / unit**2
        return float((10 * torch.log10((truth.flatten(2).amax(2) / unit) ** 2 / error)).median())

    assert psnr(drawn) > psnr(noisy) + 1.0 and psnr(drawn) > 36


@pytest.mark.parametrize("band", ["DES-G", "DES-I", "DES-Z"])
def test_without_a_band_tokens_say_the_same(bundle: CodecBundle, sky: dict[str, Tensor], band: str) -> None:
    """Those of DR9's g, r, z are read by a model that knows those of g, r, i, z; taken by itself, each mean is another one."""
    codec = bundle.codecs["tok_image"]
    assert isinstance(codec, CompactImageCodec)
    every = BANDS_OF["legacy"]
    left = [i for i, name in enumerate(every) if name != band]
    pixels = torch.where(sky["legacy_mask"], 0.0, sky["legacy"])
    whole, some = codec.tokenize(pixels, "legacy"), codec.tokenize(pixels[:, left], [every[i] for i in left])
    mags = codec.config.step * (some[:, 0] - whole[:, 0])
    assert float(mags.median().abs()) < 0.02 and float(mags.abs().median()) < 0.06
    inside = [light(codec.detokenize(tokens, "legacy"), (2.0,), "legacy")[..., 0] for tokens in (whole, some)]
    off = (2.5 * torch.log10(inside[1] / inside[0].clamp_min(1e-3))).abs().median(0).values
    assert float(off[left].max()) < 0.05 and float(off.max()) < 0.2, "a blue end that was not seen is a guess"


def test_spectra_keep_their_shape(bundle: CodecBundle, sky: dict[str, Tensor]) -> None:
    codec = bundle.codecs["tok_spectrum_desi"]
    assert isinstance(codec, SpectrumCodec)
    wavelength = 3600 + 0.8 * torch.arange(sky["desi"].shape[1])
    drawn, _ = codec.detokenize(codec.tokenize(sky["desi"], sky["desi_ivar"], sky["desi_mask"], wavelength), wavelength)
    truth = sky["desi_truth"]
    spread = (truth - truth.mean(1, keepdim=True)).square().mean(1)
    assert float((1 - (drawn - truth).square().mean(1) / spread).median()) > 0.8


def test_redshifts_are_kept_to_their_bin(bundle: CodecBundle) -> None:
    z = torch.linspace(0, 5.9, 500)
    codec = bundle.codecs["tok_z"]
    back = codec.detokenize(codec.tokenize(z))  # type: ignore[union-attr,call-arg,arg-type]
    assert float(((back - z).abs() / (1 + z)).max()) < 1.1e-3  # half of ln(7) / 1023
