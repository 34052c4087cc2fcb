"""Tokens of a sky: those of the codecs, made once, whole after kills, and all that vectors need."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import written
from typer.testing import CliRunner

import engine
from engine import checkpoints, demo_sky, jobs, tokenized
from engine.checkpoints import OmniBundle, save_aion
from engine.cli import app
from engine.codecs import CodecWarning
from engine.model_files import ASTROCLIP, model_of
from engine.models.omni import Omni, OmniConfig
from engine.objects import Scalar, SkyObject
from engine.store import Store

DOMAINS = ("tok_image", "tok_image_hsc", "tok_spectrum_desi", "tok_flux_g", "tok_z", "catalog")
N = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundle") / "aion-small"
    save_aion(made, Omni(OmniConfig(DOMAINS, DOMAINS, norm_bias=False, act_layer="SiLU", dim=32, encoder_depth=1,
                                    decoder_depth=1, num_heads=4)))
    for name in ("image", "spectrum", "FLUX_G", "Z", "catalog"):
        shutil.copytree(written(tmp_path_factory.mktemp(name), name), made / "codecs" / name)
    return made


@pytest.fixture(scope="module")
def bundle(folder: Path) -> OmniBundle:
    found = checkpoints.load(folder)
    assert isinstance(found, OmniBundle)
    return found


@pytest.fixture(scope="module")
def objects() -> list[SkyObject]:
    """Simulated objects, of which some lack an image or a spectrum, and one has nothing."""
    whole = list(demo_sky.objects(3, 0, N - 1))
    whole[2] = SkyObject(whole[2].id, whole[2].position, (), whole[2].spectra, scalars={"flux_g": Scalar(5.0, unit="nmgy")})
    whole[5] = SkyObject(whole[5].id, whole[5].position, whole[5].images[:1], ())
    return [*whole, SkyObject("nothing")]


@pytest.fixture
def sky(tmp_path: Path, objects: list[SkyObject]) -> Path:
    Store.create(tmp_path / "s.sky", lossless=True).append(objects, ["x"] * N)
    return tmp_path / "s.sky"


def stored(sky: Path, bundle: OmniBundle) -> tokenized.Tokens:
    return tokenized.Tokens.open(sky, bundle, tuple(bundle.codecs))


def test_stored_tokens_are_those_of_the_codecs(sky: Path, folder: Path, bundle: OmniBundle) -> None:
    last = list(jobs.tokenize(sky, folder))[-1]
    assert last.fraction == 1 and "8 have tok_image," in last.note
    assert last.preview["warnings"][0].startswith("demo-000006 goes without tok_z: 1 of 1 values of Z lie beyond its grid")
    tokens, hidden = stored(sky, bundle).read(range(N))
    with pytest.warns(CodecWarning, match="beyond its grid"):
        expected, theirs = bundle.tokenize(list(engine.open(sky)), tuple(bundle.codecs))
    assert tokens.keys() == expected.keys() >= {"tok_image", "tok_image_hsc", "tok_spectrum_desi", "tok_z"}
    for key in tokens:
        assert torch.equal(hidden[key], theirs[key]) and torch.equal(tokens[key], expected[key]), key
    size = (sky / "tokens" / "tok_image" / "values").stat().st_size
    assert size == 8 * 576 * 2, "two bytes a token, and none for what is not there"


def test_a_stopped_run_goes_on_and_a_grown_sky_too(sky: Path, folder: Path, bundle: OmniBundle, objects: list[SkyObject],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenized, "BATCH", 3)
    steps = jobs.tokenize(sky, folder, ["tok_image"])
    list(islice(steps, 2))
    steps.close()  # type: ignore[attr-defined]
    assert tokenized.Tokens.open(sky, bundle, ["tok_image"]).reach == 6
    more = [SkyObject(f"late-{i}", o.position, o.images) for i, o in enumerate(objects[:2])]
    Store(sky).append(more, ["y"] * 2)
    calls: list[int] = []
    monkeypatch.setattr(OmniBundle, "ids", _counted(OmniBundle.ids, calls))
    list(jobs.tokenize(sky, folder, ["tok_image", "tok_flux_g"]))  # an input more, from the start
    assert sum(calls) == 6 + 12, "6 images were left and 12 fluxes; no image was made twice"
    found = tokenized.Tokens.open(sky, bundle, ["tok_image", "tok_flux_g"])
    assert found.reach == 12 and len(found.records["tok_image"]) == 10
    whole = bundle.tokenize(list(engine.open(sky)), ["tok_image"])[0]["tok_image"]
    assert torch.equal(found.read(range(12))[0]["tok_image"], whole)
    assert [s.note for s in jobs.tokenize(sky, folder, ["tok_image"])] == [f"tokens of 12 objects, {10 * 1156 / 1e6:.1f} MB: "
                                                                           "10 have tok_image"]


def _counted(ids: object, calls: list[int]) -> object:
    def count(self: OmniBundle, key: str, some: list[SkyObject], quick: bool = False) -> object:
        calls.append(len(some))
        return ids(self, key, some, quick)  # type: ignore[operator]
    return count


def test_another_codec_makes_other_tokens(sky: Path, folder: Path, bundle: OmniBundle, tmp_path: Path) -> None:
    list(jobs.tokenize(sky, folder, ["tok_z", "tok_flux_g"]))
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    shutil.copy(folder / "codecs" / "FLUX_G" / "model.safetensors", other / "codecs" / "Z" / "model.safetensors")
    changed = checkpoints.load(other)
    assert isinstance(changed, OmniBundle) and changed.codecs.checksum("tok_z") != bundle.codecs.checksum("tok_z")
    assert tokenized.Tokens.open(sky, changed, ["tok_flux_g"]).reach == N, "the codec that they share"
    assert tokenized.Tokens.open(sky, changed, ["tok_z"]).reach == 0


def test_exact_tokens_stay_and_quick_ones_give_way(sky: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(OmniBundle, "ids", _counted(OmniBundle.ids, calls))
    for quick, made in ((True, N), (None, 0), (True, 0), (False, N), (True, 0), (None, 0)):
        calls.clear()
        list(jobs.tokenize(sky, folder, ["tok_flux_g"], quick))  # type: ignore[arg-type]
        assert sum(calls) == made, quick


def test_vectors_start_from_the_tokens(sky: Path, folder: Path, bundle: OmniBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    list(jobs.tokenize(sky, folder))
    monkeypatch.setattr(OmniBundle, "ids", lambda *_: pytest.fail("a codec was asked again"))
    steps = list(jobs.embed(sky, folder))
    assert steps[-1].fraction == 1 and [s.fraction for s in steps] == sorted(s.fraction for s in steps)
    monkeypatch.undo()
    opened = engine.open(sky)
    expected = bundle.vectors(list(opened))
    for space in ("image", "spectrum"):
        lacks = np.isnan(expected[space][:, 0])
        np.testing.assert_array_equal(np.isnan(opened.vectors(space)[:, 0]), lacks)
        likeness = (opened.vectors(space)[~lacks].astype(float) * expected[space][~lacks]).sum(1)
        assert likeness.min() > 0.999, "float16, and bfloat16 in other batches"
    exact = bundle.embed(list(opened), ["tok_image", "tok_image_hsc"])
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    there = ~np.isnan(exact[:, 0])
    assert (expected["image"][there] * exact[there]).sum(1).min() > 0.995, "bfloat16 beside float32"


def test_a_space_of_chosen_inputs(sky: Path, folder: Path, bundle: OmniBundle) -> None:
    run = CliRunner()
    done = run.invoke(app, ["embed", str(sky), "--model", str(folder), "--inputs", "tok_image,tok_z", "--pool", "mean"])
    assert done.exit_code == 0, done.output
    opened = engine.open(sky)
    manifest = opened.embeddings("joint").manifest
    assert manifest["inputs"] == {"modalities": ["tok_image", "tok_z"], "pool": "mean"} and opened.spaces == ("joint",)
    with pytest.warns(CodecWarning, match="beyond its grid"):
        exact = bundle.embed(list(opened), ["tok_image", "tok_z"], "mean")
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    there = ~np.isnan(exact[:, 0])
    assert (opened.vectors("joint")[there].astype(float) * exact[there]).sum(1).min() > 0.995
    run.invoke(app, ["embed", str(sky), "--model", str(folder), "--inputs", "tok_image"])
    assert engine.open(sky).embeddings("joint").manifest["checksum"] != manifest["checksum"], "other inputs, other vectors"


def test_a_grown_sky_stays_with_its_model(sky: Path, folder: Path, bundle: OmniBundle, objects: list[SkyObject],
                                          tmp_path: Path) -> None:
    """Whoever completes a sky later, such as the app, does not put the shipped model's vectors in place of another's."""
    moved = tmp_path / "here"
    shutil.copytree(folder, moved)
    list(jobs.embed(sky, moved, ["tok_image"], "alone"))
    before = engine.open(sky).vectors("alone").copy()
    Store(sky).append([SkyObject("late", images=objects[0].images)], ["y"])
    list(jobs.prepare(sky))
    opened = engine.open(sky)
    assert opened.spaces == ("alone",) and len(opened.vectors("alone")) == N + 1
    np.testing.assert_array_equal(opened.vectors("alone")[:N], before)
    np.testing.assert_allclose(opened.vectors("alone")[N], before[0], atol=0.01)
    list(jobs.embed(sky, moved))
    assert engine.open(sky).spaces == ("alone", "image", "spectrum")
    shutil.rmtree(moved)
    done = CliRunner().invoke(app, ["embed", str(sky)])
    assert done.exit_code == 1 and f"whose folder {moved.resolve()} is gone; name the model with --model FOLDER" in done.output


def test_a_sky_with_two_models_keeps_both(sky: Path, folder: Path, bundle: OmniBundle, objects: list[SkyObject], tmp_path: Path
                                          ) -> None:
    """Folders of trained models are all called the same; without a model named, no space is made anew by another one, and all
    grow. A model that was moved is known by its checksum."""
    mine, yours = tmp_path / "mine" / "model", tmp_path / "yours" / "model"
    shutil.copytree(folder, mine)
    shutil.copytree(folder, yours)
    other = Omni(bundle.model.config)
    other.init_weights(9)
    save_aion(yours, other)
    list(jobs.embed(sky, mine))
    list(jobs.embed(sky, yours, ["tok_image"], "of-yours"))
    before = {space: engine.open(sky).vectors(space).tobytes() for space in engine.open(sky).spaces}
    assert set(before) == {"image", "spectrum", "of-yours"}
    list(jobs.embed(sky))
    opened = engine.open(sky)
    assert {space: opened.vectors(space).tobytes() for space in opened.spaces} == before
    assert {space: Path(opened.embeddings(space).manifest["folder"]).parent.name for space in opened.spaces} == {
        "image": "mine", "spectrum": "mine", "of-yours": "yours"}
    Store(sky).append([SkyObject("late", images=objects[0].images)], ["y"])
    steps = list(jobs.embed(sky))
    assert [s.fraction for s in steps] == sorted(s.fraction for s in steps) and steps[-1].fraction == 1
    assert {space: len(engine.open(sky).vectors(space)) for space in before} == dict.fromkeys(before, N + 1)

    shutil.move(yours, moved := tmp_path / "moved")
    Store(sky).append([SkyObject("later", images=objects[0].images)], ["z"])
    list(jobs.embed(sky, moved, ["tok_image"], "of-yours"))
    list(jobs.embed(sky))
    opened = engine.open(sky)
    assert {space: len(opened.vectors(space)) for space in before} == dict.fromkeys(before, N + 2)
    assert opened.embeddings("of-yours").manifest["folder"] == str(moved.resolve())
    assert opened.vectors("image")[:N].tobytes() == before["image"]

    shutil.rmtree(moved)
    assert model_of(sky) == mine.resolve(), "to generate with, the other need not be there"
    with pytest.raises(ValueError, match="is gone; name the model"):
        list(jobs.embed(sky))


def test_what_cannot_be_is_one_sentence(sky: Path, folder: Path) -> None:
    run = CliRunner()
    for arguments, says in ((["--inputs", "tok_mass"], "'tok_mass': aion-small has no such input"),
                            (["--inputs", "tok_image", "--space", "../up"], "cannot be called '../up'"),
                            (["--inputs", "tok_image", "--space", "spectrum"],
                             "spectrum is what aion-small makes of its own inputs")):
        done = run.invoke(app, ["embed", str(sky), "--model", str(folder), *arguments])
        assert done.exit_code == 1 and says in done.output, done.output
    done = run.invoke(app, ["embed", str(sky), "--model", str(ASTROCLIP), "--inputs", "tok_image"])
    assert done.exit_code == 1 and "astroclip-demo always reads the same" in done.output
    done = run.invoke(app, ["tokenize", str(sky), "--model", str(ASTROCLIP)])
    assert done.exit_code == 1 and "has no codecs" in done.output


def test_what_codecs_say_is_passed_on(sky: Path, folder: Path) -> None:
    odd = SkyObject("odd", scalars={"flux_g": Scalar(3.0, unit="Angstrom")})
    Store(sky).append([odd], ["z"])
    done = CliRunner().invoke(app, ["tokenize", str(sky), "--model", str(folder), "--inputs", "tok_flux_g"])
    assert done.exit_code == 0 and "odd goes without tok_flux_g: flux_g of object odd is in Angstrom" in done.output
    list(jobs.embed(sky, folder, ["tok_flux_g"], "fluxes"))
    Store(sky).append([replace(odd, id="odder")], ["y"])
    *_, last = jobs.embed(sky, folder, ["tok_flux_g", "tok_image"], "fluxes", parts=True)
    assert any("odder goes without tok_flux_g" in said for said in last.preview["warnings"])
