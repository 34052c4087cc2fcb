"""Masked training: the short way gives what the whole transformer gives, it learns, and a killed run goes on bit for bit."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine import checkpoints
from engine.checkpoints import save_aion
from engine.model_files import codec_checksum
from engine.models import processor
from engine.models.omni import Omni
from engine.models.omni_config import OmniConfig
from engine.models.processor import mixed_precision
from engine.models.tokens import has_level
from engine.records import Records
from engine.steps import Step
from engine.train import omni
from engine.train.masking import Budgets, Chosen, Layout, _places, choose
from engine.train.omni_recipes import PROGRAM, RECIPES, OmniRecipe, check_memory, chosen, estimate, held
from engine.train.omni_step import FEW, MaskedOmni, _Rows, compact, weights
from engine.train.optim import adamw_omni, average, rate_at
from engine.train.recorded import Recorded, lengths
from engine.train.token_data import TokenData, cells_of, hashed, seen, tokens_of

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "goldens" / "omni_losses.json"
KEYS = ("tok_image_hsc", "tok_spectrum_desi", "catalog", "tok_z", "tok_flux_g")
SIZES = {"tok_image_hsc": (16, 12), "tok_spectrum_desi": (6, 12), "catalog": (6, 16), "tok_z": (1, 12), "tok_flux_g": (1, 12)}
CONFIG = OmniConfig(KEYS, KEYS, norm_bias=False, act_layer="SiLU", dim=16, encoder_depth=2, decoder_depth=2, num_heads=2,
                    qkv_bias=False, proj_bias=False, mlp_bias=False, gated_mlp=True, qk_norm=True, sizes=SIZES)
TWINS = (*KEYS, "tok_spectrum_sdss")  # two of one codec
SHARED: dict[str, Any] = {"domains_in": TWINS, "domains_out": TWINS, "share_tables": True,
                          "sizes": SIZES | {"tok_spectrum_sdss": SIZES["tok_spectrum_desi"]}}
RECIPE = chosen("tiny", validation=0.2, steps=24, report_every=4, checkpoint_every=8)
RECIPE = replace(RECIPE, budgets=Budgets((8, 12), 8), validated=32)


# ------------------------------------------------------------------------------------------------------------ stand-ins


def toy_tokens(objects: int, seed: int = 0, config: OmniConfig = CONFIG) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Key -> rows that have it and their ids: one hidden number of twelve is behind all of them."""
    random = np.random.default_rng(seed)
    hidden = random.integers(0, 12, objects)
    out = {}
    for number, key in enumerate(config.domains):
        n = config.modality(key).tokens
        ids = np.repeat((hidden[:, None] * 5 + number) % 12, n, 1)
        noise = random.random(ids.shape) < 0.1
        ids[noise] = random.integers(0, 12, int(noise.sum()))
        if key == "catalog":
            ids = np.where(np.arange(n) < random.integers(2, n + 1, objects)[:, None], ids + 1, 0)
        rows = np.flatnonzero(random.random(objects) < 0.8)
        out[key] = rows, ids[rows]
    return out


def toy_model(folder: Path) -> Path:
    """A model folder with codecs that nothing ever loads."""
    save_aion(folder, Omni(CONFIG))
    for key in KEYS:
        codec = folder / "codecs" / CONFIG.modality(key).folder
        codec.mkdir(parents=True)
        (codec / "config.json").write_text(json.dumps({"key": key}))
        save_file({"weight": torch.ones(1)}, codec / "model.safetensors")
    return folder


def toy_sky(folder: Path, model: Path, objects: int = 200, seed: int = 0) -> Path:
    for key, (rows, ids) in toy_tokens(objects, seed).items():
        manifest = {"key": key, "codec": codec_checksum(model / "codecs" / CONFIG.modality(key).folder)}
        Records.create(folder / "tokens" / key, ids.shape[1:], "<u2", manifest).append(rows, ids, objects)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("omni")
    toy_sky(folder / "toy.sky", toy_model(folder / "codecs-of"))
    return folder


def trained(place: Path, out: Path, recipe: OmniRecipe = RECIPE) -> Iterator[Step]:
    return omni.run(recipe, [place / "toy.sky"], place / "codecs-of", out)


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    assert list(trained(place, place / "finished"))[-1].fraction == 1.0
    return place / "finished"


def curve(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[list[float]]:
    return [[row["loss"], row["gradient"], row["held_out"]] for row in curve(out)]


# -------------------------------------------------------------------------------------------------- the forward pass


def batch(rows: int = 6, config: OmniConfig = CONFIG) -> tuple[Tensor, Tensor, Layout]:
    """Ids and what is there, (B, N), of toy objects."""
    layout = Layout(config)
    ids, there = torch.zeros(rows, layout.places, dtype=torch.long), torch.zeros(rows, layout.places, dtype=torch.bool)
    for key, (have, values) in toy_tokens(rows, seed=3, config=config).items():
        ids[have, layout.slices[key]] = torch.from_numpy(values)
        there[have, layout.slices[key]] = torch.from_numpy(values) != 0 if key == "catalog" else True
    return ids, there, layout


@pytest.mark.parametrize("changes", [{}, {"num_register_tokens": 2}, {"decoder_sep_mask": False},
                                     {"decoder_causal_mask": True}, {"share_modality_embeddings": False},
                                     {"decoder_causal_mask": True, "decoder_sep_mask": False}, SHARED,
                                     {"token_heads": (1,), "num_register_tokens": 2, "qkv_bias": True}])
def test_the_short_way_equals_the_whole_transformer(changes: dict[str, Any]) -> None:
    """Where all that an object's modality has is asked for, the answers are those of `Omni.logits`, object by object."""
    model = Omni(replace(CONFIG, **changes)).eval()
    generator = torch.Generator().manual_seed(7)
    for p in model.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator)
    ids, there, layout = batch(12, model.config)
    picked = whole_modalities(choose(there, layout, Budgets((6,), layout.places, asked=(("catalog", 0.5),)), 1, 2), layout)
    short = MaskedOmni(model)
    some = compact(ids, picked, layout)
    with torch.no_grad():
        answers = dict(zip(layout.keys, short.logits(some), strict=True))
    assert tuple(map(len, answers.values())) == some.target_counts[:-1]
    place = dict.fromkeys(layout.keys, 0)
    for row in range(len(ids)):
        whole = _whole_logits(model, ids[row], picked.inputs[row][picked.inputs_kept[row]],
                              picked.targets[row][picked.targets_kept[row]], layout)
        for key, expected in whole.items():
            ours = answers[key][place[key] : place[key] + len(expected)]
            place[key] += len(expected)
            torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)
    assert tuple(place.values()) == some.target_counts[:-1] and min(place.values()) > 0


def whole_modalities(picked: Chosen, layout: Layout) -> Chosen:
    """Only those targets whose modality is asked for as a whole, that is, of which nothing is read."""
    b, n = len(picked.inputs), layout.places
    both = ((picked.inputs, picked.inputs_kept), (picked.targets, picked.targets_kept))
    read, asked = (torch.zeros(b, n + 1, dtype=torch.bool).scatter_(1, places.masked_fill(~kept, n), True)[:, :n]
                   for places, kept in both)
    touched = torch.zeros(b, len(layout.keys)).index_add_(1, layout.modality, read.float()) > 0
    return Chosen(picked.inputs, picked.inputs_kept, *_places(asked & ~touched[:, layout.modality]))


def _whole_logits(model: Omni, ids: Tensor, read: Tensor, asked: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Logits of one object by `Omni.logits`, of the modalities asked for."""
    tokens, hidden, targets, sequences = {}, {}, [], {}
    for key, own in layout.slices.items():
        mine = read[(read >= own.start) & (read < own.stop)] - own.start
        if len(mine):
            tokens[key] = ids[None, own]
            hidden[key] = torch.ones(1, own.stop - own.start, dtype=torch.bool)
            hidden[key][0, mine] = False
        wanted = int(((asked >= own.start) & (asked < own.stop)).sum())
        if wanted:
            targets.append(key)
            if key in layout.sequences:
                sequences[key] = ids[None, own][:, : wanted + 1]
    if not targets:
        return {}
    with torch.no_grad():
        return {key: value[0] for key, value in model.logits(tokens, targets, hidden, sequences=sequences).items()}


def test_targets_do_not_see_other_modalities_and_the_losses_are_sums() -> None:
    """A modality's chosen targets are computed as if no other were asked for; `forward` sums their cross-entropies."""
    ids, there, layout = batch()
    picked = choose(there, layout, Budgets((8,), 8, asked=(("catalog", 0.5),)), seed=1, step=2)
    module = MaskedOmni(Omni(CONFIG)).eval()
    some = compact(ids, picked, layout)
    with torch.no_grad():
        sums, logits = module(some), module.logits(some)
        for number, key in enumerate(layout.keys):
            mine = (layout.modality[picked.targets] == number) & picked.targets_kept
            alone = compact(ids, replace(picked, targets_kept=mine), layout)
            torch.testing.assert_close(module.logits(alone)[number], logits[number], atol=1e-5, rtol=1e-4)
            expected = torch.nn.functional.cross_entropy(logits[number], some.target_ids[mine], reduction="sum")
            torch.testing.assert_close(sums[number], expected, atol=1e-4, rtol=1e-4)
            assert logits[number].shape == (int(mine.sum()), SIZES[key][1])


def test_levels_are_spread_and_shapes_are_not() -> None:
    """What suits a spread level best is the bell itself; for every other token it is the id alone."""
    from engine.train.omni_step import LEVEL

    module = MaskedOmni(Omni(CONFIG), soften=1.0)
    start = module.levels["tok_spectrum_desi"]
    assert set(module.levels) == {key for key in CONFIG.domains if has_level(CONFIG.modality(key))}
    size = 40
    bell = torch.exp(-0.5 * ((torch.arange(size) - 20) / LEVEL) ** 2)
    entropy = float(torch.distributions.Categorical(bell / bell.sum()).entropy())
    logits = bell.clamp_min(1e-30).log()[None]
    at_level, at_shape = torch.tensor([start]), torch.tensor([start + 1])
    assert abs(float(module._loss("tok_spectrum_desi", logits, torch.tensor([20]), at_level)) - entropy) < 0.02
    assert float(module._loss("tok_spectrum_desi", logits, torch.tensor([23]), at_level)) > entropy + 0.5
    peak = torch.nn.functional.cross_entropy(logits, torch.tensor([20]))
    torch.testing.assert_close(module._loss("tok_spectrum_desi", logits, torch.tensor([20]), at_shape), peak)


def test_shared_tables_have_a_gradient_in_every_step() -> None:
    """Also where none of a codec's tokens is read or asked for: processes that share the work must agree on which there are."""
    config = replace(CONFIG, **SHARED)
    ids, there, layout = batch(config=config)
    for own in ("tok_spectrum_desi", "tok_spectrum_sdss", "catalog"):
        there[:, layout.slices[own]] = False
    module = MaskedOmni(Omni(config))
    module(compact(ids, choose(there, layout, Budgets((8,), 8), 1, 2), layout)).sum().backward()
    gradients = {name: p.grad for name, p in module.model.tables.named_parameters()}
    assert all(value is not None for value in gradients.values())
    assert gradients["image.token_emb.weight"].any() and not gradients["spectrum.token_emb.weight"].any()  # type: ignore[union-attr]


@pytest.mark.parametrize("rows", [5, FEW + 1])
def test_rows_of_a_table_have_the_gradient_of_an_embedding(rows: int) -> None:
    """The way without a wait that a GPU takes."""
    table, ids, behind = torch.randn(rows, 7, requires_grad=True), torch.randint(0, rows, (3, 50)), torch.randn(3, 50, 7)
    ways = [way.apply(ids, table) if way is _Rows else way(ids, table) for way in (_Rows, torch.nn.functional.embedding)]
    gradients = [torch.autograd.grad(way, table, behind)[0] for way in ways]
    assert torch.equal(*ways)
    torch.testing.assert_close(*gradients)


def test_what_is_recorded_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each length once, in its order; other shapes and evaluation pass by."""
    recorded = []

    def stand_in(module: Any, args: tuple[Tensor, ...], **_: Any) -> Any:
        recorded.append(args[0].shape[1])
        assert args[0].shape == args[1].shape and args[2].shape == (6, 1, 1, args[0].shape[1]) and args[1].requires_grad
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", stand_in)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    ids, there, layout = batch()
    module = MaskedOmni(Omni(CONFIG)).train()
    recipe = replace(RECIPE, batch=6, bfloat16=False, budgets=Budgets((4, 8), 4, asked=()))
    some, other = (compact(ids, choose(there, layout, Budgets((k,), 4, asked=()), 1, 2), layout) for k in (8, 7))
    some, other = (replace(one, ragged=True) for one in (some, other))  # as on a GPU
    expected = [module(one) for one in (some, other)]
    module.through = Recorded(module, recipe, [8, 4])
    assert torch.equal(module(other), expected[1]) and not recorded
    with torch.no_grad():
        module.eval()(some)
    assert not recorded
    assert torch.equal(module.train()(some), expected[0]) and recorded == [8, 4]
    module(some)
    assert recorded == [8, 4]


def test_graphs_have_room_beside_the_largest_step() -> None:
    recipe = replace(RECIPE, budgets=Budgets((4, 8, 12), 8))
    step = estimate(recipe, CONFIG, device="cuda")
    assert lengths(recipe, CONFIG, step.total + step.passing) == [12, 8, 4]
    assert lengths(recipe, CONFIG, step.total + step.passing - 1) == [8, 4]
    assert lengths(recipe, CONFIG, step.total) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_replayed_step_has_the_gradients_of_a_plain_one() -> None:
    ids, there, layout = batch()
    module = MaskedOmni(Omni(CONFIG).to("cuda"))
    recipe = replace(RECIPE, batch=6, budgets=Budgets((8,), 4, asked=()))
    found = []
    for through in (module.blocks, Recorded(module, recipe, [8])):
        module.through = through
        for step in (2, 3):
            some = compact(ids, choose(there, layout, recipe.budgets, 1, step), layout).to(torch.device("cuda"))
            module.zero_grad()
            module(some).sum().backward()
            found.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    for plain, replayed in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(replayed, plain, atol=1e-3, rtol=1e-2)


def test_weights_of_the_losses() -> None:
    domains = ("tok_image", "tok_flux_g", "tok_flux_r", "tok_z", "tok_flux_z")
    layout = Layout(OmniConfig(domains, domains, norm_bias=False, act_layer="SiLU"))
    counts = torch.tensor([4, 2, 8, 0, 2])
    assert torch.allclose(weights(counts, "modality", layout), torch.tensor([1 / 16, 1 / 8, 1 / 32, 0, 1 / 8]))
    assert torch.allclose(weights(counts, "token", layout), torch.full((5,), 1 / 16))
    # Three fluxes are one group; the redshift is another, which nothing is asked of here.
    assert torch.allclose(weights(counts, "group", layout), torch.tensor([1 / 8, 1 / 12, 1 / 48, 0, 1 / 12]))
    assert torch.allclose(weights(counts + 1, "group", layout)[3], torch.tensor(1 / 3))


@pytest.mark.parametrize("changes", [{"pieces": 4}, {"recompute": True}])
def test_pieces_and_recomputing_change_nothing(place: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = replace(RECIPE, steps=3, report_every=1)
    list(trained(place, tmp_path / "whole", recipe))
    list(trained(place, tmp_path / "other", replace(recipe, **changes)))
    np.testing.assert_allclose(losses(tmp_path / "other"), losses(tmp_path / "whole"), rtol=1e-4)


# ------------------------------------------------------------------------------------------------------------ the run


def test_losses_are_the_recorded_ones(finished: Path) -> None:
    np.testing.assert_allclose(losses(finished), json.loads(GOLDEN.read_text()), rtol=2e-3)


def test_a_run_begins_with_another_models_weights(place: Path, finished: Path, tmp_path: Path) -> None:
    """Its sizes count, not the recipe's; the first report is no worse than the last of that run was; where it came from is
    kept; and a run that began otherwise is not continued."""
    recipe = replace(RECIPE, dim=64, rate=1e-5, steps=8, soften=0.0)
    start = finished / "model"
    *_, last = omni.run(recipe, [place / "toy.sky"], place / "codecs-of", tmp_path / "out", start=start)
    config = checkpoints.load_aion(start).config
    assert config.soften == 1.0 and checkpoints.load_aion(last.preview).config == replace(config, soften=0.0)
    assert curve(tmp_path / "out")[-1]["held_out"] < curve(finished)[-1]["held_out"] + 0.05
    about = json.loads((Path(last.preview) / "training.json").read_text())
    assert about["began with"] == json.loads((start / "training.json").read_text())
    save_aion(tmp_path / "other", Omni(config))
    with pytest.raises(ValueError, match="other weights to begin with"):
        next(omni.run(recipe, [place / "toy.sky"], place / "codecs-of", tmp_path / "out", start=tmp_path / "other"))


def test_a_run_begins_with_a_model_that_reads_less(place: Path, tmp_path: Path) -> None:
    """Tokens that it does not know are left alone; those that it would misread are refused."""
    less = replace(CONFIG, domains_in=KEYS[1:], domains_out=KEYS[1:], sizes={key: SIZES[key] for key in KEYS[1:]})
    save_aion(tmp_path / "less", Omni(less))
    given = replace(RECIPE, steps=2), [place / "toy.sky"], place / "codecs-of"
    *_, last = omni.run(*given, tmp_path / "out", start=tmp_path / "less")
    assert checkpoints.load_aion(last.preview).config.domains == KEYS[1:]
    save_aion(tmp_path / "more", Omni(replace(CONFIG, sizes=SIZES | {"tok_z": (1, 13)})))
    with pytest.raises(ValueError, match=r"more reads 1 tokens of 13 ids as tok_z, .*codecs-of makes 1 of 12; begin with"):
        next(omni.run(*given, tmp_path / "other", start=tmp_path / "more"))
    assert not (tmp_path / "other").exists()


def test_a_run_begins_with_a_model_that_reads_more(place: Path, tmp_path: Path) -> None:
    """What its weights know beyond the tokens they go on knowing, by the codecs of that model; a run whose result would lack
    one is refused before it begins."""
    start, codecs = tmp_path / "start", tmp_path / "codecs-of-fewer"
    fewer = [key for key in KEYS if key not in ("catalog", "tok_z")]
    shutil.copytree(place / "codecs-of", start)
    for key in fewer:
        folder = Path("codecs") / CONFIG.modality(key).folder
        shutil.copytree(start / folder, codecs / folder)
        shutil.copytree(place / "toy.sky" / "tokens" / key, tmp_path / "a.sky" / "tokens" / key)
    save_aion(codecs, Omni(replace(CONFIG, domains_in=tuple(fewer), domains_out=tuple(fewer),
                                   sizes={key: SIZES[key] for key in fewer})))
    given = replace(RECIPE, steps=2), [tmp_path / "a.sky"], codecs
    *_, last = omni.run(*given, tmp_path / "out", start=start)
    bundle = checkpoints.load(last.preview)
    assert isinstance(bundle, checkpoints.OmniBundle) and set(bundle.codecs) == set(KEYS)
    assert bundle.codecs.checksum("catalog") == codec_checksum(start / "codecs" / "catalog")
    shutil.rmtree(start / "codecs" / "catalog")
    with pytest.raises(FileNotFoundError, match=r"no codec catalog in .*codecs-of-fewer/codecs or .*start/codecs; copy"):
        next(omni.run(*given, tmp_path / "other", start=start))
    assert not (tmp_path / "other").exists()


def test_a_finished_run_is_left_as_it_is(finished: Path, place: Path, tmp_path: Path) -> None:
    """What was fitted on the model since, such as a head, stays when the command is given again."""
    out = tmp_path / "again"
    shutil.copytree(finished, out)
    (out / "model" / "align").mkdir()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    [last] = trained(place, out)
    assert last.fraction == 1.0 and last.preview == str(out / "model")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    shutil.rmtree(out / "model")  # killed between the last checkpoint and this
    *_, last = trained(place, out)
    assert checkpoints.load_aion(last.preview).config == checkpoints.load_aion(finished / "model").config


def test_a_run_begins_with_a_published_model(place: Path, tmp_path: Path) -> None:
    """One without sizes of its own, and without training.json; the recipe spreads labels, which changes no tensor. How sure its
    weights were found to be says nothing of other weights."""
    config = OmniConfig(("tok_z", "tok_flux_g"), ("tok_z", "tok_flux_g"), norm_bias=False, act_layer="SiLU", dim=16,
                        encoder_depth=1, decoder_depth=1, num_heads=2, qk_norm=True)
    start, sky = tmp_path / "aion-small", tmp_path / "a.sky"
    save_aion(start, Omni(replace(config, calibration={"tok_z": ((0, 2, 0), (5, 1, 0))})))
    ids = np.random.default_rng(0).integers(0, 1024, (100, 1))
    for key in config.domains:
        codec = start / "codecs" / config.modality(key).folder
        shutil.copytree(place / "codecs-of" / "codecs" / config.modality(key).folder, codec)
        Records.create(sky / "tokens" / key, (1,), "<u2", {"codec": codec_checksum(codec)}).append(np.arange(100), ids, 100)
    *_, last = omni.run(replace(RECIPE, steps=2, soften=1.0), [sky], start, tmp_path / "out", start=start)
    assert checkpoints.load_aion(last.preview).config == replace(config, soften=1.0)
    assert json.loads((Path(last.preview) / "training.json").read_text())["began with"] == "aion-small"


def test_the_decoder_alone_is_trained(place: Path, finished: Path, tmp_path: Path) -> None:
    """What the encoder makes of objects stays, bit for bit; stopped and resumed, the decoder is that of a run without."""
    recipe = replace(RECIPE, part="decoder", steps=8, report_every=4, checkpoint_every=4)
    start, given = finished / "model", ([place / "toy.sky"], place / "codecs-of")
    *_, last = omni.run(recipe, *given, tmp_path / "whole", start=start)
    assert last.fraction == 1.0 and next(omni.run(recipe, *given, tmp_path / "stopped", start=start)).fraction == 0.5
    *_, again = omni.run(recipe, *given, tmp_path / "stopped", start=start)
    before, after, resumed = (load_file(Path(of) / "model.safetensors") for of in (start, last.preview, again.preview))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert len(changed) > 10 and {name.split(".")[0] for name in changed} <= {
        "decoder", "decoder_norm", "mask_token"}
    assert all(torch.equal(value, resumed[name]) for name, value in after.items())


def test_placed_heads_stay_where_a_run_was_stopped(tmp_path: Path) -> None:
    """They are chosen at the start alone; what was stopped ends as what was not, and the model says which they are."""
    config = replace(CONFIG, **SHARED)
    folder = toy_model(tmp_path / "codecs-of")
    save_aion(folder, Omni(config))
    for key, (rows, ids) in toy_tokens(200, config=config).items():
        manifest = {"key": key, "codec": codec_checksum(folder / "codecs" / config.modality(key).folder)}
        Records.create(tmp_path / "toy.sky/tokens" / key, ids.shape[1:], "<u2", manifest).append(rows, ids, 200)
    budgets = Budgets((8, 12), 8, translations=((("tok_spectrum_sdss",), "tok_spectrum_desi", 0.5),))
    recipe = replace(RECIPE, budgets=budgets, placed=1, steps=8, report_every=4, checkpoint_every=4, share_tables=True)
    given = ([tmp_path / "toy.sky"], folder)
    *_, whole = omni.run(recipe, *given, tmp_path / "whole")
    next(omni.run(recipe, *given, tmp_path / "stopped"))
    *_, resumed = omni.run(recipe, *given, tmp_path / "stopped")
    before, after = (load_file(Path(of) / "model.safetensors") for of in (whole.preview, resumed.preview))
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    heads = checkpoints.load_aion(resumed.preview).config.token_heads
    assert len(heads) == 1 and heads == checkpoints.load_aion(whole.preview).config.token_heads


def test_it_learns_the_joint_distribution(place: Path, tmp_path: Path) -> None:
    """Every id alone is uniform: a model that looks at nothing has ln 12. Ours sees through noise that changes 9 in 100."""
    recipe = replace(RECIPE, dim=32, heads=2, batch=32, steps=250, rate=1e-2, report_every=250, checkpoint_every=250,
                     average=0.98)
    list(trained(place, tmp_path, recipe))
    last = curve(tmp_path)[-1]
    alone = math.log(12)
    assert last["held_out"] < 0.75 * alone
    assert all(last[f"held_out/{key}"] < 0.9 * alone for key in KEYS)


def test_the_result_is_a_model_with_its_codecs(finished: Path, place: Path) -> None:
    bundle = checkpoints.load(finished / "model")
    assert isinstance(bundle, checkpoints.OmniBundle) and set(bundle.codecs) == set(KEYS)
    assert all(bundle.codecs.checksum(key) == codec_checksum(place / "codecs-of/codecs" / CONFIG.modality(key).folder)
               for key in KEYS)
    story = json.loads((finished / "model/training.json").read_text())
    assert story["recipe"]["seed"] == 1 and story["hours"] > 0 
    assert (story["skies"], story["codecs"], story["pair"]) == (["toy.sky"], "codecs-of", None)
    assert story["seen"] == [seen({key: Records.open(place / "toy.sky/tokens" / key) for key in KEYS})]
    averages = load_file(finished / "checkpoint/averages.safetensors")
    weights_ = load_file(finished / "checkpoint/model.safetensors")
    stored = load_file(finished / "model/model.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in averages.items())
    assert not torch.equal(stored["mask_token"], weights_["mask_token"])


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_omni_training import trained
for step in trained(Path(sys.argv[2]), Path(sys.argv[3])):
    print(step.note, flush=True)
"""


@pytest.mark.parametrize("after", ["step 12 ", "step 20 "])  # between the checkpoints of steps 8, 16 and 24
def test_killed_and_resumed_equals_uninterrupted(finished: Path, place: Path, tmp_path: Path, after: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(HERE), str(place), str(tmp_path)], stdout=subprocess.PIPE,
                             text=True, cwd=HERE.parents[1])
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(after):
            os.kill(child.pid, signal.SIGKILL)
            break
    child.wait()
    child.stdout.close()
    assert not (tmp_path / "model").exists() and checkpoints.last_step(tmp_path / "checkpoint") is not None
    list(trained(place, tmp_path))
    assert losses(tmp_path) == losses(finished)
    name = "model/model.safetensors"
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_a_loss_that_is_none_stops_the_run_and_keeps_the_checkpoint(place: Path, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    real = MaskedOmni.forward
    calls = iter(range(10**6))
    monkeypatch.setattr(omni, "validate", lambda this: {})
    monkeypatch.setattr(MaskedOmni, "forward", lambda self, batch: real(self, batch) * (math.nan if next(calls) == 10 else 1))
    with pytest.raises(ValueError, match=r"step 11, on .* has the loss nan.* of step 8, is kept\. Train into a new"):
        list(trained(place, tmp_path))
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    last = checkpoints.last_step(tmp_path / "checkpoint")
    assert last is not None and last["step"] == 8
    assert all(value.isfinite().all() for value in load_file(tmp_path / "checkpoint/model.safetensors").values())
    assert next(trained(place, tmp_path)).note.startswith("step 12 ")


# ----------------------------------------------------------------------------------------------------- what is refused


def test_runs_that_do_not_fit_are_refused(finished: Path, place: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="choose one of tiny, small, base, large, xlarge"):
        chosen("huge")
    with pytest.raises(ValueError, match=rf"a run of another recipe .* steps: rate {RECIPE.rate}, not 1\.0\); train into"):
        next(trained(place, finished, replace(RECIPE, rate=1.0)))
    assert (chosen("xlarge", batch=8).pieces, chosen("xlarge", batch=96).pieces, chosen("xlarge", batch=8, pieces=2).pieces
            ) == (8, 32, 2)
    with pytest.raises(ValueError, match=r"fewer than a batch of 512; take a smaller batch"):
        next(trained(place, tmp_path, replace(RECIPE, batch=512)))
    with pytest.raises(ValueError, match=r"has no tokens of .*omnisky tokenize"):
        next(omni.run(RECIPE, [tmp_path], place / "codecs-of", tmp_path / "out"))
    (tmp_path / "tokens").mkdir()  # and no objects: it was simulated for training
    with pytest.raises(ValueError, match=r"has no tokens of .*omnisky train tokens"):
        next(omni.run(RECIPE, [tmp_path], place / "codecs-of", tmp_path / "out"))
    other = toy_sky(tmp_path / "other.sky", place / "codecs-of", 210, seed=4)
    with pytest.raises(ValueError, match="a run of other tokens"):
        next(omni.run(RECIPE, [other], place / "codecs-of", finished))
    codec = toy_model(tmp_path / "new-codecs") / "codecs" / CONFIG.modality("tok_z").folder
    (codec / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="tok_z was made by another codec"):
        next(omni.run(RECIPE, [other], tmp_path / "new-codecs", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"loss": "mod"}, "'mod'; it must be one of modality, group, token"), ({"pieces": 5}, "cannot be cut into 5 equal pieces"),
    ({"split": "sky"}, "one of rows, positions"), ({"warmup": 0.6, "flat": 0.5}, "together at most 1"),
    ({"stored": "int8"}, "float32, bfloat16")])
def test_impossible_recipes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **changes)


def test_a_damaged_checkpoint_is_refused(finished: Path, place: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished / "checkpoint", tmp_path / "checkpoint")
    (tmp_path / "checkpoint/averages.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"averages.safetensors is damaged"):
        next(trained(place, tmp_path))


# --------------------------------------------------------------------------------------------------------------- data


def data(place: Path, **changes: Any) -> TokenData:
    records = tokens_of([place / "toy.sky", place / "toy.sky"], CONFIG, place / "codecs-of")
    return TokenData(records, Layout(CONFIG), **({"batch": 16, "seed": 1, "validation": 0.2} | changes))


def test_an_epoch_shows_each_row_once_and_never_one_held_out(place: Path) -> None:
    some = data(place)
    epochs = len(some.train) // 16
    seen = np.concatenate([some.rows_of(step) for step in range(epochs)])
    assert len(np.unique(seen)) == len(seen) and not np.isin(seen, some.held_out).any()
    assert set(seen) <= set(some.train.tolist()) and 0.1 < len(some.held_out) / 400 < 0.3
    again = data(place)
    assert np.array_equal(again.rows_of(epochs + 3), some.rows_of(epochs + 3))
    assert not np.array_equal(some.rows_of(0), some.rows_of(epochs))


def test_tokens_are_read_as_they_are_stored(place: Path) -> None:
    some = data(place)
    rows = np.array([207, 3, 150, 399, 0])
    ids, there = some.read(rows)
    for key, (have, values) in toy_tokens(200).items():
        own = some.layout.slices[key]
        for i, row in enumerate(rows % 200):
            found = np.flatnonzero(have == row)
            if len(found):
                assert ids[i, own].tolist() == values[found[0]].tolist()
                assert there[i, own].tolist() == [key != "catalog" or v != 0 for v in values[found[0]]]
            else:
                assert not there[i, own].any()


def test_withheld_pairs_are_never_together(place: Path) -> None:
    some = data(place, withheld=(("hsc", "desi"),))
    rows = np.arange(400)
    there, before = some.read(rows)[1], data(place).read(rows)[1]
    hsc, desi = (there[:, some.layout.slices[key]].any(1) for key in ("tok_image_hsc", "tok_spectrum_desi"))
    assert not (hsc & desi).any() and 0.3 < hsc.float().mean() < 0.6 and 0.3 < desi.float().mean() < 0.6
    kept = [before[:, some.layout.slices[key]].any(1) for key in ("tok_image_hsc", "tok_spectrum_desi")]
    assert torch.equal(hsc | desi, kept[0] | kept[1])  # one of both stays
    assert torch.equal(there[:, some.layout.slices["tok_z"]], before[:, some.layout.slices["tok_z"]])


def test_pieces_of_sky_are_held_out_whole(place: Path) -> None:
    cell = np.random.default_rng(0).integers(0, 40, 200)
    number = (cell.astype(np.int64) << 46) + np.arange(200)
    number[::10] = -1
    some = data(place, cells=[number, number])
    place_of = np.concatenate([number, number])
    out, kept = (set((place_of[rows][place_of[rows] >= 0] >> 46).tolist()) for rows in (some.held_out, some.train))
    assert out and kept and not out & kept


def test_a_run_may_hold_out_pieces_of_sky(place: Path, tmp_path: Path) -> None:
    from astropy.coordinates import SkyCoord

    from engine.objects import SkyObject
    from engine.store import Store

    sky = np.random.default_rng(2).uniform(0, 60, (200, 2))
    positions = [SkyCoord(*place_, unit="deg") if i % 5 else None for i, place_ in enumerate(sky)]
    things = [SkyObject(f"o{i}", position) for i, position in enumerate(positions)]
    Store.create(tmp_path / "toy.sky").append(things, ["f"] * len(things))
    toy_sky(tmp_path / "toy.sky", place / "codecs-of")
    cells = cells_of(tmp_path / "toy.sky")
    assert cells.shape == (200,) and ((cells < 0) == [p is None for p in positions]).all()
    recipe = replace(RECIPE, split="positions", steps=2)
    assert "held_out" in next(omni.run(recipe, [tmp_path / "toy.sky"], place / "codecs-of", tmp_path / "out")).preview


def test_ids_that_the_model_does_not_have_are_named(place: Path) -> None:
    small = replace(CONFIG, sizes=SIZES | {"tok_z": (1, 5)})
    records = tokens_of([place / "toy.sky"], small, place / "codecs-of")
    with pytest.raises(ValueError, match=r"tok_z has the id 11, but the model's go up to 4"):
        TokenData(records, Layout(small), 16, 1, 0.2).read(np.arange(200))


def test_hashes_are_the_same_everywhere() -> None:
    published = 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F  # of splitmix64, begun with 0
    assert [hashed(np.array([0]), salt).item() for salt in range(3)] == [(value >> 11) / 2**53 for value in published]
    values = hashed(np.arange(20000), 3)
    assert values.min() >= 0 and values.max() < 1 and abs(values.mean() - 0.5) < 0.01


# -------------------------------------------------------------------------------------------- optimiser, sizes, memory


@pytest.mark.parametrize("changes", [{}, SHARED], ids=["own", "shared"])
def test_vectors_and_norms_do_not_decay(changes: dict[str, Any]) -> None:
    model = Omni(replace(CONFIG, num_register_tokens=2, **changes))
    decayed, free = (group["params"] for group in adamw_omni(model, 1e-3, 0.1, (0.9, 0.95)).param_groups)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(decayed) + len(free) == len(names)
    assert all(p.ndim == 2 for p in decayed) and any("to_logits" in names[id(p)] for p in decayed) is not bool(changes)
    assert not any("tables." in names[id(p)] for p in decayed)
    assert {"mask_token", "register_tokens"} < {names[id(p)] for p in free}
    assert any("norm" in names[id(p)] for p in free) and any("token_emb" in names[id(p)] for p in free)


def test_a_processor_without_bfloat16_trains_in_float32(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, steps=3, report_every=1)
    monkeypatch.setattr(processor, "fast_bfloat16", lambda device="cpu": False)
    for name, wanted in (("plain", False), ("half", True)):
        list(trained(place, tmp_path / name, replace(recipe, bfloat16=wanted)))
    assert losses(tmp_path / "half") == losses(tmp_path / "plain")
    monkeypatch.undo()
    product = torch.ones(2, 2)
    with mixed_precision("cpu"):
        assert ((product @ product).dtype == torch.bfloat16) is processor.fast_bfloat16()
    with mixed_precision("cpu", wanted=False):
        assert (product @ product).dtype == torch.float32


def test_averages_follow() -> None:
    kept, new = [torch.zeros(2)], [torch.ones(2)]
    average(kept, new, 0.5, step=1000)
    assert torch.equal(kept[0], torch.full((2,), 0.5))
    average(kept, new, 0.999, step=0)
    assert torch.allclose(kept[0], torch.full((2,), 0.95))


def test_the_rate_stays_flat_before_it_falls() -> None:
    rates = [rate_at(step, 100, 1.0, 10, flat=50) for step in range(101)]
    assert rates[9:61] == [1.0] * 52 and np.all(np.diff(rates[60:]) < 0) and rates[-1] == pytest.approx(0.01)


def test_published_sizes_have_the_published_numbers_of_weights() -> None:
    from engine.modalities import AION

    keys = [m.key for m in AION]
    for name, millions in (("base", 300), ("large", 800), ("xlarge", 3100)):
        model = Omni(RECIPES[name].config(keys, {}), device="meta")
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.2)
    small = Omni(RECIPES["small"].config(keys, {"tok_image": (64, 1000), "tok_image_hsc": (64, 1000)}), device="meta")
    assert sum(p.numel() for n, p in small.named_parameters() if "coder." in n) < 12e6


def test_memory_is_estimated_before_a_run() -> None:
    recipe = replace(RECIPES["small"], budgets=Budgets((64,), 48), batch=8, encoder=2, decoder=2)
    config = replace(recipe.config(KEYS, SIZES | {"tok_image_hsc": (144, 1000), "tok_spectrum_desi": (64, 500)}))
    for bfloat16 in (False, True):
        need = estimate(replace(recipe, bfloat16=bfloat16), config)
        assert need.passing == pytest.approx(_kept_for_the_gradient(config, recipe, bfloat16), rel=0.25)
    need = estimate(recipe, config)
    with pytest.raises(ValueError, match=r"needs about .* GiB .*cut each batch into (2|4|8) pieces"):
        check_memory(recipe, config, need.total - need.passing // 4)
    with pytest.raises(ValueError, match=r"pieces and recompute blocks"):
        check_memory(recipe, config, estimate(replace(recipe, pieces=8), config).total - 1)
    big = RECIPES["xlarge"]
    with pytest.raises(ValueError, match=r"needs about .* GiB .*share it among .* processes .*a smaller recipe .*tiny, small"):
        check_memory(big, big.config(KEYS, SIZES), 40 * 2**30)
    check_memory(big, big.config(KEYS, SIZES), 10**15)


def test_one_process_at_a_time(place: Path, tmp_path: Path) -> None:
    """Else both would write one curve and one checkpoint, as workers do that outlive the torchrun that began them."""
    running = trained(place, tmp_path)
    next(running)
    with pytest.raises(ValueError, match=r"another process is writing to .*; wait until it is done"):
        next(trained(place, tmp_path))
    running.close()  # type: ignore[attr-defined]
    assert next(trained(place, tmp_path)).note.startswith("step ")


def test_memory_is_asked_for_before_objects(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who brings more objects for a batch that never fits has brought them for nothing."""
    monkeypatch.setattr(omni, "available", lambda device: 2**28)
    with pytest.raises(ValueError, match=r"needs about .* GiB"):
        next(trained(place, tmp_path, replace(RECIPE, batch=512)))


def test_what_the_program_has_already_is_not_asked_for_again() -> None:
    """Where steps need next to nothing, the program is most of it; what a process has from other work counts for no step."""
    recipe, mib = RECIPES["tiny"], 2**20
    config = recipe.config(KEYS, SIZES)
    check_memory(recipe, config, 400 * mib, held=238 * mib)
    with pytest.raises(ValueError, match=r"needs about 0\.4 GiB \(0\.0 for w.* 0\.4 for the program itself\), but 0\.3 GiB"):
        check_memory(recipe, config, 300 * mib, held=238 * mib)
    with pytest.raises(ValueError, match=r"cut each batch into 2 pieces"):  # that fit because of what it has
        check_memory(replace(recipe, batch=4096), config, 560 * mib, held=238 * mib)
    need = estimate(recipe, config, device="cuda").total
    with pytest.raises(ValueError, match=r"moments and averages\), but"):  # a GPU has it elsewhere
        check_memory(recipe, config, need - 1, device="cuda", held=238 * mib)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has is read from /proc")
def test_a_small_recipe_runs_where_little_is_free(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omni, "available", lambda device: 550 * 2**20)
    assert 100 * 2**20 < held() <= PROGRAM // 2
    assert next(trained(place, tmp_path)).fraction > 0


PEAK = """
import json, sys
from pathlib import Path
from engine.train import omni
from engine.train.omni_recipes import chosen

sky, codecs, out, changes = sys.argv[1:]
list(omni.run(chosen("tiny", **json.loads(changes)), [sky], codecs, out))
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("recompute", [False, True])
def test_a_run_takes_about_as_much_memory_as_was_estimated(place: Path, tmp_path: Path, recompute: bool) -> None:
    changes = {"dim": 1024, "heads": 16, "batch": 32, "steps": 2, "recompute": recompute}
    command = [sys.executable, "-c", PEAK, place / "toy.sky", place / "codecs-of", tmp_path / "out", json.dumps(changes)]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    recipe = chosen("tiny", **changes)
    assert 0.95 <= estimate(recipe, recipe.config(KEYS, SIZES)).total / peak <= 1.5


def test_each_remedy_that_is_told_fits() -> None:
    base, free = chosen("base", batch=64, pieces=1), 6 * 2**30
    config = base.config(KEYS, SIZES)
    with pytest.raises(ValueError, match=r"cut each batch into \d+ pieces \(") as told:
        check_memory(base, config, free)
    check_memory(replace(base, pieces=int(str(told.value).split("into ")[1].split()[0])), config, free)
    with pytest.raises(ValueError, match=r"share it among \d+ such processes .* in \d+ pieces .* smaller recipe") as told:
        check_memory(chosen("large", batch=64), RECIPES["large"].config(KEYS, SIZES), free)
    words = str(told.value).split()
    processes, pieces = (int(words[words.index(word) + 1]) for word in ("among", "in"))
    check_memory(chosen("large", batch=64, pieces=pieces), RECIPES["large"].config(KEYS, SIZES), free, processes)
    smaller = str(told.value).split("smaller recipe (")[1].rstrip(")").split(", ")
    assert smaller == ["tiny", "small", "base"]
    check_memory(chosen("base", batch=64), config, free)


def _kept_for_the_gradient(config: OmniConfig, recipe: OmniRecipe, bfloat16: bool) -> int:
    """Bytes that autograd holds on to between the passes of a batch."""
    layout, module = Layout(config), MaskedOmni(Omni(config))
    there = torch.ones(recipe.batch, layout.places, dtype=torch.bool)
    some = compact(torch.zeros(there.shape, dtype=torch.long), choose(there, layout, recipe.budgets, 1, 0), layout)
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        if value.untyped_storage().data_ptr() not in own:
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), mixed_precision("cpu", bfloat16):
        loss = module(some).sum()
    loss.backward()
    return sum(sizes.values())


# ---------------------------------------------------------------------------------------------------------- processes

RANK = """
import sys
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from pathlib import Path
from test_omni_training import RECIPE, trained
recipe = replace(RECIPE, steps=6, report_every=2, checkpoint_every=4)
for step in trained(Path(sys.argv[2]), Path(sys.argv[3]), recipe):
    if step.note.startswith("step 4 "):
        break  # after its checkpoint: the rest is another start
assert next(trained(Path(sys.argv[2]), Path(sys.argv[3]), recipe)).note.startswith("step 6 ")
list(trained(Path(sys.argv[2]), Path(sys.argv[3]), recipe))
"""


def test_two_processes_train_as_one_does(place: Path, tmp_path: Path) -> None:
    """FSDP2 over two processes, stopped and resumed: losses, gradients and the model are one process's."""
    list(trained(place, tmp_path / "one", replace(RECIPE, steps=6, report_every=2)))
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(HERE),
               str(place), str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1], timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
