"""What is read and what is asked for: budgets are kept, nothing is both, what is absent is neither, and all get a turn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.models.omni_config import OmniConfig
from engine.train.masking import Budgets, Chosen, Layout, choose

KEYS = ("tok_image", "tok_spectrum_desi", "catalog", "tok_z", "tok_flux_g", "tok_flux_r")
CONFIG = OmniConfig(KEYS, KEYS, norm_bias=False, act_layer="SiLU", dim=16, encoder_depth=1, decoder_depth=1, num_heads=1,
                    sizes={"tok_image": (64, 40), "tok_spectrum_desi": (30, 20), "catalog": (12, 50)})
LAYOUT = Layout(CONFIG)
BUDGETS = [Budgets((24,), 16), Budgets((24,), 16, scheme="aion")]
both = pytest.mark.parametrize("budgets", BUDGETS, ids=["dirichlet", "aion"])


def objects(rows: int = 200, seed: int = 0) -> Tensor:
    """(B, N): modalities are absent at random, catalogues are of any length; each object has an image or a spectrum."""
    generator = torch.Generator().manual_seed(seed)
    has = torch.rand(rows, len(KEYS), generator=generator) < 0.6
    has[::2, 0], has[1::2, 1] = True, True
    there = has[:, LAYOUT.modality]
    own = LAYOUT.slices["catalog"]
    there[:, own] &= torch.arange(12) < torch.randint(1, 13, (rows, 1), generator=generator)
    return there


def spread(places: Tensor, kept: Tensor) -> Tensor:
    return torch.zeros(len(places), LAYOUT.places + 1, dtype=torch.bool).scatter_(
        1, places.masked_fill(~kept, LAYOUT.places), True)[:, :-1]


def read_and_asked(chosen: Chosen) -> tuple[Tensor, Tensor]:
    """(B, N) each; of a sequence, what is asked for is the token behind the place."""
    asked = spread(chosen.targets, chosen.targets_kept)
    own = LAYOUT.slices["catalog"]
    asked[:, own] |= asked[:, own].roll(1, 1)  # and its first token, which is given
    return spread(chosen.inputs, chosen.inputs_kept), asked


@both
def test_disjoint_there_and_within_budget(budgets: Budgets) -> None:
    there = objects()
    for step in range(20):
        chosen = choose(there, LAYOUT, budgets, seed=1, step=step)
        read, asked = read_and_asked(chosen)
        assert not (read & asked).any() and not ((read | asked) & ~there).any()
        inputs, targets = chosen.inputs_kept.sum(1), chosen.targets_kept.sum(1)
        assert inputs.min() >= 1 and inputs.max() <= 24 and targets.max() <= 16
        assert (targets >= 1)[there.sum(1) > 1].all()
        assert chosen.inputs.shape[1] <= 24 and chosen.targets.shape[1] <= 16
        for places, kept in ((chosen.inputs, chosen.inputs_kept), (chosen.targets, chosen.targets_kept)):
            assert (places.diff(dim=1) > 0)[kept[:, 1:]].all() and (kept.int().diff(dim=1) <= 0).all()


def test_budgets_are_filled_where_there_is_enough() -> None:
    there = objects()
    rich = there[:, LAYOUT.slices["tok_image"]].all(1)
    for step in range(5):
        chosen = choose(there, LAYOUT, BUDGETS[0], seed=2, step=step)
        assert (chosen.inputs_kept.sum(1)[rich] == 24).all() and (chosen.targets_kept.sum(1)[rich] == 16).all()


def test_the_number_of_inputs_is_one_of_a_list() -> None:
    there = torch.ones(4, LAYOUT.places, dtype=torch.bool)
    budgets = Budgets((8, 16, 40), 16)
    numbers = {choose(there, LAYOUT, budgets, 3, step).inputs.shape[1] for step in range(40)}
    assert numbers == {8, 16, 40}


@both
def test_every_modality_gets_a_turn_on_both_sides(budgets: Budgets) -> None:
    there = objects()
    read, asked = torch.zeros(len(KEYS)), torch.zeros(len(KEYS))
    for step in range(20):
        chosen = choose(there, LAYOUT, budgets, seed=4, step=step)
        read += LAYOUT.modality[chosen.inputs[chosen.inputs_kept]].bincount(minlength=len(KEYS))
        asked += LAYOUT.modality[chosen.targets[chosen.targets_kept]].bincount(minlength=len(KEYS))
    assert (read > 100).all() and (asked > 100).all()


@both
def test_a_function_of_seed_and_step(budgets: Budgets) -> None:
    there = objects(8)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    first, again = (choose(there, LAYOUT, budgets, seed=5, step=7) for _ in range(2))
    assert torch.equal(first.inputs, again.inputs) and torch.equal(first.targets, again.targets)
    assert torch.equal(torch.get_rng_state(), state)
    for other in (choose(there, LAYOUT, budgets, 6, 7), choose(there, LAYOUT, budgets, 5, 8)):
        assert other.inputs.shape != first.inputs.shape or not torch.equal(other.inputs, first.inputs)


def test_what_is_always_asked_for_is_never_read() -> None:
    there = torch.ones(300, LAYOUT.places, dtype=torch.bool)
    chosen = choose(there, LAYOUT, Budgets((24,), 16, asked=(("tok_z", 1.0), ("catalog", 0.25))), 1, 0)
    read, asked = (spread(*pair) for pair in ((chosen.inputs, chosen.inputs_kept), (chosen.targets, chosen.targets_kept)))
    assert asked[:, LAYOUT.slices["tok_z"]].all()
    catalog = LAYOUT.slices["catalog"]
    whole = asked[:, catalog].sum(1)
    assert set(whole.tolist()) == {0, 11}  # all its tokens but the first, or none
    assert 0.15 < (whole > 0).float().mean() < 0.35 and not read[:, catalog][whole > 0].any()


def test_a_translation_reads_its_sources_and_asks_for_its_target_alone() -> None:
    there = torch.ones(400, LAYOUT.places, dtype=torch.bool)
    there[:100, LAYOUT.slices["tok_flux_r"]] = False  # these have no such pair
    sources, spectrum = LAYOUT.of(("tok_image", "tok_flux_r")), LAYOUT.of(("tok_spectrum_desi",))
    budgets = Budgets((80,), 16, translations=((("tok_image", "tok_flux_r"), "tok_spectrum_desi", 0.5),))
    chosen = choose(there, LAYOUT, budgets, 1, 0)
    read, asked = (spread(*pair) for pair in ((chosen.inputs, chosen.inputs_kept), (chosen.targets, chosen.targets_kept)))
    translated = (read == sources).all(1)
    assert 0.35 < translated[100:].float().mean() < 0.65 and not translated[:100].any()
    assert not asked[translated][:, ~spectrum].any() and (asked[translated].sum(1) == 16).all()
    assert asked[translated][:, LAYOUT.slices["tok_spectrum_desi"].start].all()
    assert asked[~translated][:, ~spectrum].any() and not (read & asked).any()


def test_a_catalogue_is_translated_from_its_start() -> None:
    there = torch.ones(50, LAYOUT.places, dtype=torch.bool)
    chosen = choose(there, LAYOUT, Budgets((64,), 5, asked=(), translations=((("tok_image",), "catalog", 1.0),)), 1, 0)
    assert (chosen.targets[:, :5] == LAYOUT.slices["catalog"].start + torch.arange(5)).all() and chosen.targets_kept.all()


@both
def test_of_a_sequence_the_first_tokens_are_read(budgets: Budgets) -> None:
    chosen = choose(torch.ones(100, LAYOUT.places, dtype=torch.bool), LAYOUT, budgets, 1, 3)
    read = spread(chosen.inputs, chosen.inputs_kept)[:, LAYOUT.slices["catalog"]]
    assert read.any() and (read.int().diff(dim=1) <= 0).all()


def test_an_object_with_a_single_token_is_read() -> None:
    there = torch.zeros(3, LAYOUT.places, dtype=torch.bool)
    there[:, LAYOUT.slices["tok_z"]] = True
    there[1, LAYOUT.slices["tok_flux_g"]] = True
    chosen = choose(there, LAYOUT, Budgets((24,), 16, asked=(("tok_z", 1.0),)), 1, 0)
    assert chosen.inputs_kept.sum(1).tolist() == [1, 1, 1] and chosen.targets_kept.sum(1).tolist() == [0, 1, 0]


def test_shares_of_modalities_are_even_on_average() -> None:
    """Groups, not tokens, share the budget: an image of 64 tokens and a spectrum of 30 are read alike before one runs out."""
    there = torch.ones(4000, LAYOUT.places, dtype=torch.bool)
    there[:, LAYOUT.slices["catalog"]] = False
    chosen = choose(there, LAYOUT, Budgets((6,), 4, concentration_in=5.0, asked=()), 1, 0)
    share = LAYOUT.modality[chosen.inputs].flatten().bincount(minlength=len(KEYS)) / chosen.inputs.numel()
    assert abs(share[0] - share[1]) < 0.03 and share[3:].sum() > 0.25


@pytest.mark.parametrize(("changes", "message"), [
    ({"inputs": ()}, "inputs"), ({"targets": 0}, "0 targets"), ({"scheme": "mae"}, "'mae'; it must be one of dirichlet, aion"),
    ({"concentration_in": 0.0}, "above 0"), ({"asked": (("tok_z", 2.0),)}, "tok_z.*shares go from 0 to 1"),
    ({"translations": ((("tok_z",), "tok_z", 0.1),)}, "what is asked for is not read")])
def test_impossible_budgets_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budgets(**changes)  # type: ignore[arg-type]
