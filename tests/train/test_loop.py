"""A training run: it learns, its losses are the recorded ones, and a killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from standin_sky import render

from engine.train import run, tiny
from engine.train.optim import adamw, rate_at

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "goldens" / "tiny_losses.json"


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "curve.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    assert list(run(tiny(), out, render))[-1].fraction == 1.0
    return out


def test_losses_are_the_recorded_ones(finished: Path) -> None:
    """A refactor must reproduce them; processors differ in the last digits, hence the tolerance."""
    np.testing.assert_allclose(losses(finished), json.loads(GOLDEN.read_text()), rtol=2e-3)


def test_steps_tell_how_far(tmp_path: Path) -> None:
    fractions = [step.fraction for step in run(replace(tiny(), steps=3), tmp_path, render)]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
from standin_sky import render
from engine.train import run, tiny
for step in run(tiny(), sys.argv[1], render):
    print(step.note, flush=True)
"""


def test_killed_and_resumed_equals_uninterrupted(finished: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(HERE.parent)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1])
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("step 6 "):  # between the checkpoints of steps 4 and 8
            os.kill(child.pid, signal.SIGKILL)
            break
    child.wait()
    child.stdout.close()
    assert not (tmp_path / "model").exists()
    list(run(tiny(), tmp_path, render))
    assert losses(tmp_path) == losses(finished)
    assert (tmp_path / "model/model.safetensors").read_bytes() == (finished / "model/model.safetensors").read_bytes()


def test_a_finished_run_does_nothing_again(finished: Path) -> None:
    before = losses(finished)
    steps = list(run(tiny(), finished, render))
    assert losses(finished) == before and steps[-1].preview == str(finished / "model")


def test_a_folder_of_another_recipe_is_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match="another recipe"):
        next(run(replace(tiny(), rate=1.0), finished, render))


def test_unknown_recipe() -> None:
    with pytest.raises(KeyError, match="astroclip-demo"):
        next(run("huge", "nowhere"))


def test_rate_warms_up_and_falls() -> None:
    rates = [rate_at(step, 100, 1.0, 10) for step in range(101)]
    assert rates[0] == 0.1 and max(rates) == 1.0 and rates.index(1.0) == 9
    assert np.all(np.diff(rates[10:]) < 0) and rates[-1] == pytest.approx(0.01)


def test_only_matrices_decay() -> None:
    from engine.models import AstroClip

    model = AstroClip(tiny().model)
    decayed, free = (group["params"] for group in adamw(model, 1e-3, 0.1).param_groups)
    assert all(p.ndim >= 2 for p in decayed)
    assert any(p is model.log_scale for p in free) and any(p is model.image.position for p in free)
