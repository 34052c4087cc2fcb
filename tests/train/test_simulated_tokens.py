"""Tokens of the simulated sky equal those of its objects, and a run that was stopped goes on with the same."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from engine import checkpoints, demo_sky, simulate
from engine.checkpoints.tokenizers import Codecs, config_of, has
from engine.cli import app
from engine.codecs import CatalogCodec, CodecWarning
from engine.records import Records
from engine.store import Store
from engine.train import codec_tables, codecs, omni
from engine.train.codec_data import CodecSource, build_cache
from engine.train.codec_folder import gather
from engine.train.codec_recipes import TINY
from engine.train.masking import Budgets
from engine.train.omni_recipes import chosen
from engine.train.simulated_tokens import build, images

SEED, OBJECTS = 5, 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Codecs with random weights, brought together as training leaves them."""
    place = tmp_path_factory.mktemp("codecs")
    for kind in ("image", "spectrum", "segmap"):
        checkpoints.save_codec(place / kind / "model", codecs.build(TINY[kind]), {})  # type: ignore[index]
    scalars = replace(TINY["scalars"], objects=64, validation=8)
    for _ in build_cache(scalars, place / "scalars" / "cache", simulate.render):
        pass
    codec_tables.fit(scalars, CodecSource(scalars, place / "scalars" / "cache"), place / "scalars" / "model")
    names = gather({kind: place / kind for kind in ("image", "spectrum", "segmap", "scalars")}, place)
    assert {"image", "spectrum", "segmentation_map", "catalog", "Z", "bp_coefficients"} <= set(names)
    return place


@pytest.fixture(scope="module")
def tokens(folder: Path) -> Path:
    steps = list(build(folder, folder / "sky", OBJECTS, SEED))
    assert steps[-1].fraction == 1.0
    return folder / "sky"


def read(sky: Path) -> dict[str, Records]:
    return {f.name: Records.open(f) for f in sorted((sky / "tokens").iterdir())}


def test_they_are_those_of_the_objects(folder: Path, tokens: Path) -> None:
    made, config = read(tokens), config_of(folder)
    objects = [demo_sky.one(batch, i, i, SEED) for batch in [simulate.render(SEED, torch.arange(24))] for i in range(24)]
    loaded = Codecs(folder, {key: config.modality(key) for key in config.domains})
    compared = 0
    for key, records in made.items():
        m = config.modality(key)
        able = [row for row, o in enumerate(objects) if has(o, m)]
        if m.kind in ("catalog", "field"):
            continue
        there, ids = records.at(np.arange(24))
        assert np.flatnonzero(there).tolist() == able, key
        options = {"survey": m.survey} if m.kind in ("image", "spectrum") else {"saturate": True}
        if able:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CodecWarning)
                theirs = loaded[key].encode([objects[row] for row in able], **options)  # type: ignore[union-attr]
            assert (theirs.reshape(len(able), -1).numpy() == ids).mean() > 0.999, key
            compared += len(able)
    assert compared > 24 * 10


def test_a_band_that_nobody_looked_at_is_none(folder: Path) -> None:
    config = config_of(folder)
    codec: Any = Codecs(folder, {"tok_image": config.modality("tok_image")})["tok_image"]
    sky = simulate.render(SEED, torch.arange(4))
    pixels, bad = sky["legacy"], torch.zeros_like(sky["legacy"], dtype=torch.bool)
    bad[1, 2] = bad[2] = True  # no i; nothing
    there, ids = images(codec, config.modality("tok_image"),
                        {"has_legacy": torch.ones(4, dtype=torch.bool), "legacy": pixels, "legacy_mask": bad})
    assert there.tolist() == [True, True, False, True]
    assert torch.equal(ids[1], codec.tokenize(pixels[1:2, [0, 1, 3]], ["DES-G", "DES-R", "DES-Z"])[0])
    assert torch.equal(ids[[0, 2]], codec.tokenize(pixels[[0, 3]], "legacy"))


def test_of_those_with_a_spectrum_of_sdss_alone(folder: Path, tokens: Path, tmp_path: Path) -> None:
    """They have the rows and the tokens that they have among all; a run that goes on adds the others."""
    for objects in (OBJECTS // 2, OBJECTS):
        list(build(folder, tmp_path, objects, SEED, sdss=True))
    made, everything = read(tmp_path), read(tokens)
    rows = everything["tok_spectrum_sdss"].rows
    assert 5 < len(rows) < OBJECTS and np.array_equal(made["tok_image"].rows, rows)
    for key in ("tok_spectrum_sdss", "tok_spectrum_desi", "tok_z"):
        there, ids = everything[key].at(rows)
        assert np.array_equal(made[key].rows, rows[there])
        assert (made[key].values == ids).mean() > 0.99  # other batches round otherwise


def test_a_sky_is_tokenised_by_codecs_alone(folder: Path, tokens: Path, tmp_path: Path) -> None:
    """And has the same tokens, of what its objects have."""
    store = Store.create(tmp_path / "some.sky", lossless=True)
    store.append(list(demo_sky.objects(SEED, 0, 16)), ["simulated"] * 16)
    done = CliRunner().invoke(app, ["tokenize", str(store.path), "--model", str(folder)])
    assert done.exit_code == 0, done.output
    made, theirs = read(store.path), read(tokens)
    assert {"tok_image", "tok_image_hsc", "tok_spectrum_desi", "tok_z", "tok_flux_g"} <= set(made)
    for key, records in made.items():
        there, ids = theirs[key].at(np.arange(16))
        if len(records):
            assert np.array_equal(records.rows, np.flatnonzero(there)), key
            assert (records.values == ids).mean() > 0.999, key


def test_the_catalogue_is_the_source_in_the_middle(folder: Path, tokens: Path) -> None:
    codec = Codecs(folder, {"catalog": config_of(folder).modality("catalog")})["catalog"]
    assert isinstance(codec, CatalogCodec)
    _, ids = read(tokens)["catalog"].at(np.arange(OBJECTS))
    x, y, e1, _, r = codec.detokenize(codec.from_sequence(ids.astype(np.int64), 1))
    sky = simulate.render(SEED, torch.arange(OBJECTS))
    assert (x == 48).all() and (y == 48).all()
    galaxies = sky["class"] < 2
    assert np.corrcoef(r[galaxies, 0], sky["s_shape_r"][galaxies])[0, 1] > 0.95
    assert np.corrcoef(e1[galaxies, 0], sky["s_shape_e1"][galaxies])[0, 1] > 0.95


def test_a_stopped_build_goes_on_with_the_same(folder: Path, tokens: Path, tmp_path: Path) -> None:
    for _ in build(folder, tmp_path, 64, SEED):
        pass
    some = islice(build(folder, tmp_path, OBJECTS, SEED), 1)
    assert [s.fraction for s in some] == [1.0]
    whole, pieces = read(tokens), read(tmp_path)
    assert whole.keys() == pieces.keys()
    for key in whole:
        assert np.array_equal(whole[key].rows, pieces[key].rows), key
        assert np.array_equal(whole[key].values, pieces[key].values), key


def test_tokens_of_another_sky_are_made_anew(folder: Path, tokens: Path, tmp_path: Path) -> None:
    for seed in (SEED + 1, SEED):
        for _ in build(folder, tmp_path, 16, seed):
            pass
    assert np.array_equal(read(tmp_path)["tok_image"].values, read(tokens)["tok_image"].values[:16])


def test_a_transformer_trains_on_them(folder: Path, tokens: Path, tmp_path: Path) -> None:
    recipe = chosen("tiny", steps=2, budgets=Budgets((32,), 16), report_every=1, validation=0.3)
    last = list(omni.run(recipe, [tokens], folder, tmp_path))[-1]
    bundle = checkpoints.load(str(last.preview))
    assert isinstance(bundle, checkpoints.OmniBundle)
    assert {"tok_image", "tok_image_hsc", "tok_spectrum_desi", "catalog", "tok_z"} <= set(bundle.modalities)
    assert np.isfinite(bundle.embed([demo_sky.one(simulate.render(SEED, torch.arange(1)), 0, 0, SEED)])).all()


def test_a_folder_without_codecs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path} has no codecs; `omnisky train codec` makes them"):
        config_of(tmp_path)
    with pytest.raises(ValueError, match="has no finished codec"):
        gather({"image": tmp_path}, tmp_path)


def test_the_speedrun_goes_from_nothing_to_a_model(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "deploy" / "speedrun.sh"
    settings = {"OMNISKY": str(Path(sys.executable).with_name("omnisky")), "RECIPE": "tiny", "OBJECTS": "200", "STEPS": "4"}
    done = subprocess.run(["bash", str(script), str(tmp_path)], env={**os.environ, **settings, "NO_APP": "1"},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    bundle = checkpoints.load(tmp_path / "omni" / "model")
    assert isinstance(bundle, checkpoints.OmniBundle) and set(bundle.codecs) == set(bundle.modalities)


@pytest.mark.parametrize("failing", ["image", "spectrum", "omni"])
def test_a_speedrun_ends_with_the_stage_that_failed(tmp_path: Path, failing: str) -> None:
    script, log = Path(__file__).resolve().parents[2] / "deploy" / "speedrun.sh", tmp_path / "log"
    command = tmp_path / "omnisky"
    command.write_text(f'#!/bin/sh\necho "$1 $2 $3" >> {log}\n[ "$2" != {failing} ] && [ "$3" != {failing} ]\n')
    command.chmod(0o755)
    done = subprocess.run(["bash", str(script), str(tmp_path)], env={**os.environ, "OMNISKY": str(command)}, check=False)
    said = log.read_text().splitlines()
    assert done.returncode == 1 and ("train tokens" in "".join(said)) == (failing == "omni")
    assert not any(line.startswith(("train head", "demo")) for line in said)
