"""Stored tokens of one or several skies as training batches: which rows a step has depends on (seed, step) alone.

Rows of all skies are numbered one after another; rows of one object go by the number of the one that leads (`engine.pairs`).
Shape letters: B batch, R rows of all skies, N places of a `Layout`, M modalities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.augment import WAYS, turns
from engine.model_files import codec_checksum
from engine.models.omni_config import OmniConfig
from engine.models.tokens import PADDING
from engine.pairs import How, ids_of, leaders, places_of
from engine.records import MANIFEST, Records
from engine.tokenized import named
from engine.train.masking import Layout

Rows = NDArray[np.int64]
CELL = 29 - 6  # validation by position: whole HEALPix cells of order 6, about a degree
CELL_SALT, SPLIT_SALT, PAIR_SALT = 7, 11, 13
WAY_SALT = 10_000  # and as many more as epochs: above those of the pairs
FIRST = 64  # objects that tell whose tokens these are


def tokens_of(skies: Sequence[Path], config: OmniConfig, codecs: Path) -> list[dict[str, Records]]:
    """Of each sky the stored tokens of a model's modalities; codecs: the folder that has them, to tell whose tokens they are.

    Raises ValueError for a sky without tokens, and for tokens that another codec made or that the model cannot read.
    """
    found = []
    for sky in skies:
        if not sky.is_dir():
            raise ValueError(f"there is no folder {sky}")
        records = {}
        for key in config.domains:
            record = _opened(sky / "tokens" / key, key, config, codecs)
            if record is not None and len(record):
                records[key] = record
        if not records:
            raise ValueError(f"{sky} has no tokens of {', '.join(config.domains)}; {_made(sky)}")
        found.append(records)
    return found


def _opened(folder: Path, key: str, config: OmniConfig, codecs: Path) -> Records | None:
    """Stored tokens of a modality, None if there are none. Raises what `tokens_of` raises."""
    if not (folder / MANIFEST).is_file():
        return None
    record, m = Records.open(folder), config.modality(key)
    if record.shape != (m.tokens,):
        raise ValueError(f"{folder} has {record.shape} tokens an object, the model {m.tokens}; {_made(folder.parents[1])}")
    codec = codecs / "codecs" / m.folder
    if not (codec / "config.json").is_file():
        raise ValueError(f"{folder} has tokens, but {codec} is no codec; name the model that made them")
    if record.manifest.get("codec") != codec_checksum(codec):
        raise ValueError(f"{folder} was made by another codec than {codec}; {_made(folder.parents[1])}")
    return record


def _made(sky: Path) -> str:
    """What makes tokens: a sky has objects, what was simulated for training has nothing but them."""
    simulated = (sky / "tokens").is_dir() and not (sky / "sky.json").is_file()
    return "make them with `omnisky train tokens`" if simulated else "make them with `omnisky tokenize`"


def seen(records: Mapping[str, Records]) -> dict[str, str]:
    """Of each modality a digest of the first objects' tokens: a model says by them what it was trained on."""
    return {key: hashlib.sha256(r.rows[:FIRST].tobytes() + r.values[:FIRST].tobytes()).hexdigest()[:16]
            for key, r in records.items()}


def copies_of(skies: Sequence[Path], tokens: Sequence[Mapping[str, Records]], config: OmniConfig, codecs: Path
              ) -> list[list[dict[str, Records]]]:
    """Of each way to turn an object, as far as there are stored copies, the tokens of the modalities that it changes, by sky.

    Raises ValueError if copies lack a modality or objects that the originals (`tokens_of`) have: all turn, or none.
    """
    by_way = [[{key: sky / "tokens" / named(key, way) for key in some if turns(config.modality(key))}
               for sky, some in zip(skies, tokens, strict=True)] for way in range(1, len(WAYS))]
    there = [any((folder / MANIFEST).is_file() for some in folders for folder in some.values()) for folders in by_way]
    most = [*there, False].index(False)
    found: list[list[dict[str, Records]]] = []
    for folders in by_way[:most]:
        found.append([])
        for originals, some in zip(tokens, folders, strict=True):
            records = {key: _opened(folder, key, config, codecs) for key, folder in some.items()}
            for key, record in records.items():
                if record is None or record.reach < originals[key].reach:
                    raise ValueError(f"{some[key]} lacks turned copies, which other tokens have; make them with "
                                     f"`omnisky tokenize --copies {most}`")
            found[-1].append({key: record for key, record in records.items() if record is not None})
    return found


def joined(skies: Sequence[Path], tokens: Sequence[Mapping[str, Records]], config: OmniConfig, how: How) -> Rows:
    """(R,) of each row the one that leads its object: see `engine.pairs`. Rows of one sky are paired if they share no survey.

    Raises ValueError for skies that say nothing of their objects but tokens, and if no objects are paired.
    """
    surveys = sorted({config.modality(key).survey for some in tokens for key in some} - {"any"})
    reach = [max(r.reach for r in some.values()) for some in tokens]
    of_each = []
    for sky, rows in zip(skies, reach, strict=True):
        if not (sky / "sky.json").is_file():
            raise ValueError(f"{sky} has tokens, but no objects with ids and positions to pair; train without pairs")
        of_each.append(ids_of(sky, rows) if how == "id" else places_of(sky, rows))
    bits = [_surveys(some, config, surveys, rows) for some, rows in zip(tokens, reach, strict=True)]
    led = leaders(of_each, how, bits)
    if (led == np.arange(len(led))).all():
        why = "they share no id; --pair 1 pairs within an arcsecond" if how == "id" else \
            f"none are each other's nearest within {how} arcsec; a larger radius may help"
        raise ValueError(f"no objects of {', '.join(map(str, skies))} are paired: {why}")
    return led


def _surveys(tokens: Mapping[str, Records], config: OmniConfig, surveys: Sequence[str], rows: int) -> Rows:
    """(rows,) bits of the surveys whose images and spectra each row of a sky has; of a row that has neither, those of its
    numbers: a spectrum's table tells another survey's fluxes and reddening, too, and is none of that survey's rows."""
    measured, told = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    for key, record in tokens.items():
        m = config.modality(key)
        bits = told if m.kind == "scalar" else measured
        bits[record.rows] |= 0 if m.survey == "any" else 1 << surveys.index(m.survey)
    return np.where(measured == 0, told, measured)


class TokenData:
    """Batches of stored tokens. `train` and `held_out` are row numbers, never the same ones.

    validation: the share held out. cells: of each sky the HEALPix number of order 29 of its rows (negative: unknown); then
    whole pieces of sky are held out together, and only rows without a position by themselves. withheld: pairs of surveys (or
    modalities) of which a row shows only one, always the same one, though it has both. led: (R,) of each row the one that leads
    its object; then all an object's rows are read as one, of what several have the first. copies: as `copies_of` gives them; in
    each epoch every object is shown as it was measured or as one of them.
    """

    def __init__(self, skies: Sequence[Mapping[str, Records]], layout: Layout, batch: int, seed: int, validation: float,
                 withheld: Sequence[tuple[str, str]] = (), cells: Sequence[Rows] | None = None, led: Rows | None = None,
                 copies: Sequence[Sequence[Mapping[str, Records]]] = ()) -> None:
        self.skies, self.layout, self.batch, self.seed, self.copies = skies, layout, batch, seed, copies
        reach = [max(r.reach for r in records.values()) for records in skies]
        self.starts = np.concatenate([[0], np.cumsum(reach)]).astype(np.int64)
        self.pairs = [(self._modalities(a), self._modalities(b)) for a, b in withheld]
        self.paired = 0 if led is None else int((led != np.arange(len(led))).sum())  # rows that another one leads
        self._by_leader = None if led is None else np.argsort(led, kind="stable")
        self._leader = None if self._by_leader is None or led is None else led[self._by_leader]
        rows = _trainable(skies, self.starts, led)
        out = hashed(rows, SPLIT_SALT) < validation
        if cells is not None:
            cell = np.concatenate([some[:n] for some, n in zip(cells, reach, strict=True)])[rows]
            out = np.where(cell < 0, out, hashed(np.maximum(cell, 0) >> (2 * CELL), CELL_SALT) < validation)
        self.train, self.held_out = rows[~out], rows[out]
        if len(self.train) < batch:
            raise ValueError(f"{len(self.train)} objects have tokens to train on, fewer than a batch of {batch}; "
                             "take a smaller batch or more objects")
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def _modalities(self, name: str) -> Tensor:
        """bool (N,): the places of a survey or a modality."""
        rows = [self.layout.config.modality(key) for key in self.layout.keys]
        return torch.tensor([name in (m.survey, m.key) for m in rows])[self.layout.modality]

    def rows_of(self, step: int) -> Rows:
        """(B,) the rows of a step. An epoch shows each row once, but for a remainder."""
        epoch, within = divmod(step, len(self.train) // self.batch)
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
            self._epoch, self._order = epoch, order
        return self.train[self._order[within * self.batch : (within + 1) * self.batch]]

    def ways(self, rows: Rows, step: int) -> Rows:
        """(B,) how each row's object is turned in a step, as a number among `WAYS`; 0 for a step below 0 and without copies."""
        if step < 0 or not self.copies:
            return np.zeros(len(rows), np.int64)
        epoch = step // (len(self.train) // self.batch)
        chance = hashed(rows, WAY_SALT + epoch + (self.seed << 32))
        return (chance * (1 + len(self.copies))).astype(np.int64)

    def read(self, rows: Rows, step: int = -1) -> tuple[Tensor, Tensor]:
        """Ids int64 (B, N), 0 where there is none, and which tokens are there, bool (B, N), turned as a step asks for.

        Raises ValueError for an id that the model does not know.
        """
        ids = np.zeros((len(rows), self.layout.places), np.int64)
        there = np.zeros(ids.shape, bool)
        place_of, members = self._members(rows)
        way = self.ways(rows, step)[place_of]
        sky_of = np.searchsorted(self.starts, members, side="right") - 1
        for index, records in enumerate(self.skies):
            mine = np.flatnonzero(sky_of == index)
            for key in records:
                for record, some in self._turned(index, key, mine, way):
                    found, values = record.at(members[some] - self.starts[index])
                    self._fill(ids, there, key, place_of[some[found]], values, record.folder)
        return torch.from_numpy(ids), self._withhold(torch.from_numpy(there), rows)

    def _members(self, rows: Rows) -> tuple[Rows, Rows]:
        """All rows of the objects that some rows (B,) lead, and at which place of the batch each belongs."""
        if self._leader is None or self._by_leader is None:
            return np.arange(len(rows)), rows
        first, after = (np.searchsorted(self._leader, rows, side) for side in ("left", "right"))
        count = after - first
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(np.arange(len(rows)), count), self._by_leader[np.repeat(first, count) + within]

    def _turned(self, index: int, key: str, mine: Rows, way: Rows) -> Iterator[tuple[Records, Rows]]:
        """The tokens of a sky's modality, or of its copies, and which rows are to be read from them."""
        if not self.copies or key not in self.copies[0][index]:
            yield self.skies[index][key], mine
            return
        for number, record in enumerate([self.skies[index][key], *(copy[index][key] for copy in self.copies)]):
            if len(some := mine[way[mine] == number]):
                yield record, some

    def _fill(self, ids: NDArray[np.int64], there: NDArray[np.bool_], key: str, at: Rows, values: NDArray[Any], folder: Path
              ) -> None:
        """Put tokens (k, n) of a modality into the places `at` (k,), increasing, of a batch that do not have it yet."""
        place = self.layout.slices[key]
        top = self.layout.config.modality(key).vocabulary - 1
        if values.size and int(values.max()) > top:
            raise ValueError(f"{folder} has the id {int(values.max())}, but the model's go up to {top}; "
                             f"{_made(folder.parents[1])}")
        new = np.diff(at, prepend=-1) > 0
        new &= ~there[at, place].any(1)
        ids[at[new], place] = values[new]
        there[at[new], place] = values[new] != PADDING if key in self.layout.sequences else True

    def _withhold(self, there: Tensor, rows: Rows) -> Tensor:
        """One side of each withheld pair is hidden."""
        for number, (a, b) in enumerate(self.pairs):
            both = (there[:, a].any(1) & there[:, b].any(1))[:, None]
            coin = torch.from_numpy(hashed(rows, PAIR_SALT + number) < 0.5)[:, None]
            there &= ~(both & torch.where(coin, a, b))
        return there


def hashed(values: NDArray[Any], salt: int) -> NDArray[np.float64]:
    """A number of [0, 1) for each whole number, the same everywhere (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = np.asarray(values, np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(salt + 1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) / 2.0**53


def cells_of(sky: Path) -> Rows:
    """The HEALPix number (order 29) of each row of a sky, -1 where its position is unknown."""
    import pyarrow.compute as pc

    from engine.store import Store

    column = Store(sky).table(["_healpix_29"]).column("_healpix_29")
    return np.asarray(pc.fill_null(column, -1).to_numpy(), np.int64)


def _trainable(skies: Sequence[Mapping[str, Records]], starts: Rows, led: Rows | None) -> Rows:
    """The rows, of paired ones those that lead, that have two tokens at least: one to read and one to ask for."""
    tokens = np.zeros(starts[-1], np.int32)
    for key in dict.fromkeys(key for records in skies for key in records):
        has = np.zeros(starts[-1], bool)
        for records, start in zip(skies, starts[:-1], strict=True):
            if key in records:
                rows = start + records[key].rows.astype(np.int64)
                has[rows if led is None else led[rows]] = True
        tokens += has * np.int32(next(records[key] for records in skies if key in records).shape[0])
    return np.flatnonzero(tokens > 1).astype(np.int64)
