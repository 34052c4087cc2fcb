"""Batches depend on (seed, step) alone, views keep what they must, groups are alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from standin_sky import render

from engine.models.inputs import CHANNELS
from engine.train.data import PairSource, alike, build_cache, choose_bands, degrade, turn
from engine.train.recipes import Recipe, tiny


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PairSource:
    folder = tmp_path_factory.mktemp("cache")
    list(build_cache(tiny(), folder, render))
    return PairSource(tiny(), folder)


def test_a_batch_does_not_depend_on_what_came_before(source: PairSource) -> None:
    first = source.train(5)
    source.train(0)
    again = source.train(5)
    assert torch.equal(first.flux, again.flux) and torch.equal(first.stamps["hsc"], again.stamps["hsc"])
    assert not torch.equal(first.flux, source.train(6).flux)


def test_an_epoch_shows_each_object_once(source: PairSource) -> None:
    rows = np.concatenate([source.rows_of(step) for step in range(source.per_epoch)])
    assert len(set(rows)) == len(rows) == 64


def test_cache_goes_on_where_it_stopped(tmp_path: Path) -> None:
    recipe = replace(tiny(), objects=2048, validation=16)
    work = build_cache(recipe, tmp_path, few)
    for _ in range(20):
        next(work)
    work.close()
    assert next(build_cache(recipe, tmp_path, few)).fraction == pytest.approx(17 * 64 / 2064)


def few(seed: int, index: torch.Tensor, truth: bool) -> dict[str, torch.Tensor]:
    """One rendering for all, to be quick."""
    one = render(seed, torch.zeros(1, dtype=torch.long))
    return {name: value.expand(len(index), *value.shape[1:]) for name, value in one.items()}


def test_another_simulator_makes_the_cache_anew(tmp_path: Path) -> None:
    recipe = replace(tiny(), objects=16, batch=16)
    list(build_cache(recipe, tmp_path, render))
    assert list(build_cache(recipe, tmp_path, render)) == []
    assert len(list(build_cache(recipe, tmp_path, lambda seed, index, truth: render(seed + 1, index)))) == 1


def test_a_cache_that_another_recipe_began_to_overwrite_is_made_anew(tmp_path: Path) -> None:
    recipe = replace(tiny(), objects=112, validation=16)
    list(build_cache(recipe, tmp_path, few))
    stamps = np.load(tmp_path / "stamp_legacy.npy")
    next(build_cache(replace(recipe, seed=recipe.seed + 1), tmp_path, few))
    assert len(list(build_cache(recipe, tmp_path, few))) == 2
    assert np.array_equal(np.load(tmp_path / "stamp_legacy.npy"), stamps)


def test_groups_are_alike() -> None:
    random = np.random.default_rng(0)
    keys = np.stack([random.uniform(16, 21, 4096), random.uniform(0, 2, 4096)], axis=1)
    groups = alike(keys, 32, seed=1, epoch=0)
    assert sorted(groups.ravel()) == list(range(4096))
    assert np.median(keys[groups].std(axis=1), axis=0) == pytest.approx([0.2, 0.15], abs=0.1)
    assert not np.array_equal(groups, alike(keys, 32, seed=1, epoch=1))


def test_turns_keep_the_light_and_are_alike_in_both_surveys() -> None:
    stamp = torch.arange(16.0).view(1, 1, 4, 4).repeat(8, 1, 1, 1)
    out = turn({"a": stamp, "b": stamp + 1}, torch.randperm(8))
    assert torch.equal(out["a"] + 1, out["b"])
    assert len({tuple(x.flatten().tolist()) for x in out["a"]}) == 8


def test_bands_are_left_out_but_never_all() -> None:
    present = torch.ones(1000, len(CHANNELS), dtype=torch.bool)
    recipe = Recipe("x", both=0.4, legacy=0.3, band_drop=0.5)
    shown = choose_bands(present, recipe, torch.rand(1000), torch.rand(1000, len(CHANNELS)))
    assert shown.any(1).all() and 0.2 < float(shown.float().mean()) < 0.5


def test_more_noise_says_so() -> None:
    weight = torch.full((200, 1000), 2.0)
    chance = torch.rand(200, 4)
    chance[:, 0], chance[:, 1], chance[:, 2] = 0.0, 0.7, 0.9
    flux, less = degrade(torch.zeros_like(weight), weight, chance, torch.Generator().manual_seed(0))
    extra = (less**-2 - weight**-2).sqrt()
    assert float(flux.std()) == pytest.approx(float(extra.mean()), rel=0.02)


def test_a_batch_must_be_whole_groups() -> None:
    with pytest.raises(ValueError, match="whole groups"):
        replace(tiny(), batch=15)
