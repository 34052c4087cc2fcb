"""What `omnisky doctor` looks at: Python, libraries, device, shipped model, disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from engine import __version__

LIBRARIES = ("numpy", "astropy", "pyarrow", "zarr", "h5py", "torch", "safetensors", "faiss-cpu", "umap-learn", "numba",
             "panel", "bokeh")
FREE_DISK_WANTED = 2e9
FREE_MEMORY_WANTED = 2e9


def examine() -> tuple[dict[str, Any], list[str]]:
    """Facts by name, and the problems found, each one sentence with its remedy."""
    facts: dict[str, Any] = {"omnisky": __version__, "python": f"{platform.python_version()} ({sys.executable})",
                             "system": platform.platform(), "processor": f"{_processor()}, {os.cpu_count()} cores"}
    problems: list[str] = []
    for library in LIBRARIES:
        try:
            facts[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            facts[library] = "missing"
            problems.append(f"{library} is not installed; run `make setup`, or `pip install {library}`.")
    if _device(facts, problems):
        _model(facts, problems)
    _room(facts, problems)
    return facts, problems


def _processor() -> str:
    """The processor's name, as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _room(facts: dict[str, Any], problems: list[str]) -> None:
    """Memory and disk."""
    import psutil

    memory = psutil.virtual_memory()
    facts["memory"] = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if memory.available < FREE_MEMORY_WANTED:
        problems.append(f"only {memory.available / 1e9:.1f} GB of memory are free, models need about 2; close other programs.")
    free = shutil.disk_usage(os.curdir).free
    facts["free disk"] = f"{free / 1e9:.1f} GB"
    if free < FREE_DISK_WANTED:
        problems.append(f"only {free / 1e9:.1f} GB of disk are free here; the demo sky of 3,000 objects needs up to 2 GB.")


def _device(facts: dict[str, Any], problems: list[str]) -> bool:
    """What models run on; False if torch cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:
        facts["device"] = "none"
        problems.append(f"torch cannot be imported ({error}); run `make setup`.")
        return False
    from engine.models.processor import fast_bfloat16, has_amx

    if torch.cuda.is_available():
        facts["device"] = f"cuda: {torch.cuda.get_device_name()}"
    elif torch.backends.mps.is_available():
        facts["device"] = "mps (Apple)"
    else:
        facts["device"] = f"cpu, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    facts["bfloat16"] = "in AMX tiles" if has_amx() else "in the processor" if fast_bfloat16() else "no; float32 is used"
    return True


def _model(facts: dict[str, Any], problems: list[str]) -> None:
    """Whether the shipped model is there and loads."""
    from engine import checkpoints

    try:
        bundle = checkpoints.load()
    except (OSError, ValueError) as error:
        facts["model"] = "none"
        problems.append(f"the shipped model cannot be used: {str(error).rstrip('.')}.")
        return
    millions = sum(p.numel() for p in bundle.model.parameters()) / 1e6
    facts["model"] = f"{bundle.folder.name}, {millions:.1f} million parameters, checksum {bundle.checksum[:12]}"
