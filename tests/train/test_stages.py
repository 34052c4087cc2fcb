"""The chain in stages: stopped anywhere, it goes on, also on another machine from what was kept."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine import align, checkpoints
from engine.checkpoints.align import contexts
from engine.models.omni import Omni
from engine.models.omni_config import OmniConfig
from engine.records import Records
from engine.train import head, omni, stages
from engine.train import kept as kept_files
from engine.train.codec_folder import gather
from engine.train.kept import keep, unpack
from engine.train.stages import PLANS, run

PLAN = replace(PLANS["tiny"], pairs=40)


@pytest.fixture(autouse=True)
def few_pairs_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align, "LEAST", 20)
    monkeypatch.setattr(head, "STEPS", 4)


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_plan_is_carried_from_machine_to_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codecs and tokens here; then the time is over at the first report of the transformer; the rest elsewhere."""
    here, kept, there = tmp_path / "here", tmp_path / "kept", tmp_path / "there"
    work = run(PLAN, here, 60)
    for step in work:
        if "step 10 of 20" in step.note:
            break
    work.close()
    keep(here, kept)
    assert all(path.stat().st_size <= 16 << 20 for path in kept.iterdir())
    assert (here / "omni" / "light" / "averages.safetensors").stat().st_mode == (here / "omni" / "curve.jsonl").stat().st_mode

    unpack(kept, there)
    light = load_file(there / "omni" / "light" / "averages.safetensors")
    assert {value.dtype for value in light.values()} == {torch.bfloat16}
    assert checkpoints.last_step(there / "omni" / "checkpoint")["step"] == 10  # type: ignore[index]
    monkeypatch.setattr(stages, "codec", None)  # codecs are there: none is trained again
    *_, last = run(PLAN, there, 60)
    assert last.fraction == 1.0 and checkpoints.load(last.preview).dim == PLAN.omni.dim
    heads = checkpoints.load_aion(last.preview).config.token_heads
    assert [*heads] == checkpoints.last_step(here / "omni" / "checkpoint")["token_heads"] and len(heads) == 1  # type: ignore[index]
    assert [line["step"] for line in lines(there / "omni" / "curve.jsonl")] == [10, 20]
    held_out = [line["held_out"] for line in lines(there / "omni" / "curve.jsonl")]
    assert held_out[1] < held_out[0]

    keep(there, kept)
    unpack(kept, tmp_path / "third")
    for name in ("config.json", "model.safetensors", "align/config.json", "align/model.safetensors"):
        assert (tmp_path / "third" / "omni" / "model" / name).read_bytes() == (Path(last.preview) / name).read_bytes()
    assert checkpoints.load(tmp_path / "third" / "omni" / "model").codecs.keys() == checkpoints.load(last.preview).codecs.keys()
    shutil.rmtree(tmp_path / "third" / "omni" / "model" / "align")  # as it is kept when time is over before the head
    (tmp_path / "third" / "omni" / "curve.jsonl").unlink()
    *_, again = run(PLAN, tmp_path / "third", 60)
    assert again.fraction == 1.0 and (Path(again.preview) / "align" / "config.json").is_file()
    assert not (tmp_path / "third" / "omni" / "curve.jsonl").exists(), "the model was not trained again"
    _from_that_model_on(Path(last.preview), tmp_path)


def _from_that_model_on(model: Path, place: Path) -> None:
    """With its codecs none is trained, and its weights are where the next run begins."""
    last = list(run(replace(PLAN, skies=(12, 13)), place / "on", 60, given=model, begin=model))[-1]
    assert json.loads((Path(last.preview) / "training.json").read_text())["began with"]["recipe"]["name"] == "tiny"
    before, after = (checkpoints.load(folder) for folder in (model, Path(last.preview)))
    assert before.checksum != after.checksum  # type: ignore[union-attr]
    first, later = (lines(place / name / "omni" / "curve.jsonl")[0]["held_out"] for name in ("there", "on"))
    assert later < first
    for bundle in (before, after):
        made = bundle.aligned(bundle.folder / "align").alignment  # type: ignore[union-attr]
        assert made is not None and made.about["pairs"] + made.about["held_out"] == 40
    _what_the_head_saw(after, [place / "on" / f"tokens-{seed}" for seed in (12, 13)])  # type: ignore[arg-type]


def _what_the_head_saw(bundle: checkpoints.OmniBundle, skies: list[Path]) -> None:
    """The vectors of both skies' tokens, in their order, as whoever uses the head makes them."""
    records = [{"tok_image": Records.open(sky / "tokens" / "tok_image")} for sky in skies]
    tokens = head.together(records)["tok_image"]
    counts = [len(some["tok_image"]) for some in records]
    assert tokens.rows[counts[0]] == records[0]["tok_image"].reach + records[1]["tok_image"].rows[0]
    np.testing.assert_array_equal(tokens.values[counts[0] :], records[1]["tok_image"].values)
    reduced, reduction = head._reduced(bundle.model, "tok_image", tokens, "cpu")
    own = reduction.encode(contexts(bundle.model, "tok_image", tokens.values.long()))
    assert np.abs(reduced.values.numpy().astype(int) - own).max() <= 1 and (reduced.values.numpy() == own).mean() > 0.99


def test_codecs_that_are_given_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those of images and spectra are trained; without time, nothing after them begins."""
    given = tmp_path / "given"
    for kind, folder in (("segmap", "segmentation_map"), ("scalars", "Z")):
        (given / "codecs" / folder).mkdir(parents=True)
        (given / "codecs" / folder / "mark").write_text(kind)
    asked: list[str] = []
    monkeypatch.setattr(stages, "_side_by_side", lambda jobs: asked.extend(arguments[0].kind for _, arguments in jobs))
    assert [step.note for step in run(PLAN, tmp_path / "work", 0.0, given)] == ["codecs"]
    assert asked == ["image", "spectrum"]
    assert (tmp_path / "work" / "codecs" / "codecs" / "Z" / "mark").read_text() == "scalars"


def test_codecs_that_were_stopped_while_they_were_written_are_not_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                            ) -> None:
    """Of scalars a few folders, of a network its weights alone; what is missing is written by who goes on."""
    def here(jobs: list[Any]) -> None:
        for target, arguments in jobs:
            target(*arguments)

    for name in ("image", "spectrum"):
        (tmp_path / "codecs" / name).mkdir(parents=True)
    monkeypatch.setattr(stages, "_side_by_side", here)
    assert stages._codecs(PLAN, tmp_path, math.inf, None)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    for folder in (tmp_path / "scalars" / "model").iterdir():
        if folder.name not in ("EBV", "Z"):
            shutil.rmtree(folder)
    (tmp_path / "segmap" / "model" / "config.json").unlink()
    monkeypatch.setattr(stages, "_side_by_side", lambda jobs: None)
    assert not stages._codecs(PLAN, tmp_path, math.inf, None)
    monkeypatch.setattr(stages, "_side_by_side", here)
    assert stages._codecs(PLAN, tmp_path, math.inf, None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before


def test_a_codec_is_copied_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a codec under its name would pass for one that is there."""
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text(name)

    def stopped(source: Path, target: Path) -> None:
        target.mkdir(parents=True)
        shutil.copy(source / "config.json", target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copytree", stopped)
        gather({"image": tmp_path / "run"}, tmp_path)
    assert not (tmp_path / "codecs" / "image").exists()
    assert gather({"image": tmp_path / "run"}, tmp_path) == ["image"]
    assert sorted(path.name for path in tmp_path.glob("codecs/*/*")) == ["config.json", "model.safetensors"]


def test_what_was_kept_is_unpacked_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that goes on takes what it finds for done, and a model has no codecs before the last of it."""
    here, kept, there = (tmp_path / name for name in ("here", "kept", "there"))
    keys = ("tok_z", "catalog")
    config = OmniConfig(keys, keys, norm_bias=False, act_layer="SiLU", dim=16, encoder_depth=1, decoder_depth=1, num_heads=2)
    checkpoints.save_aion(here / "omni" / "model", Omni(config))
    (here / "omni" / "model" / "training.json").write_text("{}")
    for codec in (here / "codecs" / "codecs" / "Z", here / "omni" / "model" / "codecs" / "catalog"):  # its own one
        codec.mkdir(parents=True)
        (codec / "config.json").write_text("{}")
    (here / "codecs" / "done").touch()
    keep(here, kept)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kept_files, "copied", stopped)
        unpack(kept, there)
    assert not there.exists()
    unpack(kept, there)
    assert {path.parent.name for path in there.glob("omni/model/codecs/*/config.json")} == {"Z", "catalog"}
    assert not there.with_name("there.part").exists()
    with pytest.raises(FileExistsError, match=r"there has something in it already; go on with it"):
        unpack(kept, there)


def test_a_stage_that_fails_says_so(tmp_path: Path) -> None:
    broken = replace(PLAN, codecs=PLAN.codecs | {"image": replace(PLAN.codecs["image"], model=None)})
    (tmp_path / "given" / "codecs").mkdir(parents=True)
    with pytest.raises(RuntimeError, match="said above"):
        list(run(broken, tmp_path / "work", 60, tmp_path / "given"))
    with pytest.raises(FileNotFoundError, match="has no kept"):
        unpack(tmp_path / "nowhere", tmp_path / "other")


def test_a_plan_without_codecs_says_what_it_goes_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given in ([], ["--codecs", "a"], ["--begin", "a"]):
        with pytest.raises(SystemExit):
            stages.main([str(tmp_path / "work"), str(tmp_path / "kept"), "--plan", "more", *given])
        assert "the plan more goes on from a model: name it with --begin" in capsys.readouterr().err
    assert not (tmp_path / "work").exists() and not (tmp_path / "kept").exists()


def test_the_shipped_plan_fits_what_may_be_kept() -> None:
    """Codecs and half-precision weights are below 50 MB."""
    from engine.checkpoints.tokenizers import config_of
    from engine.model_files import SHIPPED

    folder = SHIPPED.with_name("omnisky-demo")
    known = config_of(folder)
    model = Omni(PLANS["gpu"].omni.config(known.domains, known.sizes), device="meta")
    weights = 2 * sum(p.numel() for p in model.parameters())
    codecs = sum(path.stat().st_size for path in (folder / "codecs").rglob("*") if path.is_file())
    assert weights + codecs < 50e6
    assert omni.chosen("small").dim == PLANS["gpu"].omni.dim
