"""Labels that are spread over bins, and what a model says of them brought back."""

from __future__ import annotations

import pytest
import torch

from engine.models.spreading import ROUNDS, spread, unspread

V = 200


def test_a_label_is_spread_evenly_and_keeps_its_sum() -> None:
    kernel = spread(V, 1.5)
    assert torch.allclose(kernel.sum(1), torch.ones(V))
    bins = torch.arange(V, dtype=torch.float32)
    mean = kernel[100] @ bins
    assert torch.allclose(mean, torch.tensor(100.0)) and torch.allclose(kernel[100] @ (bins - mean) ** 2, torch.tensor(1.5**2))


def test_what_a_calibrated_model_says_is_brought_back() -> None:
    """A narrow and a broad posterior, two peaks, and one at the end of the grid: nearer to the truth than what was said."""
    bins = torch.arange(V, dtype=torch.float32)
    shapes = ((80.3, 0.7), (60, 9), (120, 1), (199, 1))
    peak = torch.stack([torch.exp(-0.5 * ((bins - at) / width) ** 2) for at, width in shapes])
    true = torch.cat([peak, peak[:1] + 0.5 * peak[2:3]])
    true = true / true.sum(1, keepdim=True)
    said = true @ spread(V, 1.0)
    found = unspread(said.log(), 1.0).softmax(-1)
    assert torch.allclose(found.sum(1), torch.ones(len(true)))
    before, after = ((true - p).abs().sum(1) for p in (said, found))
    assert (after < 0.35 * before + 0.01).all()
    narrow = (found[0] @ (bins - found[0] @ bins) ** 2).sqrt()
    assert 0.6 < narrow < 0.85  # .7, and 1.2 as it was said


@pytest.mark.parametrize("width", [0.5, 2.0, 300.0])
def test_shifted_sums_are_the_product_with_the_whole_matrix(width: float) -> None:
    logits = 3 * torch.randn(5, V, generator=torch.Generator().manual_seed(0))
    kernel, said = spread(V, width), logits.softmax(-1)
    found = said
    for _ in range(ROUNDS):
        found = found * ((said / (found @ kernel)) @ kernel.T)
    torch.testing.assert_close(unspread(logits, width).exp(), found, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(unspread(logits[:1, None], width)[0, 0].exp(), found[0], rtol=1e-3, atol=1e-6)


def test_certainty_stays_finite() -> None:
    logits = torch.full((1, V), -1e4)
    logits[0, 5] = 0.0
    found = unspread(logits, 1.0)
    assert torch.isfinite(found).all() and found.argmax() == 5
