"""A model's folder with something wrong in it, and tokens and objects that no codec takes: each refused with what and why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_codecs import CONFIGS, written

from engine import checkpoints, demo_sky, jobs
from engine.checkpoints import load_codec, save_aion
from engine.models.omni import Omni, OmniConfig
from engine.objects import Image, SkyObject
from engine.store import Store

DOMAINS = ("tok_image", "tok_spectrum_desi", "tok_flux_g")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with three codecs, and a sky of two objects beside it."""
    made = tmp_path_factory.mktemp("whole")
    save_aion(made / "model", Omni(OmniConfig(DOMAINS, DOMAINS, norm_bias=False, act_layer="SiLU", dim=16, num_heads=2,
                                              encoder_depth=1, decoder_depth=1)))
    for name in ("image", "spectrum", "FLUX_G"):
        written(made / "model" / "codecs", name)
    Store.create(made / "a.sky").append(list(demo_sky.objects(3, 0, 2)), ["x"] * 2)
    return made


def cut(path: Path) -> None:
    """The end is missing, as after a broken download."""
    path.write_bytes(path.read_bytes()[:-16])


def flipped(path: Path) -> None:
    """A byte of the header is another."""
    content = bytearray(path.read_bytes())
    content[9] ^= 0xFF
    path.write_bytes(content)


def pickled(path: Path) -> None:
    """A pickle in its place, under its name."""
    torch.save({"weight": torch.zeros(3)}, path)


def only_pickled(path: Path) -> None:
    """A pickle in its place, under the name that such files have."""
    path.unlink()
    torch.save({"weight": torch.zeros(3)}, path.with_name("pytorch_model.bin"))


@pytest.mark.parametrize("part", ["model.safetensors", "codecs/image/model.safetensors", "codecs/FLUX_G/model.safetensors"])
@pytest.mark.parametrize(("harm", "why"), [
    (cut, "is damaged or not a safetensors file"), (flipped, "is damaged or not a safetensors file"),
    (pickled, "is damaged or not a safetensors file"), (only_pickled, r"pytorch_model\.bin .*pickle")])
def test_a_damaged_file_is_named_whoever_reads_it(whole: Path, tmp_path: Path, part: str, harm: Callable[[Path], None],
                                                  why: str) -> None:
    folder = Path(shutil.copytree(whole / "model", tmp_path / "model"))
    harm(folder / part)
    said = rf"{(folder / part).parent}.*{why}"
    with pytest.raises(ValueError, match=said):
        checkpoints.load(folder).embed(list(demo_sky.objects(3, 0, 1)))
    if "FLUX_G" not in part:  # which no space of a sky reads
        sky = shutil.copytree(whole / "a.sky", tmp_path / "a.sky")
        with pytest.raises(ValueError, match=said):
            list(jobs.embed(sky, folder))


def test_a_model_of_unknown_modalities_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole / "model", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"domains_in": ["tok_image", "tok_image_ls"]}))
    with pytest.raises(ValueError, match=r"domains_in is \['tok_image_ls'\]; it must be among tok_image, tok_image_hsc, "):
        checkpoints.load(folder)


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {name: load_codec(written(tmp_path_factory.mktemp("codecs"), name)) for name in CONFIGS}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_object_without_it_is_named(codecs: dict[str, Any], name: str) -> None:
    with pytest.raises(KeyError, match="object empty"):
        codecs[name].encode(SkyObject("empty"))
    with pytest.raises(ValueError, match="no objects to encode"):
        codecs[name].encode([])


LENGTHS = {"image": 576, "spectrum": 273, "segmentation_map": 144, "bp_coefficients": 55}


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "catalog"])
@pytest.mark.parametrize("read", ["decode", "detokenize"])
def test_ids_that_a_codec_does_not_have_are_named(codecs: dict[str, Any], name: str, read: str) -> None:
    codec, n = codecs[name], LENGTHS.get(name)
    bands = {"bands": ["DES-G"]} if name == "image" else {}
    good = torch.zeros((2,) if n is None else (2, n), dtype=torch.int64)
    for wrong in (-1, codec.vocabulary):
        ids = good.clone()
        ids.view(-1)[-1] = wrong
        with pytest.raises(ValueError, match=f"id {wrong} of .* is out of range; ids go from 0 to {codec.vocabulary - 1}"):
            getattr(codec, read)(ids, **bands)
    with pytest.raises(ValueError, match=r"must be integers, got torch\.float32"):
        getattr(codec, read)(good.float(), **bands)
    if n is not None:
        with pytest.raises(ValueError, match=rf"{n}.*shape \(2, {n - 1}\)"):
            getattr(codec, read)(good[:, 1:], **bands)


def test_a_pickle_alone_is_refused_as_one(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    pickled(tmp_path / "bare" / "pytorch_model.bin")
    for load in (checkpoints.load, checkpoints.load_aion, load_codec):
        for path in (tmp_path / "bare", tmp_path / "bare" / "pytorch_model.bin"):
            with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle, .* use model\.safetensors"):
                load(path)


def test_what_a_bundle_is_asked_for_is_named(whole: Path, tmp_path: Path) -> None:
    bundle, good = checkpoints.load(whole / "model"), next(iter(demo_sky.objects(3, 0, 1)))
    assert isinstance(bundle, checkpoints.OmniBundle)
    with pytest.raises(ValueError, match="bare has none of the inputs tok_image"):
        bundle.embed([good, SkyObject("bare")], ["tok_image"], pool="none")
    with pytest.raises(KeyError, match="there is no codec of 'tok_ebv'; there are tok_image, "):
        bundle.codecs["tok_ebv"]
    with pytest.raises(TypeError, match="SkyObjects, got float"):
        bundle.embed([1.0])  # type: ignore[list-item]
    assert bundle.embed([good], "tok_image").shape == (1, 16)
    shutil.copytree(whole / "model", tmp_path / "model", ignore=shutil.ignore_patterns("codecs"))
    with pytest.raises(ValueError, match="has no codecs of images or spectra, so it makes no vectors"):
        list(jobs.embed(shutil.copytree(whole / "a.sky", tmp_path / "a.sky"), tmp_path / "model"))


def test_an_image_of_two_surveys_is_refused(codecs: dict[str, Any]) -> None:
    image = Image(np.ones((2, 96, 96), np.float32), ("DES-G", "HSC-R"), "legacy", pixel_scale=0.262)
    with pytest.raises(ValueError, match="the image of object odd has bands of two surveys, DES-G, HSC-R"):
        codecs["image"].encode(SkyObject("odd", images=(image,)))
