"""Who may import whom, held true by importing each room in a fresh interpreter and looking at what came along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def modules_of(package: str) -> list[str]:
    """Every module of a package by its dotted name, tests of the file tree rather than of imports."""
    names = []
    for path in sorted((ROOT / package.replace(".", "/")).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    single = ROOT / (package.replace(".", "/") + ".py")
    return [n for n in names if not n.endswith("__main__")] or ([package] if single.exists() else [])


def loaded_by(names: list[str], prelude: str = "") -> set[str]:
    """Top-level packages in `sys.modules` after importing ``names`` in a fresh interpreter."""
    code = f"""
import sys
{prelude}
import importlib, json
for name in {names!r}:
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_engine_never_imports_the_app() -> None:
    loaded = loaded_by(modules_of("engine"))
    assert not loaded & {"explorer", "panel", "holoviews", "bokeh"}


def test_import_engine_is_light() -> None:
    assert not loaded_by(["engine"]) & {"torch", "astropy", "pyarrow", "pandas"}


def test_readers_know_no_model_and_models_no_file() -> None:
    assert not loaded_by(modules_of("engine.io")) & {"torch", "engine.models", "engine.store"}
    assert not loaded_by(modules_of("engine.models") + modules_of("engine.codecs")) & {"engine.io", "engine.store", "astropy"}


def test_the_app_needs_no_torch_and_the_desk_no_panel() -> None:
    assert not loaded_by([m for m in modules_of("explorer") if m != "explorer.worker"]) & {"torch"}
    assert not loaded_by(["explorer.desk", "explorer.pictures", "explorer.spectra"]) & {"torch", "panel", "bokeh", "tornado"}


ONLY_TORCH = """
import sys
class Bare:
    # A bare GPU node has torch, NumPy and safetensors; anything else of ours must not be needed at import.
    refused = ("astropy", "pyarrow", "zarr", "h5py", "scipy", "sklearn", "pandas", "pydantic", "typer", "rich", "faiss", "umap")
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.refused:
            raise ImportError(f"{name} would not be there on a bare node")
sys.meta_path.insert(0, Bare())
"""


@pytest.mark.parametrize("room", ["engine.models", "engine.codecs", "engine.simulate", "engine.train", "engine.checkpoints"])
def test_rooms_for_bare_nodes_need_only_torch(room: str) -> None:
    names = modules_of(room)
    assert names, f"{room} has no modules"
    assert "torch" in loaded_by(names, ONLY_TORCH)
