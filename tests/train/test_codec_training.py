"""Training codecs: they learn, their losses are the recorded ones, killed runs go on as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import simulate
from engine.checkpoints import load_codec
from engine.codecs import CompactImageCodec, ScalarCodec, SegmentationCodec, SpectrumCodec
from engine.train import codec_figures, codecs, data
from engine.train.codec_data import CodecSource, build_cache
from engine.train.codec_recipes import TINY, CodecRecipe, Kind

GOLDEN = Path(__file__).resolve().parent / "goldens" / "codec_losses.json"
KINDS: tuple[Kind, ...] = ("image", "spectrum", "segmap")


@lru_cache
def sky(seed: int) -> dict[str, Tensor]:
    return simulate.render(seed, torch.arange(80), truth=True)


def render(seed: int, index: Tensor, truth: bool = False) -> dict[str, Tensor]:
    """The simulated sky, 80 objects of it rendered once and repeated beyond."""
    return {name: value[index % 80] for name, value in sky(seed % 2).items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("codecs")
    for kind in (*KINDS, "scalars"):
        steps = list(codecs.run(kind, out / kind, "tiny", render))  # type: ignore[arg-type]
        assert steps[-1].fraction == 1.0 and steps[-1].preview == str(out / kind / "model")
        assert [s.fraction for s in steps] == sorted(s.fraction for s in steps)
    return {kind: out / kind for kind in (*KINDS, "scalars")}


def curve(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


def test_losses_are_the_recorded_ones(finished: dict[str, Path]) -> None:
    """A refactor must reproduce them; processors differ in the last digits, hence the tolerance."""
    golden = json.loads(GOLDEN.read_text())
    for kind in KINDS:
        np.testing.assert_allclose([row["loss"] for row in curve(finished[kind])], golden[kind], rtol=5e-3, err_msg=kind)


def test_a_finished_run_leaves_a_codec_and_its_figures(finished: dict[str, Path]) -> None:
    for kind, built in zip(KINDS, (CompactImageCodec, SpectrumCodec, SegmentationCodec), strict=True):
        codec, figures = load_codec(finished[kind] / "model"), json.loads((finished[kind] / "figures.json").read_text())
        assert isinstance(codec, built) and all("codec" in table or "codes" in table for table in figures.values())
        tables = [table["codec"] for table in figures.values() if "codec" in table]
        assert tables and all(1 <= row["perplexity"] <= row["vocabulary"] == codec.vocabulary for row in tables)
        assert {"held_out", "loss", "rate", "seconds"} <= set(curve(finished[kind])[-1])
        assert any(name.startswith("perplexity") for name in curve(finished[kind])[-1])


@pytest.mark.parametrize("kind", [*KINDS, "scalars"])
def test_a_finished_run_is_left_as_it_is(kind: Kind, finished: dict[str, Path], tmp_path: Path) -> None:
    """Tokens know a codec by its files: run again, it must not become another one; another recipe is refused."""
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (finished[kind] / "model").rglob("*.*")}
    [last] = codecs.run(kind, finished[kind], "tiny", render)
    assert last.fraction == 1.0 and last.preview == str(finished[kind] / "model")
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    with pytest.raises(ValueError, match="holds a run of another recipe"):
        next(codecs.run(kind, finished[kind], replace(TINY[kind], seed=77), render))


@pytest.mark.parametrize("kind", [*KINDS, "scalars"])
def test_a_finished_run_without_its_model_makes_it_again(kind: Kind, finished: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / kind
    shutil.copytree(finished[kind], out)
    shutil.rmtree(out / "model")
    *_, last = codecs.run(kind, out, "tiny", render)
    assert last.preview == str(out / "model")
    before, after = (sorted(folder.rglob("*.safetensors")) for folder in (finished[kind] / "model", out / "model"))
    assert before and [path.read_bytes() for path in after] == [path.read_bytes() for path in before]


def test_scalars_that_do_not_say_of_which_recipe_they_are_are_fitted_anew(finished: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "scalars"
    shutil.copytree(finished["scalars"], out)
    path = out / "model" / "catalog" / "config.json"
    config = json.loads(path.read_text())
    del config["trained"]["digest"]
    path.write_text(json.dumps(config))
    assert list(codecs.run("scalars", out, "tiny", render))[-1].fraction == 1.0
    assert json.loads(path.read_text())["trained"]["digest"] == TINY["scalars"].digest()


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_equals_uninterrupted(kind: Kind, finished: dict[str, Path], tmp_path: Path) -> None:
    work = codecs.run(kind, tmp_path, "tiny", render)
    for step in work:
        if step.note.startswith("step 6 "):  # between the checkpoints of steps 4 and 8
            break
    work.close()
    assert not (tmp_path / "model").exists()
    list(codecs.run(kind, tmp_path, "tiny", render))
    assert [row["loss"] for row in curve(tmp_path)] == [row["loss"] for row in curve(finished[kind])]
    ours, theirs = (folder / "model" / "model.safetensors" for folder in (tmp_path, finished[kind]))
    assert ours.read_bytes() == theirs.read_bytes()


def test_it_learns_and_beats_means_of_blocks(tmp_path: Path) -> None:
    recipe = replace(TINY["image"], objects=32, batch=16, steps=100, rate=4e-3, warmup=10, drop_some=0.0, legacy=1.0,
                     model=replace(TINY["image"].model, width=48, blocks=1), report_every=100, checkpoint_every=200)  # type: ignore
    list(build_cache(recipe, tmp_path, render))
    source, codec = CodecSource(recipe, tmp_path), codecs.build(recipe)
    list(codecs.train(codec, recipe, tmp_path, source))
    first, last = codecs.build(recipe), load_codec(tmp_path / "model")
    batch = source.images(0)[0]
    with torch.no_grad():
        before, after = (float(codecs.image_losses(c.eval(), batch, recipe)[0]) for c in (first, last))  # type: ignore[arg-type]
    assert after < before / 8
    assert isinstance(last, CompactImageCodec)
    drawn = last.detokenize(last.tokenize(batch.flux, "legacy"), "legacy")
    means = codec_figures.blocks(batch.flux, 8)
    norm = last.brightness_of(last.tokenize(batch.flux, "legacy")[:, 0])[:, None, None, None]
    errors = [float((last.pressed(x / norm) - last.pressed(batch.truth / norm)).square().mean()) for x in (drawn, means)]
    assert errors[0] < errors[1]


def test_scalars_are_quantiles_and_redshift_is_not(finished: dict[str, Path]) -> None:
    model = finished["scalars"] / "model"
    assert {"FLUX_G", "SHAPE_E1", "EBV", "Z", "g_cmodel_mag", "bp_coefficients", "ra"} <= {p.name for p in model.iterdir()}
    flux, z = load_codec(model / "FLUX_R"), load_codec(model / "Z")
    assert isinstance(flux, ScalarCodec) and isinstance(z, ScalarCodec)
    known = sky(1)["s_flux_r"][:64]
    counts = torch.bincount(flux.tokenize(known), minlength=32)
    assert counts[1:].max() <= 4 and flux.config.centre
    steps = torch.log1p(z.table.values).diff()
    torch.testing.assert_close(steps, steps[:1].expand(len(steps)), rtol=1e-3, atol=0)
    assert float(z.table.values[-1]) == pytest.approx(6)


def test_batches_depend_on_the_step_alone(finished: dict[str, Path]) -> None:
    source = CodecSource(TINY["image"], finished["image"] / "cache")
    first = source.images(5)
    source.images(0)
    again = source.images(5)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.flux, other.flux) and torch.equal(one.given, other.given) and one.survey == other.survey
        assert bool(one.given.any(1).all())
    assert [(b.survey, len(b.flux)) for b in first] == [("legacy", 9), ("hsc", 7)]
    assert len(set(np.concatenate([source.rows_of(s) for s in range(4)]))) == 64


def test_targets_have_no_noise_and_bad_pixels_no_weight(finished: dict[str, Path]) -> None:
    source = CodecSource(TINY["spectrum"], finished["spectrum"] / "cache")
    batch = source.held_out_spectra("desi", 16)
    codec = load_codec(finished["spectrum"] / "model")
    assert isinstance(codec, SpectrumCodec)
    loss, _, _ = codecs.spectrum_losses(codec, batch, TINY["spectrum"])
    bad = ~torch.isfinite(batch.flux)
    assert bool(bad.any())
    near = torch.nn.functional.pad(~bad, (1, 1))  # a good neighbour shares a pixel of the codec's grid
    spoiled = replace(batch, truth=torch.where(bad & ~near[:, 2:] & ~near[:, :-2], 1e4, batch.truth))
    assert float(codecs.spectrum_losses(codec, spoiled, TINY["spectrum"])[0]) == pytest.approx(float(loss), rel=1e-4)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = codecs.LOSSES["segmap"]

    def bad(codec: Any, batch: Any, recipe: CodecRecipe) -> Any:
        loss, parts, ids = good(codec, batch, recipe)
        calls.append(1)
        return (loss * float("nan") if len(calls) > 12 else loss), parts, ids

    calls: list[int] = []
    monkeypatch.setitem(codecs.LOSSES, "segmap", bad)
    with pytest.raises(ValueError, match=r"the gradient at step \d+ is not finite"):
        list(codecs.run("segmap", tmp_path, "tiny", render))
    assert (tmp_path / "checkpoint" / "state.json").is_file() and not (tmp_path / "model").exists()


def test_what_is_refused(finished: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="demo, tiny"):
        next(codecs.run("image", tmp_path, "huge", render))
    with pytest.raises(KeyError, match="image, spectrum, segmap, scalars"):
        next(codecs.run("sound", tmp_path, "tiny", render))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="another recipe"):
        next(codecs.run("image", finished["image"], replace(TINY["image"], rate=1.0), render))
    with pytest.raises(ValueError, match="larger than the training set"):
        replace(TINY["image"], batch=1000)


def test_a_cache_goes_on_and_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "RENDER_BATCH", 2)
    recipe = TINY["segmap"]
    work = build_cache(recipe, tmp_path, render)
    for _ in range(20):
        next(work)
    work.close()
    assert next(build_cache(recipe, tmp_path, render)).fraction == pytest.approx(34 / 80)
    assert next(build_cache(replace(recipe, seed=12), tmp_path, render)).fraction == pytest.approx(2 / 80)


def test_a_cache_that_another_recipe_began_to_overwrite_is_made_anew(tmp_path: Path) -> None:
    recipe = TINY["segmap"]
    list(build_cache(recipe, tmp_path, render))
    fields = np.load(tmp_path / "field.npy")
    next(build_cache(replace(recipe, seed=recipe.seed + 1), tmp_path, render))
    assert list(build_cache(recipe, tmp_path, render))[-1].fraction == 1.0
    assert np.array_equal(np.load(tmp_path / "field.npy"), fields)
