"""Alignment: a head that finds partners where there are any, honest about how well, and spaces that may then be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import written
from typer.testing import CliRunner

import engine
from engine import align, checkpoints, demo_sky, jobs
from engine.align import Reduced
from engine.checkpoints import OmniBundle, save_aion
from engine.checkpoints.align import load_alignment
from engine.cli import app
from engine.model_files import ASTROCLIP
from engine.models.align import AlignConfig, AlignHead
from engine.models.omni import Omni, OmniConfig
from engine.objects import Scalar, SkyObject
from engine.records import Records
from engine.store import Store
from engine.train import last_layers

N = 60
DOMAINS = ("tok_image", "tok_image_hsc", "tok_spectrum_desi")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundle") / "aion-small"
    save_aion(made, Omni(OmniConfig(DOMAINS, DOMAINS, norm_bias=False, act_layer="SiLU", dim=32, encoder_depth=1,
                                    decoder_depth=1, num_heads=4)))
    for name in ("image", "spectrum"):
        shutil.copytree(written(tmp_path_factory.mktemp(name), name), made / "codecs" / name)
    return made


@pytest.fixture(scope="module")
def tokenized_sky(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    path = tmp_path_factory.mktemp("sky") / "s.sky"
    objects = list(demo_sky.objects(3, 0, N))
    objects[4] = SkyObject("no-spectrum", objects[4].position, objects[4].images)
    objects[7] = SkyObject("only-legacy", objects[7].position, objects[7].images[:1], objects[7].spectra)
    Store.create(path).append(objects, ["x"] * N)
    list(jobs.tokenize(path, folder))
    return path


@pytest.fixture
def sky(tokenized_sky: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small enough for a test: twenty pairs will do, and few steps."""
    monkeypatch.setattr(align, "LEAST", 20)
    monkeypatch.setattr(align, "SHOWN", 8)
    shutil.copytree(tokenized_sky, tmp_path / "s.sky")
    return tmp_path / "s.sky"


def toy(partner: Callable[[np.ndarray], np.ndarray], rows: int = 700) -> dict[str, dict[str, Reduced]]:
    """Reduced tokens of two modalities: four numbers of an object, seen in other mixtures and with noise by each token."""
    random = np.random.default_rng(5)
    hidden = random.normal(size=(rows, 4))
    spaces: dict[str, dict[str, Reduced]] = {}
    for space, key, own in (("image", "tok_image", hidden), ("spectrum", "tok_spectrum_desi", partner(hidden))):
        mix = random.normal(size=(6, 4, 8))
        x = np.einsum("rh,thd->rtd", own, mix) + 0.3 * random.normal(size=(rows, 6, 8))
        spaces[space] = {key: Reduced(np.arange(rows), np.clip(np.rint(x * 12), -127, 127).astype(np.int8))}
    return spaces


def fitted(spaces: dict[str, dict[str, Reduced]]) -> tuple[AlignHead, dict[str, float]]:
    rows = np.arange(700)
    test = np.zeros(700, bool)
    test[::5] = True
    steps = align.fit(spaces, rows, test, 0)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


@pytest.fixture
def small_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.models.align.AlignConfig",
                        lambda inputs, levels: AlignConfig(inputs, levels, reduced=8, width=32, heads=2, space=16))


def test_partners_are_found_where_there_are_any(small_head: None) -> None:
    _, related = fitted(toy(lambda h: h))
    _, shuffled = fitted(toy(lambda h: np.random.default_rng(1).permutation(h)))
    assert min(related.values()) > 0.9, related
    assert max(shuffled.values()) < 0.2, "ten of 140 by chance, .07"


def test_levels_alone_tell_partners(small_head: None) -> None:
    """Tokens that have nothing to do with each other, but one is always 300 ids brighter than the other, within some ids."""
    random = np.random.default_rng(2)
    level = random.integers(0, 600, 700)
    spaces = toy(lambda h: np.random.default_rng(1).permutation(h))
    told = {space: {key: replace(r, levels=level + 300 * (space == "image") + random.integers(-3, 4, 700))
                    for key, r in some.items()} for space, some in spaces.items()}
    assert min(fitted(told)[1].values()) > 0.9


def test_what_is_absent_does_not_count() -> None:
    head = AlignHead(AlignConfig({"image": {"a": 5, "b": 3}}, ("b",), reduced=4, width=16, heads=2, space=8))
    head.init_weights(0)
    x = {"a": torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1)), "b": torch.zeros(2, 3, 4)}
    there = {"a": torch.tensor([True, True]), "b": torch.tensor([False, True])}
    both = head("image", x, there, {"b": torch.tensor([7, 5])})
    x["b"] = x["b"] + torch.tensor([[[100.0]], [[0.0]]])
    torch.testing.assert_close(head("image", x, there, {"b": torch.tensor([3, 5])}), both)
    torch.testing.assert_close(head("image", {"a": x["a"][:1]}, {"a": there["a"][:1]}, {}), both[:1])
    assert not torch.equal(head("image", x, there, {"b": torch.tensor([7, 6])})[1], both[1])


def test_through_a_sky(sky: Path, folder: Path) -> None:
    list(jobs.embed(sky, folder))
    first = engine.open(sky)
    assert first.comparable("image") == ("image",)
    with pytest.raises(ValueError, match="lie in spaces of their own"):
        first.near(0, "image", "spectrum")
    done = CliRunner().invoke(app, ["align", str(sky), "--model", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    last = json.loads(done.output.splitlines()[-1])
    assert last["pairs"] + last["held_out"] == N - 1 and set(last["recall_at_10"]) == {"image -> spectrum", "spectrum -> image"}
    assert "now run: omnisky embed" in last["note"] and not (sky / "align" / "work").exists()
    list(jobs.prepare(sky))
    aligned = engine.open(sky)
    assert aligned.comparable("image") == ("image", "spectrum") and aligned.vectors("image").shape == (N, 128)
    assert len(aligned.near(0, "image", "spectrum", k=3)) == 3
    manifest = aligned.embeddings("image").manifest
    assert manifest["aligned"]["recall_at_10"] == last["recall_at_10"] and manifest["inputs"]["pool"] == "aligned"
    lacks = np.isnan(aligned.vectors("spectrum")[:, 0])
    assert lacks.sum() == 1 and lacks[4] and np.isfinite(aligned.vectors("image")).all()
    bundle = checkpoints.load(folder)
    assert isinstance(bundle, OmniBundle)
    direct = bundle.aligned(sky / "align").vectors([aligned[i] for i in range(12)])
    np.testing.assert_allclose(np.asarray(aligned.vectors("image")[:12], np.float32), direct["image"], atol=0.02)


def test_objects_without_any_input_have_no_vector() -> None:
    """Also if none of them has one, with a head as without."""
    bundle = checkpoints.load().aligned(checkpoints.load().folder / "align")  # type: ignore[union-attr]
    assert bundle.alignment is not None
    for space, vectors in bundle.vectors([SkyObject("bare"), SkyObject("z", scalars={"z": Scalar(0.2)})]).items():
        assert vectors.shape == (2, bundle.alignment.dim) and np.isnan(vectors).all(), space


def test_a_stopped_run_goes_on_to_the_same_head(sky: Path, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "whole.sky"
    shutil.copytree(sky, other)
    steps = jobs.align(sky, folder)
    for _ in islice((s for s in steps if "encoded" in s.note), 3):
        pass
    steps.close()  # type: ignore[attr-defined]
    assert len(Records.open(sky / "align" / "work" / "tok_image")) == 48
    notes = [s.note for s in jobs.align(sky, folder)]
    assert "tok_image: encoded 11 of 11 objects" in notes, "of 59, 48 were kept"
    list(jobs.align(other, folder))
    assert load_alignment(sky / "align").checksum == load_alignment(other / "align").checksum


def test_from_tokens_alone_it_becomes_a_part_of_the_model(sky: Path, folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    bundle = checkpoints.load(model)
    assert isinstance(bundle, OmniBundle)
    last = list(align.align_tokens(sky, bundle, 40))[-1]
    assert last.preview["pairs"] + last.preview["held_out"] == 40 and not (model / "align" / "work").exists()
    with_head = bundle.aligned(model / "align")
    assert with_head.manifest("image")["comparable"] == ["image", "spectrum"]
    assert bundle.aligned(tmp_path).manifest("image")["comparable"] == ["image"]


def test_the_last_layers_are_fitted_anew(sky: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting as the old head is, if that was told no levels; what reads the tokens stays bit for bit."""
    monkeypatch.setattr(last_layers, "STEPS", 0)
    monkeypatch.setattr("engine.models.tokens.has_level", lambda modality: False)
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    with pytest.raises(ValueError, match="has no head whose last layers"):
        next(last_layers.run(model, [sky], 40))
    with pytest.raises(ValueError, match="has 0 objects with both an image and a spectrum"):
        align.chosen({"image": ["tok_image"], "spectrum": []}, {"tok_image": Reduced(np.arange(60), None)}, 40, 0, sky)
    bundle = checkpoints.load(model)
    assert isinstance(bundle, OmniBundle)
    list(align.align_tokens(sky, bundle, 40))
    before, some = bundle.aligned(model / "align"), [engine.open(sky)[i] for i in (0, 1, 4, 7)]
    old, vectors = load_alignment(model / "align"), before.vectors(some)
    list(last_layers.run(model, [sky], 40))
    for space, found in before.aligned(model / "align").vectors(some).items():
        np.testing.assert_allclose(found, vectors[space], atol=1e-3)
    monkeypatch.setattr(last_layers, "STEPS", 3)
    last = list(last_layers.run(model, [sky], 40))[-1]
    new = load_alignment(model / "align")
    assert new.head.config.levels == ("tok_spectrum_desi",) and last.preview["pairs"] == new.about["pairs"]
    assert new.about["last layers"]["pairs"] == 32
    for name, value in new.head.state_dict().items():
        assert torch.equal(value, old.head.state_dict()[name]) != (".head." in name or name == "log_scale"), name


def test_a_head_belongs_to_its_model(sky: Path, folder: Path, tmp_path: Path) -> None:
    list(jobs.align(sky, folder))
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    changed = Omni(checkpoints.load_aion(folder).config)
    changed.init_weights(7)
    save_aion(other, changed)
    list(jobs.embed(sky, other))
    assert engine.open(sky).comparable("image") == ("image",)
    shutil.copytree(sky / "align", folder.parent / "with-head" / "align")
    shutil.copytree(folder, folder.parent / "with-head", dirs_exist_ok=True)
    shutil.rmtree(sky / "align")
    list(jobs.embed(sky, folder.parent / "with-head"))
    assert engine.open(sky).comparable("image") == ("image", "spectrum"), "a model may bring its head along"


def test_what_cannot_be_is_one_sentence(sky: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner()
    list(jobs.align(sky, folder))
    (sky / "align" / "model.safetensors").write_bytes(b"damaged")
    done = run.invoke(app, ["embed", str(sky), "--model", str(folder)])
    assert done.exit_code == 1 and "model.safetensors is damaged" in done.output and done.output.count("\n") < 4
    monkeypatch.setattr(align, "LEAST", 500)
    done = run.invoke(app, ["align", str(sky), "--model", str(folder)])
    assert done.exit_code == 1 and "has 59 objects with both an image and a spectrum that the model reads; a head needs at " \
        "least 500" in done.output
    done = run.invoke(app, ["align", str(sky), "--model", str(ASTROCLIP)])
    assert done.exit_code == 1 and "needs no alignment" in done.output
