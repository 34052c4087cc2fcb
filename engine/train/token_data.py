"""Stored tokens of one or several skies as training batches: which rows a step has depends on (seed, step) alone.

Rows of all skies are numbered one after another. Shape letters: B batch, N places of a `Layout`, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.model_files import codec_checksum
from engine.models.omni_config import OmniConfig
from engine.models.tokens import PADDING
from engine.records import MANIFEST, Records
from engine.train.masking import Layout

Rows = NDArray[np.int64]
CELL = 29 - 6  # validation by position: whole HEALPix cells of order 6, about a degree
CELL_SALT, SPLIT_SALT, PAIR_SALT = 7, 11, 13
MADE = "make them with `omnisky tokenize`"


def tokens_of(skies: Sequence[Path], config: OmniConfig, codecs: Path) -> list[dict[str, Records]]:
    """Of each sky the stored tokens of a model's modalities; codecs: the folder that has them, to tell whose tokens they are.

    Raises ValueError for a sky without tokens, and for tokens that another codec made or that the model cannot read.
    """
    found = []
    for sky in skies:
        records = {}
        for key in config.domains:
            if not (sky / "tokens" / key / MANIFEST).is_file():
                continue
            record, m = Records.open(sky / "tokens" / key), config.modality(key)
            if record.shape != (m.tokens,):
                raise ValueError(f"{record.folder} has {record.shape} tokens an object, the model {m.tokens}; {MADE}")
            codec = codecs / "codecs" / m.folder
            if not (codec / "config.json").is_file():
                raise ValueError(f"{record.folder} has tokens, but {codec} is no codec; name the model that made them")
            if record.manifest.get("codec") != codec_checksum(codec):
                raise ValueError(f"{record.folder} was made by another codec than {codec}; {MADE}")
            if len(record):
                records[key] = record
        if not records:
            raise ValueError(f"{sky} has no tokens of {', '.join(config.domains)}; {MADE}")
        found.append(records)
    return found


class TokenData:
    """Batches of stored tokens. `train` and `held_out` are row numbers, never the same ones.

    validation: the share held out. cells: of each sky the HEALPix number of order 29 of its rows (negative: unknown); then
    whole pieces of sky are held out together, and only rows without a position by themselves. withheld: pairs of surveys (or
    modalities) of which a row shows only one, always the same one, though it has both.
    """

    def __init__(self, skies: Sequence[Mapping[str, Records]], layout: Layout, batch: int, seed: int, validation: float,
                 withheld: Sequence[tuple[str, str]] = (), cells: Sequence[Rows] | None = None) -> None:
        self.skies, self.layout, self.batch, self.seed = skies, layout, batch, seed
        reach = [max(r.reach for r in records.values()) for records in skies]
        self.starts = np.concatenate([[0], np.cumsum(reach)]).astype(np.int64)
        self.pairs = [(self._modalities(a), self._modalities(b)) for a, b in withheld]
        rows = np.concatenate([start + _trainable(records, n) for records, n, start in
                               zip(skies, reach, self.starts[:-1], strict=True)])
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

    def read(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Ids int64 (B, N), 0 where there is none, and which tokens are there, bool (B, N).

        Raises ValueError for an id that the model does not know.
        """
        ids = np.zeros((len(rows), self.layout.places), np.int64)
        there = np.zeros(ids.shape, bool)
        sky_of = np.searchsorted(self.starts, rows, side="right") - 1
        for index, records in enumerate(self.skies):
            mine = np.flatnonzero(sky_of == index)
            for key, record in records.items():
                found, values = record.at(rows[mine] - self.starts[index])
                place = self.layout.slices[key]
                top = self.layout.config.modality(key).vocabulary - 1
                if values.size and int(values.max()) > top:
                    raise ValueError(f"{record.folder} has the id {int(values.max())}, but the model's go up to {top}; {MADE}")
                ids[mine[found], place] = values
                there[mine[found], place] = values != PADDING if key in self.layout.sequences else True
        return torch.from_numpy(ids), self._withhold(torch.from_numpy(there), rows)

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


def _trainable(records: Mapping[str, Records], reach: int) -> Rows:
    """The rows that have two tokens at least: one to read and one to ask for."""
    tokens = np.zeros(reach, np.int32)
    for record in records.values():
        tokens[record.rows] += record.shape[0]
    return np.flatnonzero(tokens > 1).astype(np.int64)
