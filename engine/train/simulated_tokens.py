"""Tokens of the simulated sky, rendered, encoded and let go, batch by batch: training needs no pixels on disk.

    OUT/tokens/<token key>/    `Records`, as a sky has them; what else a run reads of a sky, such as positions, there is not

Nothing but torch and NumPy, on any device. Shape letters: B batch, n tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints.codecs import load_codec
from engine.checkpoints.tokenizers import config_of
from engine.codecs import CatalogCodec, Codec, ScalarCodec
from engine.codecs.catalog import COLUMNS
from engine.codecs.image import BANDS_OF, SIZE
from engine.modalities import Modality
from engine.model_files import codec_checksum
from engine.records import MANIFEST, Records
from engine.simulate import GRIDS, with_sdss
from engine.simulate.population import STAR
from engine.steps import Step
from engine.train.codec_data import painted
from engine.train.data import Render, batch_on
from engine.train.token_data import hashed

Sky = dict[str, Tensor]
PLAIN, PLAIN_SALT = 0.1, 17  # the share of maps without bar or arms that is kept: they all look alike
COMMIT_EVERY = 16  # batches


def build(codecs: Path, out: Path, objects: int, seed: int, render: Render | None = None, device: str = "cpu",
          sdss: bool = False) -> Iterator[Step]:
    """Tokens of objects 0 to `objects` - 1 of the simulated sky `seed`, all modalities that it has and `codecs` has codecs of.

    sdss: only of those that SDSS took a spectrum of, a quarter. Run again to go on where it stopped, or to have more objects.
    Raises ValueError if there are no codecs; tokens of other codecs or of another sky are made anew.
    """
    if render is None:
        from engine import simulate

        render = partial(simulate.render, device=device)
    readers = readers_of(codecs, render(seed, torch.arange(1), truth=True), device)
    about = {key: {"codec": codec_checksum(codecs / "codecs" / m.folder), "seed": seed, "sdss": sdss}
             for key, (m, _) in readers.items()}
    made = {key: _opened(out / "tokens" / key, m.tokens, about[key]) for key, (m, _) in readers.items()}
    index = torch.arange(min(r.reach for r in made.values()), objects)
    index = with_sdss(seed, index) if sdss and len(index) else index
    parts = [part for part in index.split(batch_on(device)) if len(part)]
    waiting: dict[str, list[tuple[Tensor, Tensor]]] = {key: [] for key in made}
    for number, part in enumerate(parts):
        stop = objects if number + 1 == len(parts) else int(part[-1]) + 1
        sky = render(seed, part, truth=True) | {"index": part}
        for key, (_, read) in readers.items():
            there, ids = read(sky)
            waiting[key].append((part[there.cpu()], ids.cpu()))
        if number % COMMIT_EVERY == COMMIT_EVERY - 1 or stop == objects:
            for key, records in made.items():
                _append(records, waiting[key], stop)
            waiting = {key: [] for key in made}
        yield Step(stop / objects, f"tokens of {stop:,} of {objects:,} objects")


def _opened(folder: Path, tokens: int, about: dict[str, Any]) -> Records:
    if (folder / MANIFEST).is_file():
        records = Records.open(folder)
        if records.shape == (tokens,) and {name: records.manifest.get(name, False) for name in about} == about:
            return records
    return Records.create(folder, (tokens,), "<u2", {"key": folder.name, "quick": False, **about})


def _append(records: Records, waiting: list[tuple[Tensor, Tensor]], stop: int) -> None:
    """What is not there yet (a kill between two commits, a modality whose codec was added)."""
    if records.reach >= stop:
        return
    rows, ids = (torch.cat(parts).numpy() for parts in zip(*waiting, strict=True))
    later = rows >= records.reach
    records.append(rows[later], ids[later], stop)


# -- what is rendered -> ids ----------------------------------------------------------------------------------------------

Reader = Callable[[Sky], tuple[Tensor, Tensor]]  # which objects have it, bool (B,); the ids of those, (k, n)


def readers_of(codecs: Path, some: Sky, device: str) -> dict[str, tuple[Modality, Reader]]:
    """Of each modality that the simulated sky has, of which `some` is a sample, how its tokens come from a rendered batch."""
    config = config_of(codecs)
    loaded: dict[str, Codec] = {}
    readers: dict[str, tuple[Modality, Reader]] = {}
    for key in config.domains:
        m = config.modality(key)
        read = reader(m, some)
        if read is not None:
            if m.folder not in loaded:
                loaded[m.folder] = load_codec(codecs / "codecs" / m.folder).to(device)
            readers[key] = m, partial(read, loaded[m.folder], m)
    return readers


def reader(m: Modality, some: Sky) -> Callable[[Any, Modality, Sky], tuple[Tensor, Tensor]] | None:
    """None for what the simulated sky does not have."""
    by_kind = {"image": images, "spectrum": spectra, "catalog": sources, "field": maps, "coefficients": coefficients}
    if m.kind == "scalar":
        return numbers if f"s_{m.scalar}" in some else None
    return by_kind.get(m.kind)


def images(codec: Any, m: Modality, sky: Sky) -> tuple[Tensor, Tensor]:
    """Bad pixels count as 0, and a band without a good one is none, as in `engine.codecs.stamps`."""
    bad = sky[f"{m.survey}_mask"]
    seen = ~bad.flatten(2).all(2)
    there = sky[f"has_{m.survey}"] & seen.any(1)
    pixels, seen = torch.where(bad, 0.0, sky[m.survey])[there], seen[there]
    ids = torch.empty(len(pixels), m.tokens, dtype=torch.int32, device=pixels.device)
    for bands in seen.unique(dim=0):
        rows = (seen == bands).all(1)
        names = [name for name, given in zip(BANDS_OF[m.survey], bands.tolist(), strict=True) if given]
        ids[rows] = codec.tokenize(pixels[rows][:, bands], names)
    return there, ids


def spectra(codec: Any, m: Modality, sky: Sky) -> tuple[Tensor, Tensor]:
    there, flux = sky[f"has_{m.survey}"], sky[m.survey]
    bad = sky[f"{m.survey}_mask"] | ~torch.isfinite(flux)
    there = there & ~bad.all(1)
    return there, codec.tokenize(flux[there], sky[f"{m.survey}_ivar"][there], bad[there], GRIDS[m.survey](flux.device))


def numbers(codec: ScalarCodec, m: Modality, sky: Sky) -> tuple[Tensor, Tensor]:
    values = sky[f"s_{m.scalar}"]
    there = torch.isfinite(values)
    return there, codec.tokenize(values[there], saturate=True)[:, None]


def coefficients(codec: ScalarCodec, m: Modality, sky: Sky) -> tuple[Tensor, Tensor]:
    values = sky[str(m.scalar)]
    there = torch.isfinite(values).all(1)
    return there, codec.tokenize(values[there])


def sources(codec: CatalogCodec, m: Modality, sky: Sky) -> tuple[Tensor, Tensor]:
    """The one source that every stamp has, in its middle: on the corner between four pixels, which rounds to an even one."""
    middle = torch.full_like(sky["s_shape_r"], (SIZE - 1) / 2)
    shapes = [sky[f"s_{name}"] for name in COLUMNS[2:]]
    ids = codec.tokenize(*(column[:, None] for column in (middle, middle, *shapes)))
    return torch.ones(len(ids), dtype=torch.bool, device=ids.device), codec.to_sequence(ids, m.tokens)


def maps(codec: Any, m: Modality, sky: Sky) -> tuple[Tensor, Tensor]:
    """Bars and arms of galaxies; of maps that show neither a few."""
    field = painted(sky)
    some = torch.from_numpy(hashed(sky["index"].numpy(), PLAIN_SALT) < PLAIN)
    there = (sky["class"] < STAR) & (field.flatten(1).any(1) | some.to(field.device))
    return there, codec.tokenize(field[there])
