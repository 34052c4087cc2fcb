"""README and docs say what is true: commands have the options that they are given, Python runs, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from engine import checkpoints, demo_sky
from engine.store import Store
from engine.train.omni_recipes import RECIPES
from explorer.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "assets/omnisky-demo/README.md")


def commands(page: Path) -> list[str]:
    """What follows `omnisky` in code, in blocks or between backticks."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"```(?:bash|sh)?\n(.*?)```", text, re.S))
    lines = [line.split("  #")[0].split(" #")[0] for line in blocks.splitlines()] + re.findall(r"`([^`\n]+)`", text)
    found = (re.match(r"(?:\S+=\S+ )*(?:torchrun .* )?omnisky ([a-z].*)", line.strip()) for line in lines)
    return [match[1] for match in found if match]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_those_of_the_command_line(page: Path) -> None:
    for line in commands(page):
        command, words = typer.main.get_command(app), shlex.split(line.replace("...", ""))
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        named = bool(words) and not words[0].isupper()  # `omnisky train WHAT` stands for all of them
        assert not (named and getattr(command, "commands", {})), f"no such verb: omnisky {line}"
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert not {word for word in words if word.startswith("-")} - known, f"no such option: omnisky {line}"
        if "--recipe" in words and command.name == "omni":
            assert words[words.index("--recipe") + 1] in RECIPES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link


def test_generating_in_python_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    block = re.findall(r"```python\n(.*?)```", (ROOT / "docs/training.md").read_text(), re.S)[0]
    store = Store.create(tmp_path / "my.sky")
    store.append([*demo_sky.objects(1, 0, 1)], ["a"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    names: dict[str, object] = {}
    exec(compile(block, "docs/training.md", "exec"), names)
    assert isinstance(names["model"], checkpoints.OmniBundle) and names["z"].posterior  # type: ignore[attr-defined]
    assert "consistent with the input: reduced chi2" in capsys.readouterr().out
