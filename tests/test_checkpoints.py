"""Bundles: what is saved is what is loaded, and anything that does not fit is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engine import checkpoints
from engine.checkpoints import resume, save_training
from engine.files import NoRoom
from engine.models import AstroClip, AstroClipConfig
from engine.objects import SkyObject
from engine.reduction import Reduction
from engine.train.optim import adamw

CONFIG = AstroClipConfig(width=32, image_layers=1, spectrum_layers=1, heads=2, expand=2, space=16, drawn=64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = AstroClip(CONFIG)
    model.init_weights(3)
    checkpoints.save(tmp_path / "m", model, {"command": "none"})
    return tmp_path / "m"


def test_round_trip_in_half_precision(folder: Path) -> None:
    model = AstroClip(CONFIG)
    model.init_weights(3)
    loaded = checkpoints.load(folder)
    assert loaded.model.config == CONFIG and loaded.dim == 16 and set(loaded.spaces) == {"image", "spectrum"}
    for own, read in zip(model.parameters(), loaded.model.parameters(), strict=True):
        torch.testing.assert_close(own, read, rtol=1e-3, atol=1e-6)


def test_checksum_changes_with_any_weight(folder: Path) -> None:
    before = checkpoints.load(folder).checksum
    tensors = load_file(folder / "model.safetensors")
    tensors["log_scale"] += 1
    save_file(tensors, folder / "model.safetensors")
    after = checkpoints.load(folder).checksum
    assert len(before) == 64 and before != after
    assert checkpoints.load(folder).manifest("image")["checksum"] == after


def test_every_tensor_that_does_not_fit_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["extra"] = tensors.pop("image.position")
    tensors["image.pool.query"] = torch.zeros(5)
    save_file(tensors, folder / "model.safetensors")
    expected = r"missing image.position; unexpected extra; image.pool.query is \(5,\), expected \(32,\)"
    with pytest.raises(ValueError, match=expected):
        checkpoints.load(folder)


def test_damaged_and_foreign_files(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        checkpoints.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is damaged or not JSON"):
        checkpoints.load(folder)
    (folder / "config.json").write_text(json.dumps({"kind": "other"}))
    with pytest.raises(ValueError, match="does not describe"):
        checkpoints.load(folder)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        checkpoints.load(tmp_path)


def test_sizes_must_be_known(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["depth"] = config["model"].pop("width")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="depth"):
        checkpoints.load(folder)


def test_objects_without_input_have_no_vector(folder: Path) -> None:
    out = checkpoints.load(folder).vectors([SkyObject("a"), SkyObject("b")])
    assert out["image"].shape == out["spectrum"].shape == (2, 16)
    assert out["image"].dtype == np.float32 and np.isnan(out["image"]).all() and np.isnan(out["spectrum"]).all()
    assert {s: v.shape for s, v in checkpoints.load(folder).vectors([]).items()} == {"image": (0, 16), "spectrum": (0, 16)}


def test_manifest_names_its_inputs(folder: Path) -> None:
    bundle = checkpoints.load(folder)
    assert bundle.manifest("image")["inputs"]["surveys"]["hsc"]["bands"] == ["g", "r", "i", "z", "y"]
    assert json.loads(json.dumps(bundle.manifest("spectrum")))["dim"] == 16
    with pytest.raises(KeyError, match="lightcurve"):
        bundle.manifest("lightcurve")


def trained() -> tuple[AstroClip, torch.optim.Optimizer]:
    model = AstroClip(CONFIG)
    model.init_weights(1)
    optimiser = adamw(model, 1e-3, 0.1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimiser.step()
    return model, optimiser


def test_training_state_comes_back_as_it_was(tmp_path: Path) -> None:
    model, optimiser = trained()
    torch.manual_seed(11)
    checkpoints.save_training(tmp_path / "c", model, optimiser, {"step": 7, "seconds": 2.0})
    expected = torch.rand(3)
    other = AstroClip(CONFIG)
    fresh = adamw(other, 1e-3, 0.1)
    assert checkpoints.resume(tmp_path / "c", other, fresh) == (7, 2.0)
    assert torch.equal(torch.rand(3), expected)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    before, after = (o.state_dict()["state"] for o in (optimiser, fresh))
    assert before.keys() == after.keys()
    for index in before:
        assert all(torch.equal(before[index][k], after[index][k]) for k in before[index])


def test_a_kill_between_two_renames_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    model, optimiser = trained()
    checkpoints.save_training(tmp_path / "c", model, optimiser, {"step": 1, "seconds": 0.0})
    (tmp_path / "c").rename(tmp_path / "c.old")
    assert checkpoints.last_step(tmp_path / "c") == {"step": 1, "seconds": 0.0}
    checkpoints.save_training(tmp_path / "c", model, optimiser, {"step": 2, "seconds": 0.0})
    found = checkpoints.last_step(tmp_path / "c")
    assert found is not None and found["step"] == 2 and not (tmp_path / "c.old").exists()


def test_a_second_kill_between_two_renames_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimiser = trained()
    checkpoints.save_training(tmp_path / "c", model, optimiser, {"step": 1, "seconds": 0.0})
    (tmp_path / "c").rename(tmp_path / "c.old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        checkpoints.save_training(tmp_path / "c", model, optimiser, {"step": 2, "seconds": 0.0})
    assert checkpoints.last_step(tmp_path / "c") == {"step": 1, "seconds": 0.0}


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert checkpoints.last_step(tmp_path / "c") is None
    assert checkpoints.resume(tmp_path / "c", *trained()) == (0, 0.0)


def test_written_tensors_have_the_mode_of_the_users_other_files(tmp_path: Path) -> None:
    model, optimiser = trained()
    checkpoints.save(tmp_path / "bundle", model, {})
    checkpoints.save_training(tmp_path / "checkpoint", model, optimiser, {"step": 1}, model.state_dict())
    checkpoints.restart(tmp_path / "again", model.state_dict(), {"step": 1})
    Reduction.fit(np.eye(4)).save(tmp_path / "reduction.safetensors")
    (tmp_path / "plain").write_bytes(b"")
    modes = {path: path.stat().st_mode for path in tmp_path.rglob("*.safetensors")}
    assert len(modes) == 8 and set(modes.values()) == {(tmp_path / "plain").stat().st_mode}, modes


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint before stays whole, and the run goes on from it. (The error itself was seen on a small disk.)"""
    model = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    save_training(tmp_path / "checkpoint", model, optimiser, {"step": 1, "seconds": 2.0})

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("engine.checkpoints.tensors.save_file", full)
    with pytest.raises(NoRoom, match=r"no room for .*model\.safetensors; what was written before it is kept"):
        save_training(tmp_path / "checkpoint", model, optimiser, {"step": 2, "seconds": 3.0})
    with pytest.raises(NoRoom, match=r"no room for .*reduction\.safetensors"):
        Reduction.fit(np.eye(4)).save(tmp_path / "reduction.safetensors")
    assert not list(tmp_path.rglob("*.safetensors.part")), "a full disk is not kept full"
    assert resume(tmp_path / "checkpoint", model, optimiser) == (1, 2.0)
