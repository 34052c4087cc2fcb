"""Draws of tokens: they follow what the model says, in every scheme, and a row knows nothing of the others in its batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.codecs.catalog import END, SHIFT
from engine.generation import Settings, draws, grids, reading, sequences, surprises
from engine.models.omni import Omni, OmniConfig

# ------------------------------------------------------------------------------------------------- a joint distribution
# a of {0, 1}; b = a in four of five; v = 2 b in three of four, else 2 b + 1. All 8 tokens of "tok_xp_bp" are a, all 8 of
# "tok_xp_rp" are v; "tok_flux_g" knows of nothing, "tok_flux_r" is a.

A, V, ALONE, COPY = "tok_xp_bp", "tok_xp_rp", "tok_flux_g", "tok_flux_r"
SIZES = {A: (8, 4), V: (8, 4), ALONE: (1, 4), COPY: (1, 4)}
GIVEN_A0 = np.array([0.6, 0.2, 0.15, 0.05])


def joint(n: int, noise: torch.Generator) -> dict[str, Tensor]:
    a = torch.randint(2, (n,), generator=noise)
    b = torch.where(torch.rand(n, generator=noise) < 0.8, a, 1 - a)
    v = 2 * b + (torch.rand(n, generator=noise) < 0.25)
    return {A: a[:, None].expand(-1, 8), V: v[:, None].expand(-1, 8), ALONE: torch.randint(4, (n, 1), generator=noise),
            COPY: a[:, None]}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toy() -> Omni:
    """Trained on it: random tokens hidden, all of them asked for."""
    keys = tuple(SIZES)
    model = Omni(OmniConfig(keys, keys, norm_bias=False, act_layer="SiLU", dim=32, encoder_depth=1, decoder_depth=1,
                            num_heads=4, num_register_tokens=2, sizes=SIZES))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("token_emb.weight", "mod_emb")):
                p.mul_(25)  # it learns sooner what stands where
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=200)
    for _ in range(200):
        tokens = joint(96, noise)
        hidden = {key: (torch.rand(ids.shape, generator=noise) < torch.rand(96, 1, generator=noise))
                       | (torch.rand(96, 1, generator=noise) < 0.4) for key, ids in tokens.items()}
        logits = model(tokens, [V, ALONE, COPY], hidden)
        loss = torch.stack([F.cross_entropy(logits[key][hidden[key]], tokens[key][hidden[key]]) for key in logits]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def noises(n: int, *names: object) -> list[torch.Generator]:
    return [draws.generator(*names, i) for i in range(n)]


def drawn(model: Omni, tokens: dict[str, Tensor], target: str, n: int, seed: int = 0, **settings: Any) -> Tensor:
    return list(grids.generate(model, tokens, {}, target, Settings(**settings), noises(n, seed)))[-1].ids


def zero(n: int = 1) -> dict[str, Tensor]:
    return {A: torch.zeros(n, 8, dtype=torch.long)}


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("scheme, expected", [("roar", GIVEN_A0), ("maskgit", GIVEN_A0**2 / (GIVEN_A0**2).sum())])
def test_rounds_draw_from_the_joint_distribution(toy: Omni, scheme: Any, expected: Any, cache: bool) -> None:
    """MaskGIT draws 8 tokens and keeps one in proportion to its probability, once more: of known bias."""
    ids = drawn(toy, zero(), V, 500, scheme=scheme, steps=8, cache=cache)
    same = (ids == ids[:, :1]).all(1)
    assert same.float().mean() > 0.85, "tokens of a sample agree"
    seen = np.bincount(ids[same, 0], minlength=4) / int(same.sum())
    np.testing.assert_allclose(seen, expected, atol=0.08)


def test_one_step_draws_do_not_know_of_each_other(toy: Omni) -> None:
    ids = drawn(toy, zero(), V, 400, scheme="one-step")
    np.testing.assert_allclose(np.bincount(ids.flatten(), minlength=4) / ids.numel(), GIVEN_A0, atol=0.06)
    assert (ids == ids[:, :1]).all(1).float().mean() < 0.1


@pytest.mark.parametrize("scheme", ["roar", "one-step"])
def test_guidance_sharpens(toy: Omni, scheme: Any) -> None:
    fits = [float((drawn(toy, zero(), V, 200, scheme=scheme, guidance=w) < 2).float().mean()) for w in (0.0, 1.0, 2.0)]
    assert fits[0] < 0.65 < fits[1] < 0.87 < fits[2], "without the inputs half fit, with them four of five"


def test_surprise_tells_what_fits(toy: Omni) -> None:
    rest = {A: zero()[A], V: torch.zeros(1, 8, dtype=torch.long)}

    def of(target: str, value: int, given: dict[str, Tensor]) -> surprises.Surprise:
        ids = torch.full((1, SIZES[target][0]), value)
        return surprises.summary(-surprises.gains(toy, target, ids, given, noises(4, target), 8), 0)

    assert abs(np.mean([of(ALONE, value, rest).nats for value in range(4)])) < 0.1, "what nothing tells of"
    assert of(COPY, 0, rest).nats < -0.4 and of(COPY, 1, rest).nats > 1, "a copy fits, another value does not"
    assert of(V, 0, zero()).nats < 0 < of(V, 2, zero()).nats
    assert len(of(V, 0, zero()).each) == 4 and of(V, 0, zero()).tokens == 8


@pytest.mark.parametrize("given", [True, False])
def test_likelihoods_follow_the_chain_rule(toy: Omni, given: bool) -> None:
    """Read again in every round, they are the model's own, token by token; read once, they are near."""
    ids, order = joint(3, draws.generator(5))[V], draws.orders(noises(3, "order"), 8, torch.device("cpu"))
    objects = torch.tensor([0, 1, 0]) if given else None
    once, again, alone = (reading.log_likelihood(reading.Reading(toy, zero(2), {}, V, cache), objects, ids, order, rounds)
                          for cache, rounds in ((True, [3, 5]), (False, [3, 5]), (True, [8])))
    known = torch.ones_like(ids, dtype=torch.bool).scatter(1, order[:, :3], False)
    tokens, hidden = {A: zero(3)[A], V: ids}, {A: torch.full_like(ids, not given, dtype=torch.bool)}
    for said, at, own in ((alone, order, {V: torch.ones_like(known)}), (once, order[:, :3], {V: torch.ones_like(known)}),
                          (again, order[:, 3:], {V: known})):
        logits = toy.decode(toy.encode(tokens, hidden | own), [V], places={V: at})[V]
        right = logits.log_softmax(-1).gather(2, ids.gather(1, at)[..., None])[..., 0]
        torch.testing.assert_close(said.gather(1, at), right, atol=1e-5, rtol=1e-5)
    assert (once - again).abs().max() < 0.1 and again.sum() > alone.sum(), "what is drawn tells of what is to come"


# ---------------------------------------------------------------------------------------------------- draws and schedules


def wild(registers: int = 2, inputs: tuple[str, ...] = (A, V, ALONE)) -> Omni:
    """Random weights with logits far apart."""
    model = Omni(OmniConfig(inputs, (A, V, ALONE), norm_bias=False, act_layer="SiLU", dim=32, encoder_depth=1, decoder_depth=1,
                            num_heads=4, num_register_tokens=registers, sizes={A: (8, 50), V: (55, 40)}))
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("token_emb.weight", "mod_emb")):
                p.normal_(0, 1, generator=noise)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def random() -> Omni:
    return wild()


def some(n: int = 5) -> dict[str, Tensor]:
    return {A: torch.randint(50, (n, 8), generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("settings", [Settings("roar", 5), Settings("maskgit", 5, top_p=0.9, guidance=1.5),
                                      Settings("one-step", top_k=5), Settings("roar", 60), Settings("roar", 5, cache=False),
                                      Settings("maskgit", 5, guidance=1.5, cache=False)])
def test_every_token_is_revealed_once_and_a_row_knows_nothing_of_others(random: Omni, settings: Settings) -> None:
    def rounds(rows: list[int]) -> list[grids.Round]:
        hidden = {A: torch.zeros(len(rows), 8, dtype=torch.bool)}
        hidden[A][[i for i, row in enumerate(rows) if row == 3], 2:] = True
        noise = [draws.generator(7, row, sample) for row in rows for sample in range(2)]
        return list(grids.generate(random, {A: some()[A][rows]}, hidden, V, settings, noise))

    whole = rounds([0, 1, 2, 3, 4])
    assert len(whole) == min(1 if settings.scheme == "one-step" else settings.steps, 55) and whole[-1].share == 1
    before = torch.zeros(10, 55, dtype=torch.bool)
    for i, one in enumerate(whole):
        assert (one.known >= before).all() and (one.known.sum(1) > before.sum(1)).all() and (one.logits is None) == (i > 0)
        if i:
            assert torch.equal(one.ids[before], whole[i - 1].ids[before]), "what is known stays"
        before = one.known
    assert before.all() and whole[0].logits.shape == (5, 55, 40)  # type: ignore[union-attr]
    for row in range(5):  # float32: no rounding falls between two ids here
        assert torch.equal(rounds([row])[-1].ids, whole[-1].ids[2 * row : 2 * row + 2])
    assert torch.equal(rounds([4, 0])[-1].ids, whole[-1].ids[[8, 9, 0, 1]])
    assert not torch.equal(whole[-1].ids[0], whole[-1].ids[1]), "two samples"


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("registers, guidance", [(2, 1.0), (2, 1.5), (0, 1.5)])
def test_more_objects_than_are_held_at_a_time(cache: bool, registers: int, guidance: float) -> None:
    model, n, settings = wild(registers), grids.ROWS + 4, Settings("roar", 5, guidance=guidance, cache=cache)
    rounds = list(grids.generate(model, some(n), {}, V, settings, noises(n)))
    assert rounds[0].logits.shape == (n, 55, 40)  # type: ignore[union-attr]
    assert all(a.share < b.share and (a.known <= b.known).all() for a, b in itertools.pairwise(rounds))
    assert rounds[-1].known.all() and rounds[-1].share == 1
    for row in (0, n - 1):
        *_, own = grids.generate(model, {A: some(n)[A][[row]]}, {}, V, settings, [draws.generator(row)])
        assert torch.equal(own.ids[0], rounds[-1].ids[row])


def test_tokens_are_read_once_or_again(random: Omni) -> None:
    """The first round is the same; then what was read before does not know of what was drawn after it."""
    cached, again = (list(grids.generate(random, some(), {}, V, Settings("roar", 5, cache=cache), noises(5)))
                     for cache in (True, False))
    assert torch.equal(cached[0].ids, again[0].ids) and not torch.equal(cached[-1].ids, again[-1].ids)
    assert [one.known.sum() for one in cached] == [one.known.sum() for one in again]


@pytest.mark.parametrize("scheme", ["roar", "maskgit", "one-step"])
def test_cold_and_narrow_draws_are_the_most_probable(random: Omni, scheme: Any) -> None:
    cold = drawn(random, some(), V, 5, scheme=scheme, temperature=0)
    assert torch.equal(drawn(random, some(), V, 5, scheme=scheme, temperature=1e-6), cold)
    if scheme != "maskgit":  # whose order is random unless it is cold
        assert torch.equal(drawn(random, some(), V, 5, scheme=scheme, top_k=1), cold)
        assert torch.equal(drawn(random, some(), V, 5, scheme=scheme, top_p=1e-9), cold)
    else:
        assert torch.equal(drawn(random, some(), V, 5, scheme=scheme, top_k=1, steps=1),
                           drawn(random, some(), V, 5, scheme="one-step", temperature=0))
    assert torch.equal(drawn(random, some(), V, 5, scheme=scheme), drawn(random, some(), V, 5, scheme=scheme))
    assert not torch.equal(drawn(random, some(), V, 5, scheme=scheme), drawn(random, some(), V, 5, 1, scheme=scheme))


def test_several_targets_share_what_the_decoder_remembers(random: Omni) -> None:
    both = reading.predict(random, some(), {}, [V, ALONE])
    for target in both:
        torch.testing.assert_close(both[target], random.logits(some(), [target])[target], atol=1e-5, rtol=1e-5)


def test_schedules_add_up() -> None:
    for tokens in (1, 2, 55, 576):
        for steps in (1, 3, 8, 1000):
            for scheme in ("roar", "maskgit"):
                found = draws.counts(scheme, tokens, steps)
                assert sum(found) == tokens and min(found) >= 1 and len(found) == min(steps, tokens)
    roar, cosine = draws.counts("roar", 576, 8), draws.counts("maskgit", 576, 8)
    assert roar[0] == max(roar) and cosine[0] == min(cosine), "many at first, or few"


def test_truncation_and_draws() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(20000, 4)
    u = torch.rand(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for settings, expected in ((Settings(), [0.5, 0.3, 0.15, 0.05]), (Settings(top_k=2), [0.625, 0.375, 0, 0]),
                               (Settings(top_p=0.6), [0.625, 0.375, 0, 0]), (Settings(top_p=0.5), [1, 0, 0, 0]),
                               (Settings(temperature=0.5), [0.685, 0.247, 0.062, 0.007])):
        seen = torch.bincount(draws.pick(logits, u, settings), minlength=4) / 20000
        np.testing.assert_allclose(seen, expected, atol=0.01)


def test_what_cannot_be_drawn(random: Omni) -> None:
    for wrong, says in (({"scheme": "greedy"}, "scheme is 'greedy'; it must be one of roar, maskgit, one-step"),
                        ({"steps": 0}, "steps is 0"), ({"temperature": -1}, "temperature is -1"),
                        ({"temperature": float("nan")}, "temperature is nan"), ({"top_k": 0}, "top_k is 0"),
                        ({"top_p": 1.5}, "top_p is 1.5; it must be above 0 and up to 1"), ({"guidance": -2}, "guidance is -2"),
                        ({"cache": "no"}, "cache is 'no'; it must be True or False")):
        with pytest.raises(ValueError, match=says):
            Settings(**wrong)
    for tokens, target, n, says in ((some(), A, 5, "is an input and the target"), ({}, V, 5, "no input"),
                                    (some(), V, 7, "7 generators for 5 objects")):
        with pytest.raises(ValueError, match=says):
            grids.generate(random, tokens, {}, target, Settings(), noises(n))
    with pytest.raises(KeyError, match=f"'tok_z' is not an output of this model; it has {A}"):
        grids.generate(random, some(), {}, "tok_z", Settings(), noises(5))
    blind, bare = wild(inputs=(A,)), wild(registers=0)
    with pytest.raises(ValueError, match="does not read them; only 'one-step'"):
        grids.generate(blind, some(), {}, V, Settings(), noises(5))
    assert drawn(blind, some(), V, 5, scheme="one-step").shape == (5, 55)
    with pytest.raises(ValueError, match="no registers, so that without the inputs there is nothing to see"):
        grids.generate(bare, some(), {}, V, Settings("one-step", guidance=2), noises(5))
    plain = list(grids.generate(bare, some(), {}, V, Settings(), noises(5)))
    guided = list(grids.generate(bare, some(), {}, V, Settings(guidance=3), noises(5)))
    assert torch.equal(plain[0].ids, guided[0].ids) and not torch.equal(plain[-1].ids, guided[-1].ids)


# ------------------------------------------------------------------------------------------------------------ catalogues

RANGES = (0, 96, 192, 1216, 2240, 3264)


def test_a_catalogue_is_drawn_in_its_grammar() -> None:
    keys = ("catalog", A, V)
    model = Omni(OmniConfig(keys, keys, norm_bias=False, act_layer="SiLU", dim=16, encoder_depth=1, decoder_depth=1,
                            num_heads=2, num_register_tokens=1, sizes={A: (8, 50)}))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("token_emb.weight"):
                p.mul_(50)
            if name == "decoder_embeddings.catalog.to_logits.weight":
                p[END].normal_(0, 0.6, generator=draws.generator("end"))  # now more, now less probable than a source
    model.eval().requires_grad_(False)

    def of(rows: list[int], **settings: Any) -> Tensor:
        noise = [draws.generator(row, sample) for row in rows for sample in range(2)]
        rounds = list(sequences.generate(model, {A: some()[A][rows]}, {}, "catalog", Settings(**settings), noise, RANGES))
        assert rounds[-1].share == 1 and [r.share for r in rounds] == sorted(r.share for r in rounds)
        return rounds[-1].ids

    ids = of([0, 1, 2, 3])
    lengths = (ids != 0).sum(1)
    assert ids.shape == (8, 50) and (lengths % 5 == 2).all() and len(set(lengths.tolist())) > 1
    for line, length in zip(ids, lengths, strict=True):
        assert line[0] == 2 and line[length - 1] == END
        own = line[1 : length - 1].unflatten(0, (-1, 5)) - SHIFT if length > 2 else torch.empty(0, 5)
        assert ((own >= torch.tensor(RANGES[:-1])) & (own < torch.tensor(RANGES[1:]))).all()
    assert torch.equal(of([2]), ids[4:6]) and not torch.equal(of([0, 1, 2, 3], guidance=3.0), ids)
    with pytest.raises(ValueError, match="is a sequence"):
        grids.generate(model, some(), {}, "catalog", Settings(), noises(5))
    with pytest.raises(ValueError, match="is no sequence"):
        sequences.generate(model, some(), {}, V, Settings(), noises(5), RANGES)
