"""How sure a model may be: a power by entropy, which finds what is wrong and leaves alone what is right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from engine import checkpoints
from engine.checkpoints import save_aion
from engine.cli import app
from engine.generation import reading
from engine.model_files import codec_checksum
from engine.models.calibration import FLAT, calibrated, entropy
from engine.models.omni import Omni
from engine.models.omni_config import OmniConfig
from engine.records import Records
from engine.train import calibration
from engine.train.token_data import seen

KEYS = ("tok_spectrum_desi", "tok_z", "tok_flux_g")
SIZES = {"tok_spectrum_desi": (6, 12), "tok_z": (1, 64), "tok_flux_g": (1, 12)}
CONFIG = OmniConfig(KEYS, KEYS, norm_bias=False, act_layer="SiLU", dim=16, num_heads=2, encoder_depth=1, decoder_depth=1,
                    sizes=SIZES)


def bells(width: float, rows: int = 4000, bins: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Right log-probabilities (rows, bins), Gaussians of some width about some bins, and what they tell, drawn from them."""
    random = torch.Generator().manual_seed(seed)
    middles = 20 + (bins - 40) * torch.rand(rows, 1, generator=random)
    right = (-0.5 * ((torch.arange(bins) - middles) / width) ** 2).log_softmax(-1)
    return right, torch.multinomial(right.exp(), 1, generator=random)[:, 0]


def test_the_wrong_power_is_found_and_the_right_one_kept() -> None:
    """Narrow distributions that are too modest, wide ones that are too bold, in one fit."""
    (narrow, ids), (wide, other) = bells(0.7), bells(15.0, seed=1)
    modest, bold = (narrow * 0.5).log_softmax(-1), (wide * 1.5).log_softmax(-1)
    knots = calibration.fitted([(modest, ids), (bold, other)])
    for found, right in ((calibrated(modest, knots), narrow), (calibrated(bold, knots), wide)):
        assert abs(float(entropy(found.log_softmax(-1)).mean() - entropy(right).mean())) < 0.03
    same = calibration.fitted([(narrow, ids), (wide, other)])
    for said, truth in ((narrow, ids), (wide, other)):
        gained = calibration.score(calibrated(said, same), truth) - calibration.score(said, truth)
        assert 0 <= gained < 2e-3, "what is right has nothing to gain"


def test_powers_are_linear_between_and_constant_beyond() -> None:
    said = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25] * 4, [1.0, 0.0, 0.0, 0.0]]).clamp_min(1e-30).log()
    log2 = float(np.log(2))
    logits = calibrated(said, ((log2 / 2, 3.0, 0.0), (log2 * 1.5, 1.0, 0.0)))
    powers = (logits[:, 0] - logits[:, 2]) / (said[:, 0] - said[:, 2])
    torch.testing.assert_close(powers[:1], torch.tensor([2.0]))
    torch.testing.assert_close(calibrated(said, ((0.0, 1.0, 0.0), (1.0, 1.0, 0.0))), said)
    own = torch.tensor([[0.81, 0.09, 0.09, 0.01]])
    flat = own**FLAT / (own**FLAT).sum()
    torch.testing.assert_close(calibrated(own.log(), ((0.0, 1.0, 0.2), (1.0, 1.0, 0.2))).exp(), 0.8 * own + 0.2 * flat)


def test_ranges_hold_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Better than by the score alone, where its form cannot follow the truth: tails that no power of what is said has."""
    said, _ = bells(15.0)
    random = torch.Generator().manual_seed(2)
    wide = (0.92 * said.exp() + 0.08 * (said * 0.3).softmax(-1)).log()
    parts = [(said, torch.multinomial(wide.exp(), 1, generator=random)[:, 0])]
    found = calibration.missed(parts, calibration.fitted(parts))
    for name in ("SHARPER", "FEWER"):
        monkeypatch.setattr(calibration, name, (1.0,))
    assert found < 0.5 * calibration.missed(parts, calibration.fitted(parts))
    flat = torch.zeros(2, 4).log_softmax(-1)
    assert calibration.covered(flat, torch.tensor([0, 1]), 0.5) == pytest.approx((0 + 1) / 2)
    assert calibration.covered(flat, torch.tensor([0, 0]), 0.8) == pytest.approx(0.6), "a tenth lies below the range"


def test_sure_and_now_and_then_wrong() -> None:
    """What is told is anywhere once in fifty, which the model thinks ten times less likely: the far bins get what they
    deserve, and the peak stays as sharp as it is right."""
    right, ids = bells(0.7)
    random = torch.Generator().manual_seed(5)
    anywhere = torch.randint(0, right.shape[1], ids.shape, generator=random)
    ids = torch.where(torch.rand(ids.shape, generator=random) < 0.02, anywhere, ids)
    said = (0.998 * right.exp() + 0.002 / right.shape[1]).log()
    found = calibrated(said, calibration.fitted([(said, ids)])).exp()
    far = (torch.arange(right.shape[1]) - right.argmax(1, keepdim=True)).abs() > 4
    assert abs(float((found * far).sum(1).mean()) - 0.02) < 0.006
    near = found.masked_fill(far, 0)
    assert abs(float(entropy((near / near.sum(1, keepdim=True)).clamp_min(1e-30).log()).mean() - entropy(right).mean())) < 0.1


@pytest.mark.parametrize(("knots", "said"), [({"tok_flux_h": [[0, 1, 0], [1, 1, 0]]}, "calibration is 'tok_flux_h'"),
                                             ({"tok_spectrum_desi": [[0, 1, 0], [1, 1, 0]]}, "a number on a grid"),
                                             ({"tok_z": [[0, 1, 0]]}, "two or more"),
                                             ({"tok_z": [[0, 1], [1, 1]]}, "power, share"),
                                             ({"tok_z": [[1, 1, 0], [0, 1, 0]]}, "increasing"),
                                             ({"tok_z": [[0, 1, 0], [1, 0, 0]]}, "above 0"),
                                             ({"tok_z": [[0, 1, 0], [1, 1, 1]]}, "below 1")])
def test_a_config_is_read_strictly(knots: dict[str, list[list[float]]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OmniConfig.from_dict(CONFIG.as_dict() | {"calibration": knots})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model that tells redshifts, and a sky of 300 objects."""
    model = Omni(CONFIG)
    model.init_weights(3)
    save_aion(tmp_path / "model", model)
    random = np.random.default_rng(0)
    for key, (n, vocabulary) in SIZES.items():
        codec = tmp_path / "model/codecs" / CONFIG.modality(key).folder
        codec.mkdir(parents=True, exist_ok=True)
        (codec / "config.json").write_text("{}")
        save_file({"weight": torch.ones(1)}, codec / "model.safetensors")
        Records.create(tmp_path / "sky/tokens" / key, (n,), "<u2", {"codec": codec_checksum(codec)}).append(
            np.arange(300), random.integers(0, vocabulary, (300, n)), 300)
    return tmp_path


def test_a_model_is_calibrated_in_its_folder(place: Path) -> None:
    before = checkpoints.load_aion(place / "model")
    run = CliRunner().invoke(app, ["train", "calibration", str(place / "sky"), "--model", str(place / "model"), "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.output.splitlines()[-1])["log score"]["tok_z"] > 0, "redshifts at random deserve no certainty"
    after = checkpoints.load_aion(place / "model")
    knots = after.config.calibration["tok_z"]
    assert replace(after.config, calibration={}) == before.config and len(knots) == len(calibration.ENTROPIES)
    tokens = {"tok_flux_g": torch.tensor([[3], [5]])}
    (old, new), (fluxes, others) = ([reading.predict(model, tokens, {}, [key])[key] for model in (before, after)]
                                    for key in ("tok_z", "tok_spectrum_desi"))
    torch.testing.assert_close(new, calibrated(old, knots))
    assert torch.equal(fluxes, others)


@pytest.mark.parametrize("by", ["itself", "what it began with"])
def test_what_it_was_trained_on_tells_nothing_of_others(place: Path, by: str) -> None:
    """Also if the sky has grown since, or has other modalities now; a sky that shares a modality by chance is another one."""
    records = {key: Records.open(place / "sky/tokens" / key) for key in KEYS}
    mark = seen(records)
    records["tok_z"].append([300], [[1]], 301)
    about = {"seen": [{key: mark[key] for key in KEYS[:2]} | {"tok_flux_r": "another"}]}
    train = ["train", "calibration", str(place / "sky"), "--model", str(place / "model")]
    for story, code in ((about, 1), ({"seen": [mark | {"tok_flux_g": "another"}]}, 0)):
        (place / "model/training.json").write_text(json.dumps(story if by == "itself" else {"seen": [], "began with": story}))
        run = CliRunner().invoke(app, train)
        assert run.exit_code == code, run.output
        assert code == 0 or ("sky has the tokens" in run.output and "another sky" in run.output)
    assert checkpoints.load_aion(place / "model").config.calibration


def test_magnitudes_are_those_that_every_object_has() -> None:
    """Not the infrared ones and not Gaia's, which galaxies lack."""
    keys = ("tok_image", "tok_z", "tok_flux_g", "tok_flux_z", "tok_flux_w1", "tok_flux_g_gaia")
    model = Omni(replace(CONFIG, domains_in=keys, domains_out=keys, sizes={}))
    fluxes = ("tok_flux_g", "tok_flux_z")
    assert calibration.choices(model, "tok_z") == [("tok_image",), fluxes, ("tok_image", *fluxes)]


def test_too_few_objects_are_one_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LEAST", 301)
    run = CliRunner().invoke(app, ["train", "calibration", str(place / "sky"), "--model", str(place / "model")])
    assert run.exit_code == 1 and "fewer than 301 objects have tok_z and an input of it" in run.output
