"""What `omnisky doctor` looks at: Python, libraries, device, browser, shipped model, disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

from engine import __version__

LIBRARIES = ("numpy", "astropy", "pyarrow", "zarr", "h5py", "torch", "safetensors", "faiss-cpu", "umap-learn", "numba",
             "panel", "panel-material-ui", "bokeh")
FREE_DISK_WANTED = 2e9


def examine() -> tuple[dict[str, Any], list[str]]:
    """Facts by name, and the problems found, each one sentence with its remedy."""
    facts: dict[str, Any] = {"omnisky": __version__, "python": f"{platform.python_version()} ({sys.executable})",
                             "system": platform.platform(), "cores": os.cpu_count()}
    problems: list[str] = []
    for library in LIBRARIES:
        try:
            facts[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            facts[library] = "missing"
            problems.append(f"{library} is not installed; run `make setup`, or `pip install {library}`.")
    _device(facts, problems)
    free = shutil.disk_usage(os.curdir).free
    facts["free disk"] = f"{free / 1e9:.1f} GB"
    if free < FREE_DISK_WANTED:
        problems.append(f"only {free / 1e9:.1f} GB of disk are free here; the demo sky of 3,000 objects needs 2 GB.")
    return facts, problems


def _device(facts: dict[str, Any], problems: list[str]) -> None:
    try:
        import torch
    except (ImportError, OSError) as error:
        facts["device"] = "none"
        problems.append(f"torch cannot be imported ({error}); run `make setup`.")
        return
    if torch.cuda.is_available():
        facts["device"] = f"cuda: {torch.cuda.get_device_name()}"
    elif torch.backends.mps.is_available():
        facts["device"] = "mps (Apple)"
    else:
        facts["device"] = f"cpu, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
