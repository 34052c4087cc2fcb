"""The command line as a person and as a script meet it: help, exit codes, one sentence for an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.store import Store

VERBS = ("ingest", "doctor")


def omnisky(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine.cli", *arguments]
    plain = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=plain)


def test_help_names_every_verb() -> None:
    done = omnisky("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert f" {verb} " in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str) -> None:
    done = omnisky(verb, "--help")
    assert done.returncode == 0 and "Usage:" in done.stdout


@pytest.mark.parametrize("arguments", [
    ("fly",),
    ("ingest",),
    ("ingest", "a.sky", "no-such-file.fits"),
    ("ingest", "a.sky", ".", "--survey", "nonsense"),
])
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = omnisky(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "wrong usage leaves nothing behind"


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


def test_doctor_speaks_json() -> None:
    done = omnisky("doctor", "--json")
    facts = json.loads(done.stdout)
    assert facts["omnisky"] and facts["torch"] and "device" in facts
    assert done.returncode == (0 if facts["problems"] == "none" else 1)
