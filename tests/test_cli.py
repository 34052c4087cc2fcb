"""The command line as a person and as a script meet it: help, exit codes, one sentence for an error."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import engine
from engine import demo_sky
from engine.cli import app
from engine.console import follow, one_sentence, sparkline
from engine.steps import Step
from engine.store import Store

VERBS = ("ingest", "simulate", "embed", "index", "map", "near", "evaluate", "export", "download", "doctor")
TRAINED = ("codec", "tokens", "omni", "head", "astroclip-demo", "tiny")


PLAIN = {"COLUMNS": "100", "NO_COLOR": "1"}


def omnisky(*arguments: str, cwd: Path | None = None) -> SimpleNamespace:
    """The command in this process; an exception that would be a traceback is raised."""
    logging.getLogger().setLevel(logging.WARNING)
    with contextlib.chdir(cwd or Path.cwd()):
        done = CliRunner().invoke(app, arguments, env=PLAIN)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return SimpleNamespace(returncode=done.exit_code, stdout=done.stdout, stderr=done.stderr)


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "engine.cli", "fly"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "No such command 'fly'" in done.stderr and not done.stdout


def test_help_names_every_verb() -> None:
    done = omnisky("--help")
    assert done.returncode == 0
    for verb in (*VERBS, "train"):
        assert f" {verb} " in done.stdout


@pytest.mark.parametrize("verb", (*VERBS, *(f"train {what}" for what in TRAINED)))
def test_each_verb_explains_itself(verb: str) -> None:
    done = omnisky(*verb.split(), "--help")
    assert done.returncode == 0 and "Usage:" in done.stdout and f"Example: omnisky {verb} " in done.stdout
    assert "--json" in done.stdout and "--verbose" in done.stdout


@pytest.mark.parametrize("arguments", [
    ("fly",),
    ("ingest",),
    ("ingest", "a.sky", "no-such-file.fits"),
    ("ingest", "a.sky", ".", "--survey", "nonsense"),
    ("simulate", "a.sky", "--objects", "0"),
    ("map", "a.sky", "--kind", "tsne"),
    ("near", "a.sky"),
    ("near", "a.sky", "x", "-k", "0"),
    ("train", "nonsense"),
    ("export", "a.sky"),
])
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = omnisky(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "wrong usage leaves nothing behind"


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.showwarning
    with one_sentence():
        warnings.warn("band i is left out", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "Warning: band i is left out\n" and warnings.showwarning is before


def test_a_folder_that_is_no_sky_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "notes.sky").mkdir()
    (tmp_path / "notes.sky" / "mine.txt").write_text("not a sky")
    (tmp_path / "a.csv").write_text("id,ra,dec\na,10.0,20.0\n")
    done = omnisky("ingest", str(tmp_path / "notes.sky"), str(tmp_path / "a.csv"))
    assert done.returncode == 1
    assert "notes.sky" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_ingest_keeps_the_good_and_lists_the_bad(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.csv").write_text("id,ra,dec,redshift\na,10.0,20.0,0.1\nb,11.0,21.0,0.2\n")
    (tmp_path / "in" / "broken.fits").write_bytes(b"")
    done = omnisky("ingest", str(tmp_path / "my.sky"), str(tmp_path / "in"))
    assert done.returncode == 1
    assert "broken.fits" in done.stderr and "Traceback" not in done.stderr
    assert list(Store(tmp_path / "my.sky").ids) == ["a", "b"]
    again = omnisky("ingest", str(tmp_path / "my.sky"), str(tmp_path / "in" / "good.csv"), "--json")
    assert again.returncode == 0 and "0 objects new, 2 were there already" in json.loads(again.stdout.splitlines()[-1])["note"]
    assert len(Store(tmp_path / "my.sky")) == 2


def test_a_folder_without_files_makes_no_sky(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    done = omnisky("ingest", str(tmp_path / "my.sky"), str(tmp_path / "in"))
    assert done.returncode == 1 and done.stderr.strip().endswith(f"no file of objects in {tmp_path / 'in'}; name files or "
                                                                 "folders that hold some")
    assert not (tmp_path / "my.sky").exists()


def test_doctor_speaks_json() -> None:
    done = omnisky("doctor", "--json")
    facts = json.loads(done.stdout)
    assert facts["omnisky"] and facts["torch"] and "device" in facts
    assert "GB" in facts["memory"] and "cores" in facts["processor"]
    assert done.returncode == (0 if facts["problems"] == "none" else 1)
    if facts["model"] == "none":
        assert any("omnisky train" in problem for problem in facts["problems"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `omnisky train tiny` makes."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    done = omnisky("train", "tiny", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 12 and lines[-1] == {"fraction": 1.0, "note": lines[-1]["note"], "result": str(out / "model")}
    return out / "model"


@pytest.fixture(scope="module")
def sky(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve simulated objects, in a sky that nothing was made of yet."""
    path = tmp_path_factory.mktemp("skies") / "a.sky"
    Store.create(path).append(list(demo_sky.objects(7, 0, 12)), ["f"] * 12)
    return path


def test_from_vectors_to_neighbours(sky: Path, model: Path) -> None:
    too_early = omnisky("near", str(sky), "demo-000003")
    assert too_early.returncode == 1 and too_early.stderr.count("\n") == 1 and f"omnisky embed {sky}" in too_early.stderr
    for verb in (("embed", str(sky), "--model", str(model)), ("map", str(sky), "--kind", "pca"), ("index", str(sky))):
        done = omnisky(*verb)
        assert done.returncode == 0 and "100.0 %" in done.stderr and not done.stdout, done.stderr
    found = json.loads(omnisky("near", str(sky), "demo-000003", "-k", "5", "--json").stdout)
    expected = engine.open(sky).near("demo-000003", "image", "spectrum", 5)
    assert [n["id"] for n in found["neighbours"]] == list(expected.ids) and found["dropped"] == expected.dropped
    assert found["neighbours"][0]["similarity"] == pytest.approx(expected.similarity[0], abs=1e-3)
    shown = omnisky("near", str(sky), "3", "-k", "5").stdout.splitlines()
    assert shown[0].split()[:5] == ["id", "row", "similarity", "ra", "dec"]
    assert [line.split()[0] for line in shown[1:]] == list(expected.ids)
    own = json.loads(omnisky("near", str(sky), "demo-000003", "-k", "12", "--all", "--json").stdout)
    assert "demo-000003" in [n["id"] for n in own["neighbours"]]


def test_what_is_wrong_is_one_sentence(sky: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"")
    cases = [(("near", str(sky), "no-such-thing"), "no object is called 'no-such-thing'"),
             (("embed", str(sky), "--model", str(tmp_path)), "config.json is damaged or not JSON"),
             (("embed", str(tmp_path / "b.sky")), "omnisky ingest"),
             (("evaluate", "--model", str(tmp_path / "absent")), "is not a model")]
    for arguments, said in cases:
        done = omnisky(*arguments)
        assert done.returncode == 1 and said in done.stderr, (arguments, done.stderr)
        assert done.stderr.count("\n") == 1 and not done.stdout


def test_verbose_adds_the_traceback(sky: Path) -> None:
    command = [sys.executable, "-m", "engine.cli", "near", str(sky), "no-such-thing", "-v"]
    loud = subprocess.run(command, capture_output=True, text=True, check=False)
    assert loud.returncode == 1 and "Traceback" in loud.stderr and "no object is called" in loud.stderr


def test_simulate_makes_a_sky_that_answers(model: Path, tmp_path: Path) -> None:
    done = omnisky("simulate", str(tmp_path / "d.sky"), "--objects", "10", "--seed", "3", "--model", str(model), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"fraction": 1.0, "note": "10 objects are ready", "objects": 10}
    made = engine.open(tmp_path / "d.sky")
    assert len(made) == 10 and set(made.maps) == {f"{k}-{s}" for k in ("umap", "pca") for s in ("image", "spectrum")} | {"sky"}


def test_export_says_what_it_wrote(sky: Path, tmp_path: Path) -> None:
    done = omnisky("export", str(sky), "--hats", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 12 and (tmp_path / "out").is_dir()


def heed_ctrl_c() -> None:
    """A shell starts what runs in the background deaf to Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_is_one_sentence_and_the_same_command_goes_on(model: Path, tmp_path: Path) -> None:
    arguments = ["simulate", str(tmp_path / "d.sky"), "--model", str(model), "--objects"]
    process = subprocess.Popen([sys.executable, "-m", "engine.cli", *arguments, "192"], stderr=subprocess.PIPE, text=True,
                               preexec_fn=heed_ctrl_c)
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert "%" in first and process.returncode == 130, rest
    assert rest.strip().splitlines()[-1] == "Stopped. What was done is kept; run the same command to go on."
    assert "Traceback" not in rest
    there = len(Store(tmp_path / "d.sky"))
    assert there < 192
    assert omnisky(*arguments, str(there + 20)).returncode == 0
    assert len(Store(tmp_path / "d.sky")) == there + 20


def test_of_several_processes_the_first_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, lines in (("0", 2), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        last = follow(iter([Step(0.5, "half"), Step(1.0, "done")]))
        assert last is not None and last.note == "done" and len(capsys.readouterr().err.splitlines()) == lines


def test_sparkline() -> None:
    assert sparkline([]) == "" and sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert len(sparkline(list(range(1000)), width=24)) == 24 and sparkline(list(range(1000)))[0] == "▁"
