"""Training pairs: rendered once into a compact cache on disk, then drawn from it in batches that depend on (seed, step) alone.

Shape letters: B batch, C channels, W bins of a spectrum.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.models import AstroClipConfig, Pairs
from engine.models.inputs import APERTURES, CHANNELS, FIELDS, WavelengthGrid, prepare_image, prepare_spectrum
from engine.models.spectrum import drawing
from engine.simulate import GRIDS
from engine.steps import Step
from engine.train.recipes import Recipe

STAMP_STEP = 0.04  # stamps are kept as int8 multiples of this: a quarter of the sky noise at most
RENDER_BATCH = 64  # objects at a time on a CPU, whose cache they fit
ON_GPU = 8  # times as many
Render = Callable[..., dict[str, Tensor]]


def batch_on(device: str | torch.device) -> int:
    """How many objects to render at a time."""
    return RENDER_BATCH if torch.device(device).type == "cpu" else RENDER_BATCH * ON_GPU


def wavelengths(instrument: str, pixels: int) -> Tensor:
    """(n,) Angstrom of the simulator's spectra, the first of its grid."""
    return GRIDS[instrument]()[:pixels]


def prepare(sky: dict[str, Tensor], grid: WavelengthGrid) -> dict[str, Tensor]:
    """What the simulator renders -> what the encoders take, both instruments' spectra."""
    images = [prepare_image(sky[f.survey], sky[f"{f.survey}_ivar"], sky[f"{f.survey}_mask"], f) for f in FIELDS]
    out = {f"stamp_{f.survey}": image["stamp"] for f, image in zip(FIELDS, images, strict=True)}
    out["photometry"] = torch.cat([image["photometry"] for image in images], dim=1)
    out["present"] = torch.cat([image["present"] & sky[f"has_{f.survey}"][:, None]
                                for f, image in zip(FIELDS, images, strict=True)], dim=1)
    for survey in GRIDS:
        wavelength = wavelengths(survey, sky[survey].shape[1])
        mask = sky[f"{survey}_mask"] | ~sky[f"has_{survey}"][:, None]
        spectrum = prepare_spectrum(sky[survey], sky[f"{survey}_ivar"], mask, wavelength, grid)
        out[f"{survey}_flux"], out[f"{survey}_weight"] = spectrum["flux"], spectrum["weight"]
    return out


def layout(rows: int, model: AstroClipConfig) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each array of the cache."""
    arrays: dict[str, tuple[tuple[int, ...], str]] = {
        f"stamp_{f.survey}": ((rows, len(f.bands), f.size, f.size), "int8") for f in FIELDS}
    arrays["drawing"] = ((rows, 2, model.drawn // 2), "float16")
    arrays["photometry"] = ((rows, len(CHANNELS), len(APERTURES) + 1), "float32")
    arrays["present"] = ((rows, len(CHANNELS)), "bool")
    for survey in ("desi", "sdss"):
        arrays[f"{survey}_flux"] = ((rows, model.grid.bins), "float16")
        arrays[f"{survey}_weight"] = ((rows, model.grid.bins), "float16")
    return arrays


def compact(name: str, values: Tensor) -> np.ndarray[Any, Any]:
    """One prepared tensor in the type that the cache keeps."""
    if name.startswith("stamp_"):
        return (values / STAMP_STEP).round().clamp(-127, 127).to(torch.int8).numpy()
    if name.endswith(("_flux", "_weight", "drawing")):
        return values.clamp(-6e4, 6e4).half().numpy()
    return values.numpy()


def fingerprint(recipe: Recipe, render: Render) -> str:
    """Changes when the simulator, the seed or the way inputs are prepared changes: then the cache is made anew."""
    first = examples(recipe, torch.arange(2), render)
    digest = hashlib.sha256(f"{recipe.seed} {recipe.objects} {recipe.validation}".encode())
    for name in sorted(first):
        digest.update(name.encode() + first[name].float().round(decimals=2).numpy().tobytes())
    return digest.hexdigest()[:16]


def examples(recipe: Recipe, index: Tensor, render: Render) -> dict[str, Tensor]:
    """Prepared inputs of objects `index`, and "drawing", what their vectors shall draw: the spectrum without its noise."""
    sky = render(recipe.seed, index, truth=True)
    drawn = drawing(sky["desi_truth"], recipe.model.grid, recipe.model.drawn // 2)
    return prepare(sky, recipe.model.grid) | {"drawing": drawn}


def build_cache(recipe: Recipe, folder: Path, render: Render) -> Iterator[Step]:
    """Render the recipe's objects into `folder`. Goes on where a killed run stopped; starts anew if anything changed."""
    rows = recipe.objects + recipe.validation
    state_file, mark = folder / "cache.json", fingerprint(recipe, render)
    arrays = layout(rows, recipe.model)
    state = json.loads(state_file.read_text()) if state_file.exists() else {}
    done = state.get("rows", 0) if state.get("fingerprint") == mark else 0
    folder.mkdir(parents=True, exist_ok=True)
    if not done:
        state_file.unlink(missing_ok=True)  # first, so that an old one never vouches for new arrays
    maps = {name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="r+" if done else "w+", dtype=dtype, shape=shape)
            for name, (shape, dtype) in arrays.items()}
    for start in range(done, rows, RENDER_BATCH):
        index = torch.arange(start, min(rows, start + RENDER_BATCH))
        for name, values in examples(recipe, index, render).items():
            maps[name][start : start + len(index)] = compact(name, values)
        if (start // RENDER_BATCH) % 16 == 15 or start + len(index) == rows:
            for array in maps.values():
                array.flush()
            write_json(state_file, {"fingerprint": mark, "rows": start + len(index)})
        yield Step((start + len(index)) / rows, f"rendered {start + len(index)} of {rows} objects")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a whole file or none, by rename."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


class PairSource:
    """The cache, opened for reading. Batches are a function of (seed, step): nothing to remember, nothing to restore."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        rows = recipe.objects + recipe.validation
        self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in layout(rows, recipe.model)}
        self.keys = brightness_and_colour(np.array(self.arrays["photometry"][: recipe.objects]),
                                          np.array(self.arrays["present"][: recipe.objects]))
        self.per_epoch = recipe.objects // recipe.batch
        self.epoch, self.order = -1, np.zeros(0, dtype=np.int64)

    def rows_of(self, step: int) -> np.ndarray[Any, Any]:
        """Which objects are in this step's batch. An epoch shows each object once (but for a remainder)."""
        epoch, within = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, alike(self.keys, self.recipe.group, self.recipe.seed, epoch)
        groups = self.recipe.batch // self.recipe.group
        return self.order[within * groups : (within + 1) * groups].ravel()

    def train(self, step: int) -> Pairs:
        """The batch of one step, with its own random views."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        return views(self.read(self.rows_of(step)), self.recipe, generator)

    def held_out(self, start: int, count: int) -> Pairs:
        """Objects that are never trained on, seen whole: both surveys, DESI spectra."""
        rows = np.arange(self.recipe.objects + start, self.recipe.objects + start + count)
        return assemble(self.read(rows))

    def read(self, rows: np.ndarray[Any, Any]) -> dict[str, Tensor]:
        """Rows of the cache as tensors; they are gathered in the order of the file."""
        order = np.argsort(rows)
        back = np.argsort(order)
        out = {}
        for name, array in self.arrays.items():
            values = torch.from_numpy(np.ascontiguousarray(array[rows[order]])[back])
            out[name] = values if values.dtype == torch.bool else values.float()
            if name.startswith("stamp_"):
                out[name] *= STAMP_STEP
        return out


def brightness_and_colour(photometry: np.ndarray[Any, Any], present: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(rows, 2): r brightness and g - r colour in magnitudes, in the 3" aperture measured on the pixels, of either survey."""
    aperture = 5
    g, r = (np.where(present[:, a], photometry[:, a, aperture], photometry[:, b, aperture])
            for a, b in ((0, 4), (1, 5)))
    return np.stack([-2.5 * r, 2.5 * (r - g)], axis=1)


def alike(keys: np.ndarray[Any, Any], group: int, seed: int, epoch: int) -> np.ndarray[Any, Any]:
    """(groups, group): all rows, shuffled in groups of like brightness and colour.

    Sorted by brightness into strips, each strip by colour, and cut; a little scatter makes other groups each epoch. A batch
    of such groups asks for more than brightness and colour to tell its members apart.
    """
    random = np.random.default_rng([seed, epoch])
    values = keys + random.normal(0.0, (0.1, 0.05), keys.shape)
    strips = max(1, round(math.sqrt(len(keys) / group)))
    pieces = [strip[np.argsort(values[strip, 1])] for strip in np.array_split(np.argsort(values[:, 0]), strips)]
    order = np.concatenate(pieces)
    start = random.integers(0, len(order) % group + 1)
    order = order[start : start + len(order) // group * group].reshape(-1, group)
    return order[random.permutation(len(order))]


def assemble(rows: dict[str, Tensor], use_sdss: Tensor | None = None) -> Pairs:
    """Rows of the cache as a batch; use_sdss (B,) chooses the spectrum."""
    flux, weight = rows["desi_flux"], rows["desi_weight"]
    if use_sdss is not None:
        flux = torch.where(use_sdss[:, None], rows["sdss_flux"], flux)
        weight = torch.where(use_sdss[:, None], rows["sdss_weight"], weight)
    stamps = {f.survey: rows[f"stamp_{f.survey}"] for f in FIELDS}
    return Pairs(stamps, rows["photometry"], rows["present"], flux, weight, rows["drawing"])


def views(rows: dict[str, Tensor], recipe: Recipe, generator: torch.Generator) -> Pairs:
    """One random view of each object: a turn or flip, some surveys and bands, one instrument, more noise, less coverage."""
    def chance(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    b = len(rows["present"])
    has_desi, has_sdss = ((rows[f"{s}_weight"] > 0).any(1) for s in ("desi", "sdss"))
    batch = assemble(rows, has_sdss & ((chance(b) < recipe.sdss) | ~has_desi))
    stamps = turn(batch.stamps, torch.randperm(b, generator=generator))
    present = choose_bands(batch.present, recipe, chance(b), chance(b, len(CHANNELS)))
    first = 0
    for f in FIELDS:
        stamps[f.survey] = stamps[f.survey] * present[:, first : first + len(f.bands), None, None]
        first += len(f.bands)
    flux, weight = degrade(batch.flux, batch.weight, chance(b, 4), generator)
    return Pairs(stamps, batch.photometry * present[..., None], present, flux, weight, batch.drawing)


def turn(stamps: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """Each object turned or flipped in one of the eight ways of the square, alike in all surveys."""
    out = {}
    for survey, stamp in stamps.items():
        turned = torch.empty_like(stamp)
        for way, rows in enumerate(order.chunk(8)):
            piece = torch.rot90(stamp[rows], way % 4, (-2, -1))
            turned[rows] = piece.flip(-1) if way >= 4 else piece
        out[survey] = turned
    return out


def choose_bands(present: Tensor, recipe: Recipe, survey: Tensor, band: Tensor) -> Tensor:
    """Which channels an object shows, from random numbers survey (B,) and band (B, C); never none of those there are."""
    legacy = torch.tensor([s == "legacy" for s, _ in CHANNELS])
    only_legacy = (survey >= recipe.both) & (survey < recipe.both + recipe.legacy)
    only_hsc = survey >= recipe.both + recipe.legacy
    shown = present & (band >= recipe.band_drop)
    shown = shown & ~(only_legacy[:, None] & ~legacy) & ~(only_hsc[:, None] & legacy)
    return torch.where(shown.any(1, keepdim=True), shown, present)


def degrade(flux: Tensor, weight: Tensor, chance: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """More noise for three in ten, a shorter range of wavelengths for one in ten."""
    extra = torch.where(chance[:, :1] < 0.3, chance[:, 1:2], 0.0)
    noise = torch.randn(flux.shape, generator=generator) / weight.clamp_min(1e-6) * (weight > 0)
    flux, weight = flux + extra * noise, weight / torch.sqrt(1 + extra**2)
    place = torch.arange(flux.shape[1]) / flux.shape[1]
    low = torch.where(chance[:, 2:3] < 0.1, 0.5 * chance[:, 3:4], 0.0)
    high = torch.where(chance[:, 2:3] < 0.1, low + 0.5, 1.0)
    seen = ((place >= low) & (place <= high)).float()
    return flux * seen, weight * seen
