"""Shapes, masks, independence of the batch, and losses with known values."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from engine.models import AstroClip, AstroClipConfig, Pairs, contrastive_loss, losses
from engine.models.blocks import Attention, attend
from engine.models.image import patches
from engine.models.inputs import APERTURES, CHANNELS, FIELDS
from engine.models.spectrum import normalise

CONFIG = AstroClipConfig(width=32, image_layers=2, spectrum_layers=2, heads=2, expand=2, space=16, drawn=64)


@pytest.fixture(scope="module")
def model() -> AstroClip:
    model = AstroClip(CONFIG).eval()
    model.init_weights(0)
    return model


def pairs(count: int, seed: int = 0) -> Pairs:
    g = torch.Generator().manual_seed(seed)
    stamps = {f.survey: torch.randn(count, len(f.bands), f.size, f.size, generator=g) for f in FIELDS}
    present = torch.ones(count, len(CHANNELS), dtype=torch.bool)
    bins = CONFIG.grid.bins
    return Pairs(stamps, torch.randn(count, len(CHANNELS), len(APERTURES) + 1, generator=g), present,
                 1 + torch.rand(count, bins, generator=g), 5 + torch.rand(count, bins, generator=g),
                 torch.randn(count, 2, CONFIG.drawn // 2, generator=g))


def test_vectors_are_of_unit_length(model: AstroClip) -> None:
    b = pairs(3)
    for vectors in (model.encode_image(b.stamps, b.photometry, b.present), model.encode_spectrum(b.flux, b.weight)):
        assert vectors.shape == (3, 16) and vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_a_vector_does_not_depend_on_its_batch(model: AstroClip) -> None:
    b = pairs(5)
    image = model.encode_image(b.stamps, b.photometry, b.present)
    alone = model.encode_image({s: x[2:3] for s, x in b.stamps.items()}, b.photometry[2:3], b.present[2:3])
    torch.testing.assert_close(image[2:3], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_spectrum(b.flux, b.weight)[2:3],
                               model.encode_spectrum(b.flux[2:3], b.weight[2:3]), atol=1e-5, rtol=0)


def test_photometry_of_absent_channels_is_not_read(model: AstroClip) -> None:
    b = pairs(2)
    present = b.present.clone()
    present[:, 4:] = False
    other = b.photometry.clone()
    other[:, 4:] = 99.0
    stamps = {"legacy": b.stamps["legacy"], "hsc": torch.zeros_like(b.stamps["hsc"])}
    torch.testing.assert_close(model.encode_image(stamps, b.photometry, present), model.encode_image(stamps, other, present))


def test_bins_that_were_not_measured_are_not_read(model: AstroClip) -> None:
    b = pairs(2)
    weight = b.weight.clone()
    weight[:, 300:700] = 0
    other = b.flux.clone()
    other[:, 300:700] = 1e4
    torch.testing.assert_close(model.encode_spectrum(b.flux, weight), model.encode_spectrum(other, weight), atol=1e-5, rtol=0)


def test_an_empty_spectrum_is_finite(model: AstroClip) -> None:
    assert torch.isfinite(model.encode_spectrum(torch.zeros(1, CONFIG.grid.bins), torch.zeros(1, CONFIG.grid.bins))).all()


def test_patches_hold_neighbouring_pixels() -> None:
    stamp = torch.arange(16.0).view(1, 1, 4, 4)
    assert patches(stamp, 2)[0, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_attention_written_out_equals_the_fused_kernel() -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(attend(q, k, v), F.scaled_dot_product_attention(q, k, v), atol=1e-5, rtol=1e-5)


def test_attention_moves_with_its_tokens() -> None:
    attention, x = Attention(16, 2), torch.randn(1, 6, 16)
    order = torch.randperm(6)
    torch.testing.assert_close(attention(x)[:, order], attention(x[:, order]), atol=1e-5, rtol=1e-4)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="3 heads"):
        Attention(16, 3)


def test_contrastive_loss_of_known_vectors() -> None:
    eye = torch.eye(8)
    assert float(contrastive_loss(eye, eye, 0.0)) == pytest.approx(math.log(8))
    assert float(contrastive_loss(eye, eye, 15.5)) == pytest.approx(math.log(1 + 7 * math.exp(-15.5)), abs=1e-6)
    assert float(contrastive_loss(eye, eye.roll(1, 0), 15.5)) > 15


def test_losses_teach_every_tensor(model: AstroClip) -> None:
    trained = AstroClip(CONFIG)
    trained.init_weights(0)
    total, parts = losses(trained, pairs(4), draw_weight=1.0)
    total.backward()
    silent = [name for name, p in trained.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == [] and set(parts) == {"match", "top1", "scale", "shape_image", "lines_image", "shape_spectrum",
                                              "lines_spectrum"}


def test_scale_starts_at_the_paper_s_and_is_bounded(model: AstroClip) -> None:
    assert float(model.scale().detach()) == pytest.approx(15.5)
    bold = AstroClip(CONFIG)
    bold.log_scale.data.fill_(10.0)
    assert float(bold.scale().detach()) == pytest.approx(60.0)


def test_normalised_spectra() -> None:
    b = pairs(4)
    shape, quality, mean, scatter = normalise(b.flux, b.weight)
    assert shape.mean(1).abs().max() < 0.05 and (quality < 1).all() and (quality > 0).all()
    torch.testing.assert_close(mean[:, 0], b.flux.mean(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scatter[:, 0], b.flux.std(1), rtol=1e-2, atol=1e-4)


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two = AstroClip(CONFIG), AstroClip(CONFIG)
    one.init_weights(7)
    two.init_weights(7)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
