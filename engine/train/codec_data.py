"""What codecs are trained on: simulated measurements beside the truth, rendered once into a compact cache on disk.

Batches depend on (seed, step) alone: nothing to remember, nothing to restore.
Shape letters: B batch, C bands of one survey, N pixels a side (96), n pixels of a spectrum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.codecs.image import BANDS, BANDS_OF, INDEX
from engine.steps import Step
from engine.train.codec_recipes import CodecRecipe
from engine.train.data import Render, batch_on, turn, wavelengths, write_json

SURVEYS = tuple(BANDS_OF)
SPECTROGRAPHS = ("desi", "sdss")
ARM, BAR = 0.5, 1.0  # what arms and bars are painted with in a segmentation map
LARGEST = 6e4  # of float16
EMPTY = 0.1  # the share of batches of maps that shows objects without bar or arms
Arrays = dict[str, "np.ndarray[Any, Any]"]


# -- what is kept of a rendered sky ---------------------------------------------------------------------------------------


def images(sky: Mapping[str, Tensor]) -> Arrays:
    """Pixels in nmgy, 0 where bad as a codec takes them, and those without noise: (B, C, N, N) float16."""
    out: Arrays = {}
    for survey in SURVEYS:
        unit = BANDS[INDEX[BANDS_OF[survey][0]]].unit
        out[survey] = _half(torch.where(sky[f"{survey}_mask"], 0.0, sky[survey]) / unit)
        out[f"{survey}_truth"] = _half(sky[f"{survey}_truth"] / unit)
    return out


def spectra(sky: Mapping[str, Tensor]) -> Arrays:
    """Flux (NaN where bad), inverse variance and flux without noise: (B, n) float16."""
    out: Arrays = {}
    for name in SPECTROGRAPHS:
        out[name] = _half(torch.where(sky[f"{name}_mask"], torch.nan, sky[name]))
        out[f"{name}_ivar"] = _half(sky[f"{name}_ivar"])
        out[f"{name}_truth"] = _half(sky[f"{name}_truth"])
    return out


def painted(sky: Mapping[str, Tensor]) -> Tensor:
    """Bars and arms as one field from 0 to 1: (B, N, N)."""
    return torch.maximum(ARM * sky["arm_mask"].float(), BAR * sky["bar_mask"].float())


def segmaps(sky: Mapping[str, Tensor]) -> Arrays:
    """The same in bytes."""
    return {"field": (255 * painted(sky)).round().to(torch.uint8).cpu().numpy()}


def numbers(sky: Mapping[str, Tensor]) -> Arrays:
    """All of the catalogue, and the XP coefficients: (B,) and (B, 55) float32, NaN where absent."""
    return {name: value.float().cpu().numpy() for name, value in sky.items() if name.startswith(("s_", "xp_"))}


KEEP: dict[str, Callable[[Mapping[str, Tensor]], Arrays]] = {
    "image": images, "spectrum": spectra, "segmap": segmaps, "scalars": numbers}


def _half(x: Tensor) -> np.ndarray[Any, Any]:
    return x.clamp(-LARGEST, LARGEST).half().cpu().numpy()


# -- cache ----------------------------------------------------------------------------------------------------------------


def build_cache(recipe: CodecRecipe, folder: Path, render: Render, device: torch.device | None = None) -> Iterator[Step]:
    """Render the recipe's objects, as many at a time as suit `device`, into `folder`. Goes on where a killed run stopped;
    starts anew if anything changed."""
    rows, keep, batch = recipe.objects + recipe.validation, KEEP[recipe.kind], batch_on(device or "cpu")
    first = keep(render(recipe.seed, torch.arange(2), truth=True))
    mark, state_file = fingerprint(recipe, first), folder / "cache.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else {}
    done = state.get("rows", 0) if state.get("fingerprint") == mark else 0
    folder.mkdir(parents=True, exist_ok=True)
    if not done:
        state_file.unlink(missing_ok=True)  # first, so that an old one never vouches for new arrays
    maps = {name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="r+" if done else "w+", dtype=value.dtype,
                                            shape=(rows, *value.shape[1:])) for name, value in first.items()}
    for start in range(done, rows, batch):
        index = torch.arange(start, min(rows, start + batch))
        for name, values in keep(render(recipe.seed, index, truth=True)).items():
            maps[name][start : start + len(index)] = values
        if (start // batch) % 16 == 15 or start + len(index) == rows:
            for array in maps.values():
                array.flush()
            write_json(state_file, {"fingerprint": mark, "rows": start + len(index), "arrays": sorted(maps)})
        yield Step((start + len(index)) / rows, f"rendered {start + len(index)} of {rows} objects")


def fingerprint(recipe: CodecRecipe, first: Arrays) -> str:
    """Changes when the simulator, the seed or what is kept changes: then the cache is made anew."""
    digest = hashlib.sha256(f"{recipe.kind} {recipe.seed} {recipe.objects} {recipe.validation}".encode())
    for name in sorted(first):
        digest.update(name.encode() + np.nan_to_num(first[name].astype(np.float32)).round(2).tobytes())
    return digest.hexdigest()[:16]


# -- batches --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """Images of one survey: flux and truth (B, C, N, N) in nmgy, given (B, C): the bands that the codec may look at."""

    survey: str
    flux: Tensor
    truth: Tensor
    given: Tensor


@dataclass(frozen=True)
class Spectra:
    """Spectra of one spectrograph, (B, n), at wavelength (n,) Angstrom; flux is NaN where bad."""

    flux: Tensor
    ivar: Tensor
    truth: Tensor
    wavelength: Tensor


class CodecSource:
    """A cache, opened for reading. Batches are chosen on the CPU, alike everywhere, and lie on `device`: a GPU holds the
    whole cache, if it fits into half of what is free."""

    def __init__(self, recipe: CodecRecipe, folder: Path, device: torch.device | None = None) -> None:
        self.recipe, self.device = recipe, device or torch.device("cpu")
        names = json.loads((folder / "cache.json").read_text())["arrays"]
        self.arrays: Arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in names}
        size = sum(array.nbytes for array in self.arrays.values())
        fits = self.device.type == "cuda" and size < torch.cuda.mem_get_info(self.device)[0] // 2
        self.resident = {name: torch.from_numpy(np.asarray(array)).to(self.device) for name, array in self.arrays.items()} \
            if fits else {}
        self.rows = np.arange(recipe.objects)
        if recipe.kind == "segmap":
            self.rows = self._with_maps()
        self.epoch, self.order = -1, self.rows

    def _with_maps(self) -> np.ndarray[Any, Any]:
        """Objects with a bar or arms, and a few of the others, which all look alike."""
        shown = np.array([self.arrays["field"][row].any() for row in self.rows])
        empty = self.rows[~shown]
        return np.sort(np.concatenate([self.rows[shown], empty[: round(EMPTY * shown.sum())]]))

    def rows_of(self, step: int) -> np.ndarray[Any, Any]:
        """Which objects are in this step's batch, in the order of the file. An epoch shows each once (but for a remainder)."""
        batch = min(self.recipe.batch, len(self.rows))
        epoch, within = divmod(step, len(self.rows) // batch)
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = np.random.default_rng([self.recipe.seed, epoch]).permutation(self.rows)
        return np.sort(self.order[within * batch : (within + 1) * batch])

    def read(self, name: str, rows: np.ndarray[Any, Any]) -> Tensor:
        if name in self.resident:
            return self.resident[name][torch.from_numpy(rows).to(self.device)].float()
        return torch.from_numpy(np.ascontiguousarray(self.arrays[name][rows])).to(self.device).float()

    def held_out(self, most: int) -> np.ndarray[Any, Any]:
        """Objects that are never trained on."""
        return np.arange(self.recipe.objects, self.recipe.objects + min(most, self.recipe.validation))

    def images(self, step: int) -> list[Images]:
        """The batches of one step, one a survey: objects turned and flipped, of some of them bands left out."""
        rows, generator = self.rows_of(step), self._generator(step)
        rows = rows[torch.randperm(len(rows), generator=generator).numpy()]
        first = round(self.recipe.legacy * len(rows))
        parts = zip(SURVEYS, (rows[:first], rows[first:]), strict=True)
        return [self._images(survey, np.sort(some), generator) for survey, some in parts if len(some)]

    def _images(self, survey: str, rows: np.ndarray[Any, Any], generator: torch.Generator) -> Images:
        stamps = {name: self.read(name, rows) for name in (survey, f"{survey}_truth")}
        stamps = turn(stamps, torch.randperm(len(rows), generator=generator))
        flux, truth = stamps[survey], stamps[f"{survey}_truth"]
        drop = torch.rand(len(rows), 1, generator=generator) < self.recipe.drop_some
        given = (torch.rand(flux.shape[:2], generator=generator) >= self.recipe.drop) | ~drop
        given[torch.arange(len(rows)), torch.randint(flux.shape[1], (len(rows),), generator=generator)] = True
        return Images(survey, flux, truth, given.to(self.device))

    def held_out_images(self, survey: str, most: int) -> Images:
        rows = self.held_out(most)
        flux = self.read(survey, rows)
        return Images(survey, flux, self.read(f"{survey}_truth", rows), torch.ones_like(flux[:, :, 0, 0], dtype=torch.bool))

    def spectra(self, step: int) -> list[Spectra]:
        """The batch of one step, of one spectrograph."""
        desi = float(torch.rand(1, generator=self._generator(step))) < self.recipe.desi
        return [self._spectra("desi" if desi else "sdss", self.rows_of(step))]

    def held_out_spectra(self, name: str, most: int) -> Spectra:
        return self._spectra(name, self.held_out(most))

    def _spectra(self, name: str, rows: np.ndarray[Any, Any]) -> Spectra:
        flux, ivar, truth = (self.read(key, rows) for key in (name, f"{name}_ivar", f"{name}_truth"))
        return Spectra(flux, ivar, truth, wavelengths(name, flux.shape[1]).float().to(self.device))

    def fields(self, step: int) -> list[Tensor]:
        """(B, N, N) from 0 to 1: the maps of one step, turned and flipped."""
        field = self.read("field", self.rows_of(step))[:, None] / 255
        return [turn({"field": field}, torch.randperm(len(field), generator=self._generator(step)))["field"][:, 0]]

    def held_out_fields(self, most: int) -> Tensor:
        """Those of them with a bar or arms; all if there is none."""
        field = self.read("field", self.held_out(most)) / 255
        shown = field.flatten(1).any(1)
        return field[shown] if bool(shown.any()) else field

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
