"""Patch vectors: those of the encoder, kept within a budget or stored small, and where they lie on the image."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import written
from typer.testing import CliRunner

import engine
from engine import checkpoints, demo_sky, jobs, patches
from engine.checkpoints import OmniBundle, save_aion
from engine.cli import app
from engine.model_files import ASTROCLIP
from engine.models.omni import Omni, OmniConfig
from engine.objects import SkyObject
from engine.patches import OnDemand, Stored
from engine.reduction import Reduction
from engine.store import Store

N = 5
DOMAINS = ("tok_image", "tok_spectrum_desi")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundle") / "aion-small"
    save_aion(made, Omni(OmniConfig(DOMAINS, DOMAINS, norm_bias=False, act_layer="SiLU", dim=128, encoder_depth=1,
                                    decoder_depth=1, num_heads=4, num_register_tokens=2)))
    for name in ("image", "spectrum"):
        shutil.copytree(written(tmp_path_factory.mktemp(name), name), made / "codecs" / name)
    return made


@pytest.fixture(scope="module")
def bundle(folder: Path) -> OmniBundle:
    found = checkpoints.load(folder)
    assert isinstance(found, OmniBundle)
    return found


@pytest.fixture
def sky(tmp_path: Path) -> Path:
    objects = list(demo_sky.objects(3, 0, N))
    objects[1] = SkyObject(objects[1].id, objects[1].position, (), objects[1].spectra)
    Store.create(tmp_path / "s.sky", lossless=True).append(objects, ["x"] * N)
    return tmp_path / "s.sky"


def exact(bundle: OmniBundle, thing: SkyObject, key: str) -> np.ndarray:
    """The encoder's float32 tokens of one input alone."""
    encoded = bundle.embed([thing], [key], pool="none")
    return encoded.context[0, encoded.slices[key]].numpy()


def test_patches_on_demand_are_the_encoders_tokens(sky: Path, folder: Path, bundle: OmniBundle) -> None:
    opened = engine.open(sky)
    image = opened.patches(0, "tok_image", folder)
    assert image.shape == (24, 24, 128)
    expected = exact(bundle, opened[0], "tok_image")
    np.testing.assert_allclose(image.reshape(576, 128), expected, atol=0.05 * np.abs(expected).max())  # bfloat16
    assert opened.patches(str(opened.ids[1]), "tok_spectrum_desi", folder).shape == (273, 128)
    with pytest.raises(ValueError, match="demo-000001 has no patches of tok_image: it lacks the data"):
        opened.patches(1, "tok_image", folder)
    with pytest.raises(KeyError, match="'tok_z': aion-small has no such input"):
        opened.patches(0, "tok_z", folder)
    with pytest.raises(ValueError, match="astroclip-demo makes no patch vectors"):
        opened.patches(0, "tok_image", ASTROCLIP)
    with pytest.raises(FileNotFoundError, match="has no stored patches of 'tok_image'; run: omnisky embed"):
        opened.patches(0)


def test_what_is_kept_stays_within_the_budget(sky: Path, bundle: OmniBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    one = 273 * 128 * 2
    kept = OnDemand(Store(sky), bundle, budget=2 * one)
    first = kept.of(0, "tok_spectrum_desi")
    calls: list[int] = []
    vectors = patches.vectors
    monkeypatch.setattr(patches, "vectors", lambda *a: calls.append(1) or vectors(*a))
    assert kept.of(0, "tok_spectrum_desi") is first and not calls
    for row in (1, 2, 3):
        kept.of(row, "tok_spectrum_desi")
        assert kept.held <= 2 * one
    kept.of(3, "tok_spectrum_desi")
    assert len(calls) == 3
    again = kept.of(0, "tok_spectrum_desi")
    assert len(calls) == 4 and first is not None
    np.testing.assert_array_equal(again, first)


def test_stored_patches_are_small_and_near(sky: Path, folder: Path, bundle: OmniBundle) -> None:
    done = CliRunner().invoke(app, ["embed", str(sky), "--model", str(folder), "--patches"])
    assert done.exit_code == 0, done.output
    size = (4 * 576 + 5 * 273) * 64
    assert f"patches will take {size / 1e6:.1f} MB" in done.output and "4 of tok_image, 5 of tok_spectrum_desi" in done.output
    opened = engine.open(sky)
    assert opened.spaces == ("image", "spectrum")
    for key, there in (("tok_image", (0, 2, 3, 4)), ("tok_spectrum_desi", range(N))):
        stored = Stored(sky / "patches" / key)
        assert (sky / "patches" / key / "values").stat().st_size == len(there) * stored.records.shape[0] * 64
        for row in there:
            expected = exact(bundle, opened[row], key)
            found = stored.of(row)
            assert found is not None
            back = found @ stored.reduction.basis.T + stored.reduction.mean
            centred = expected - stored.reduction.mean
            assert ((back - expected) ** 2).sum() < (1.05 - stored.records.manifest["explained"]) * (centred**2).sum()
    assert Stored(sky / "patches" / "tok_image").of(1) is None
    assert opened.patches(2).shape == (24, 24, 64)


def test_a_stopped_run_goes_on_and_a_grown_sky_too(sky: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "BATCH", 2)
    steps = jobs.embed(sky, folder, parts=True)
    for step in steps:
        if "tok_image: stored patches of 2 of 4" in step.note:
            break
    steps.close()  # type: ignore[attr-defined]
    half = Stored(sky / "patches" / "tok_image")
    assert len(half.records) == 2
    before = half.records.values.copy()
    late = SkyObject("late", images=engine.open(sky)[0].images)
    Store(sky).append([late], ["y"])
    list(jobs.embed(sky, folder, parts=True))
    whole = Stored(sky / "patches" / "tok_image")
    np.testing.assert_array_equal(whole.records.rows, [0, 2, 3, 4, 5])
    np.testing.assert_array_equal(whole.records.values[:2], before)
    np.testing.assert_array_equal(whole.of(5), whole.of(0))
    notes = [s.note for s in jobs.embed(sky, folder, parts=True)]
    assert "patches will take 0.0 MB" in notes and not any("stored patches of" in n for n in notes)


@pytest.fixture
def other(folder: Path, bundle: OmniBundle, tmp_path: Path) -> Path:
    """Another model with the same codecs."""
    made = tmp_path / "other"
    shutil.copytree(folder, made)
    changed = Omni(bundle.model.config)
    changed.init_weights(7)
    save_aion(made, changed)
    return made


def test_a_kill_before_another_models_patches_mixes_no_two(
        sky: Path, folder: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(jobs.embed(sky, folder, parts=True))
    first = Stored(sky / "patches" / "tok_image").of(0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(patches.Records, "create", killed)
        list(jobs.embed(sky, other, parts=True))
    list(jobs.embed(sky, folder, parts=True))
    np.testing.assert_array_equal(Stored(sky / "patches" / "tok_image").of(0), first)


def test_another_models_patches_are_made_anew(sky: Path, folder: Path, other: Path) -> None:
    list(jobs.embed(sky, folder, parts=True))
    first = Stored(sky / "patches" / "tok_image").of(0)
    list(jobs.embed(sky, other, parts=True))
    stored = Stored(sky / "patches" / "tok_image")
    assert stored.records.manifest["model"] == "other" and first is not None
    assert not np.allclose(stored.of(0), first, atol=0.1)


def test_a_full_disk_is_said_before_anything_is_written(sky: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    list(jobs.embed(sky, folder))
    monkeypatch.setattr(patches.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    done = CliRunner().invoke(app, ["embed", str(sky), "--model", str(folder), "--patches"])
    assert done.exit_code == 1 and "0.00 GB free; make room" in done.output


def test_a_reduction_keeps_the_main_directions(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    x = generator.normal(size=(3000, 5)) @ generator.normal(size=(5, 90)) + 3
    made = Reduction.fit(x)
    assert made.basis.shape == (90, 64) and made.explained(x) > 0.995, "five directions, in steps of a 25th of a sigma"
    made.save(tmp_path / "r.safetensors")
    again = Reduction.open(tmp_path / "r.safetensors")
    np.testing.assert_array_equal(again.encode(x), made.encode(x))
    assert Reduction.fit(x[:, :40]).basis.shape == (40, 64)
    (tmp_path / "r.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"r\.safetensors is damaged"):
        Reduction.open(tmp_path / "r.safetensors")


def test_no_random_state_is_touched(sky: Path, folder: Path) -> None:
    before = torch.random.get_rng_state()
    list(jobs.embed(sky, folder, parts=True))
    assert torch.equal(torch.random.get_rng_state(), before)
