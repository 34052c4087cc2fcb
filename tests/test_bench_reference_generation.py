"""The comparison of samplers times the same thing in both: same weights, same tokens in, a whole spectrum of valid ids out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.generation.draws import Settings
from engine.modalities import MODALITIES
from engine.models.omni import Omni
from tools.bench import reference_generation as bench
from tools.bench.reference_lines import flops

pytest.importorskip("aion", reason="the reference (pip install polymathic-aion==0.0.2) is not installed")

SPECTRUM = MODALITIES[bench.TARGET]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Omni]]:
    """The reference's model and ours, tiny."""
    folder: Path = tmp_path_factory.mktemp("tiny") / "aion"
    return bench.models(folder, dim=32, num_heads=2, encoder_depth=1, decoder_depth=1)


@pytest.mark.parametrize("scheme", bench.SCHEMES)
def test_both_draw_whole_spectra(both: tuple[Any, dict[str, Omni]], scheme: Any) -> None:
    reference, mine = both
    tokens, settings = bench.image(2), Settings(scheme, 3)
    ways = [bench.theirs(reference, tokens, settings), *(bench.ours(model, tokens, settings) for model in mine.values())]
    with torch.inference_mode():
        drawn = [way() for way in ways]
    for ids in drawn:
        assert ids.shape == (2, SPECTRUM.tokens)
        assert int(ids.min()) >= 0 and int(ids.max()) < SPECTRUM.vocabulary
        assert len(ids.unique()) > 100  # weights are random: a sampler that worked draws many
    assert sum(step["num_tokens"] for step in bench.schedule(scheme, 3)) == SPECTRUM.tokens


def test_both_are_the_same_model(both: tuple[Any, dict[str, Omni]]) -> None:
    reference, mine = both
    tokens = bench.image(1)
    with torch.inference_mode():
        theirs = bench.first_logits(reference, tokens)
    assert bench.difference(theirs, mine["float32"], tokens) < 1e-4


@pytest.mark.parametrize("scheme", bench.SCHEMES)
def test_operations_are_those_that_torch_counts(both: tuple[Any, dict[str, Omni]], scheme: Any) -> None:
    reference, mine = both
    tokens, settings = bench.image(1), Settings(scheme, 3)
    counted = flops(bench.theirs(reference, tokens, settings))
    assert bench.operations(mine["float32"].config, settings, mine=False) == counted


def test_lines_say_what_is_wanted(both: tuple[Any, dict[str, Omni]]) -> None:
    first, *others = bench.measured(*both, batch=1, repeats=1, settings=Settings("roar", 2))
    assert first["program"] == "reference" and first["ratio"] == 1 and "wanted" not in first
    exact = next(line for line in others if line["program"] == "float32")
    assert exact["wanted"] == 0.25 and exact["reached"] == (exact["ratio"] <= 0.25)
    assert exact["seconds"] > 0 and exact["operations (TFLOP)"] > 0


def test_ids_that_are_no_spectrum_s_are_an_error() -> None:
    ids = torch.zeros(1, SPECTRUM.tokens, dtype=torch.long)
    there = torch.ones_like(ids, dtype=torch.bool)
    assert bench.checked(ids, there, 1) is ids
    for wrong, complete in ((ids[:, 1:], there), (ids + SPECTRUM.vocabulary, there), (ids - 1, there), (ids, ~there)):
        with pytest.raises(RuntimeError, match="expected"):
            bench.checked(wrong, complete, 1)
