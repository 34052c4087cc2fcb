"""A *bundle*: a model of ours with all that is needed to apply it to objects.

    config.json        kind, format, sizes, how it was trained
    model.safetensors  the tensors, float16
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checkpoints.omni import OmniBundle
from engine.checkpoints.tensors import read_tensors, write_tensors
from engine.model_files import SHIPPED, checksum, read_json, refuse_pickles
from engine.models import AstroClip, AstroClipConfig
from engine.models.inputs import FIELDS, prepare_image, prepare_spectrum
from engine.models.processor import mixed_precision

if TYPE_CHECKING:
    from engine.objects import SkyObject

KIND, FORMAT = "astroclip", 1
BATCH = 128
PIECE = 8  # objects prepared at a time: their pixels fit into a processor's cache
LEAST_COVERAGE = 0.05  # of the grid's bins; with fewer a spectrum has no vector


def save(folder: str | Path, model: AstroClip, trained: dict[str, Any], dtype: torch.dtype = torch.float16) -> str:
    """Write a bundle; returns the checksum (SHA-256) of its tensors. trained: how it came about, any JSON."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", {name: p.to(dtype) for name, p in model.state_dict().items()})
    config = {"kind": KIND, "format": FORMAT, "model": asdict(model.config), "trained": trained}
    (folder / "config.json.part").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "config.json.part").replace(folder / "config.json")
    return checksum(folder / "model.safetensors")


def load(folder: str | Path | None = None) -> Bundle | OmniBundle:
    """The bundle in a folder, the shipped one if None; one of AION-1's kind where config.json is of theirs.

    Raises FileNotFoundError if a file is missing, ValueError if it is not a model that we know, or if any tensor is missing,
    unexpected or of another shape (all of them are named).
    """
    folder = SHIPPED if folder is None else Path(folder)
    if "domains_in" in described(folder):
        return OmniBundle.load(folder)
    return load_astroclip(folder)


def described(folder: Path) -> dict[str, Any]:
    """What is in a folder's config.json. Raises FileNotFoundError, or ValueError if it is not JSON or there is but a pickle."""
    path = folder / "config.json"
    if not path.is_file():
        refuse_pickles(folder)
        raise FileNotFoundError(f"{folder} is not a model: it has no config.json; train one with `omnisky train`")
    return read_json(path)


def load_astroclip(folder: Path) -> Bundle:
    """An AstroCLIP of ours. Raises as `load`."""
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} is not a model: it has no model.safetensors; train one with `omnisky train`")
    model = AstroClip(read_config(folder / "config.json"))
    read_tensors(folder / "model.safetensors", model)
    return Bundle(model.eval().requires_grad_(False), folder, checksum(folder / "model.safetensors"))


def read_config(path: Path) -> AstroClipConfig:
    """The sizes in a config.json. Raises ValueError naming what is wrong with it."""
    content = described(path.parent)
    if (content.get("kind"), content.get("format")) != (KIND, FORMAT):
        raise ValueError(f"{path} does not describe a model of kind {KIND!r}, format {FORMAT}")
    sizes = content.get("model", {})
    known = {f.name for f in fields(AstroClipConfig)}
    if set(sizes) != known:
        raise ValueError(f"{path} has sizes {sorted(sizes)}, expected {sorted(known)}")
    return AstroClipConfig(**sizes)


@dataclass(frozen=True)
class Bundle:
    """A trained AstroCLIP and how to apply it to objects."""

    model: AstroClip = field(repr=False)
    folder: Path
    checksum: str

    @property
    def dim(self) -> int:
        return self.model.config.space

    @property
    def spaces(self) -> dict[str, tuple[str, ...]]:
        """Space -> the surveys it was trained on. Vectors of all spaces can be compared with each other."""
        return {"image": tuple(f.survey for f in FIELDS), "spectrum": ("desi", "sdss")}

    def manifest(self, space: str) -> dict[str, Any]:
        """What the vectors of a space are: model, checksum, and exactly what goes in. Raises KeyError for another space."""
        if space not in self.spaces:
            raise KeyError(f"{space!r} is not a space of this model; it has {', '.join(self.spaces)}")
        common = {"space": space, "model": self.folder.name, "folder": str(self.folder.resolve()), "checksum": self.checksum,
                  "version": FORMAT, "dim": self.dim, "comparable": list(self.spaces)}
        grid = self.model.config.grid
        if space == "spectrum":
            return common | {"inputs": {
                "first of": ["desi", "sdss", "any calibrated", "any"],
                "range": [grid.start, round(grid.start + grid.step * (grid.pixels - 1), 1)], "bin": grid.step * grid.binning,
                "unit": "1e-17 erg / (s cm2 Angstrom)", "frame": "vacuum", "resampling": "by overlap, flux and ivar conserved",
                "uncalibrated": "scaled to a median of 2"}}
        return common | {"inputs": {
            "surveys": {f.survey: {"bands": list(f.bands), "arcsec/pixel": f.scale, "pixels": f.size} for f in FIELDS},
            "unit": "nmgy", "other surveys": "to the field of the nearest pixel scale and the channel of the nearest effective "
            "wavelength, resampled to its scale by overlap", "smaller stamps": "padded with masked pixels",
            "larger stamps": "cut about the object's position, else about the centre",
            "uncalibrated": "scaled to 25 nmgy in the middle 3 arcsec"}}

    @property
    def manifests(self) -> dict[str, dict[str, Any]]:
        return {space: self.manifest(space) for space in self.spaces}

    def vectors(self, objects: Sequence[SkyObject], batch: int = BATCH) -> dict[str, NDArray[np.float32]]:
        """Space -> (B, dim) float32 unit vectors, one row an object; NaN where the object has no such input."""
        out = {space: np.full((len(objects), self.dim), np.nan, np.float32) for space in self.spaces}
        for space, has, encode in (("image", [bool(o.images) for o in objects], self._embed_images),
                                   ("spectrum", [bool(o.spectra) for o in objects], self._embed_spectra)):
            rows = np.flatnonzero(has)
            for some in (rows[start : start + batch] for start in range(0, len(rows), batch)):
                out[space][some] = encode([objects[row] for row in some])
        return out

    def _embed_images(self, objects: Sequence[SkyObject]) -> NDArray[np.float32]:
        pieces = [_prepared(objects[i : i + PIECE]) for i in range(0, len(objects), PIECE)]
        if not pieces:
            return np.empty((0, self.dim), np.float32)
        present, photometry = (torch.cat([torch.cat([p[name] for p in piece], dim=1) for piece in pieces])
                               for name in ("present", "photometry"))
        found = present.any(1)
        stamps = {f.survey: torch.cat([piece[i]["stamp"] for piece in pieces])[found] for i, f in enumerate(FIELDS)}
        return self._rows(found, self.model.encode_image, stamps, photometry[found], present[found])

    def _embed_spectra(self, objects: Sequence[SkyObject]) -> NDArray[np.float32]:
        from engine import adapt_inputs

        grid = self.model.config.grid
        flux, weight = torch.zeros(len(objects), grid.bins), torch.zeros(len(objects), grid.bins)
        for group in adapt_inputs.spectra(objects):  # spectra on the same wavelengths
            values, ivar, mask, wavelength = (
                torch.from_numpy(x) for x in (group.flux, group.ivar, group.mask, group.wavelength))
            prepared = prepare_spectrum(values, ivar, mask, wavelength, grid)
            flux[group.rows], weight[group.rows] = prepared["flux"], prepared["weight"]
        found = (weight > 0).float().mean(1) >= LEAST_COVERAGE
        return self._rows(found, self.model.encode_spectrum, flux[found], weight[found])

    def _rows(self, found: Tensor, encode: Callable[..., Tensor], *inputs: Any) -> NDArray[np.float32]:
        """Vectors of the rows that were found, NaN for the others; in bfloat16 where the processor has it."""
        out = torch.full((len(found), self.dim), torch.nan)
        if found.any():
            with torch.inference_mode(), mixed_precision("cpu"):
                out[found] = encode(*inputs).float()
        return out.numpy()


def _prepared(objects: Sequence[SkyObject]) -> list[dict[str, Tensor]]:
    """What `prepare_image` makes of some objects, one dictionary a field."""
    from engine import adapt_inputs

    raw = adapt_inputs.images(objects, FIELDS)
    out = []
    for f in FIELDS:
        pixels, ivar, mask = (torch.from_numpy(x) for x in raw[f.survey])
        out.append(prepare_image(pixels, ivar, mask, f))
    return out
