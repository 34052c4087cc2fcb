"""Catalogues as tokens: five a source, position on the stamp, two ellipticities and a radius, one source after the other.

AION-1's (Parker et al. 2025, arXiv:2510.17960, sec. 3.4): every column has its own range of ids, so that an id says what it is
of. The transformer reads them as a sequence with a start and an end, shifted beyond its special ids.

Shape letters: B batch, L sources, n tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from engine.codecs.border import Values, batched, in_unit, measured, warn
from engine.codecs.image import SIZE
from engine.codecs.quantizers import Table

if TYPE_CHECKING:
    from engine.objects import Catalog, SkyObject

COLUMNS = ("x", "y", "shape_e1", "shape_e2", "shape_r")
UNITS = {"x": "pix", "y": "pix", "shape_r": "arcsec"}
PAD, START, END = 0, 2, 3  # ids of the transformer
SHIFT = 204  # its first id of a catalogue: after 4 special ids and 200 sentinels
LONGEST = 50  # tokens of a sequence


@dataclass(frozen=True)
class CatalogConfig:
    """absent: the id of what is not there; size: entries of the tables; sources: the most of one object."""

    absent: int = 9999
    size: int = 1024
    sources: int = 20


class CatalogCodec(nn.Module):
    """Catalogues of the sources around an object to ids of their own, and those to sequences for the transformer."""

    def __init__(self, config: CatalogConfig) -> None:
        super().__init__()
        self.config = config
        self.tables = nn.ModuleDict({name: Table(config.size) for name in COLUMNS[2:]})

    def _tables(self) -> list[Table]:
        return [table for table in self.tables.values() if isinstance(table, Table)]

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device

    @property
    def ranges(self) -> tuple[int, ...]:
        """First id of each column, and one more than the last id of all: 0, 96, 192, 1216, 2240, 3264."""
        sizes = [SIZE, SIZE, *(self.config.size for _ in self.tables)]
        return tuple(sum(sizes[:i]) for i in range(len(sizes) + 1))

    @property
    def vocabulary(self) -> int:
        """Of the codec's own ids; the transformer has `SHIFT` more."""
        return self.ranges[-1]

    @torch.no_grad()
    def tokenize(self, x: Any, y: Any, e1: Any, e2: Any, r: Any) -> Tensor:
        """Five columns (B, L) -> int64 ids (B, 5 L), a source's five side by side, 9999 where it is absent (9999 or NaN).

        x, y: pixels of the 96 x 96 stamp, the first at 0, rounded to whole ones; e1, e2: ellipticities; r: arcsec. Raises
        ValueError for shapes that differ, sources that are absent in part, places off the stamp, and infinities.
        """
        values = [measured(v, self.device).double() for v in (x, y, e1, e2, r)]
        if len({v.shape for v in values}) > 1 or values[0].ndim != 2:
            raise ValueError(f"columns of a catalogue must be (B, L) alike, got {[tuple(v.shape) for v in values]}")
        stacked = torch.stack(values, -1)  # (B, L, 5)
        gone = torch.isnan(stacked) | (stacked == self.config.absent)
        absent = gone.all(-1)
        partly = (gone.any(-1) & ~absent).nonzero()
        if len(partly):
            row, source = partly[0].tolist()
            lacking = ", ".join(n for n, lacks in zip(COLUMNS, gone[row, source].tolist(), strict=True) if lacks)
            raise ValueError(f"source {source} of object {row} lacks {lacking}; a source is there with all five columns or "
                             "absent in all")
        if bool(torch.isinf(stacked).any()):
            raise ValueError("a catalogue has infinite values; leave such a source out")
        places = torch.where(absent[..., None], 0.0, stacked[..., :2]).round()
        off = ((places < 0) | (places >= SIZE)).any(-1).nonzero()
        if len(off):
            row, source = off[0].tolist()
            raise ValueError(f"source {source} of object {row} is at x, y = {stacked[row, source, :2].tolist()}, off the "
                             f"{SIZE} x {SIZE} stamp (0 to {SIZE - 1})")
        shapes = [table.encode(stacked[..., 2 + i].float()) for i, table in enumerate(self._tables())]
        ids = torch.stack([places[..., 0].long(), places[..., 1].long(), *shapes], -1)
        ids = ids + torch.tensor(self.ranges[:-1], device=ids.device)
        return ids.masked_fill(absent[..., None], self.config.absent).flatten(1)

    @torch.no_grad()
    def detokenize(self, ids: Values, centre: bool = False, malformed: Literal["error", "absent"] = "error"
                   ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Ids (B, 5 L) -> x, y, e1, e2, r, each (B, L) float32, NaN where a source is absent.

        centre: the middle of a bin, not its upper end. malformed: what to do with a source one of whose ids is not of its
        column, such as a model may make up: "error" raises ValueError naming it, "absent" leaves it out.
        """
        tokens = torch.as_tensor(ids, device=self.device).long()
        if tokens.ndim != 2 or tokens.shape[1] % len(COLUMNS):
            raise ValueError(f"ids of a catalogue must be (B, 5 L), got the shape {tuple(tokens.shape)}")
        if malformed not in ("error", "absent"):
            raise ValueError(f"malformed must be 'error' or 'absent', got {malformed!r}")
        tokens = tokens.unflatten(1, (-1, len(COLUMNS)))
        ends = torch.tensor(self.ranges, device=tokens.device)
        first, last = ends[:-1], ends[1:] - 1
        wrong = (tokens < first) | (tokens > last)
        absent = (tokens == self.config.absent).all(-1)
        bad = (wrong & ~absent[..., None]).nonzero()
        if len(bad) and malformed == "error":
            row, source, column = bad[0].tolist()
            raise ValueError(f"id {int(tokens[row, source, column])} of source {source} of object {row} is not of "
                             f"{COLUMNS[column]}, whose ids go from {int(first[column])} to {int(last[column])}")
        lost = wrong.any(-1)
        own = torch.where(lost[..., None], 0, tokens - first)
        columns = [own[..., 0].float(), own[..., 1].float()]
        columns += [table.decode(own[..., 2 + i], centre) for i, table in enumerate(self._tables())]
        x, y, e1, e2, r = (c.masked_fill(lost, torch.nan) for c in columns)
        return x, y, e1, e2, r

    def to_sequence(self, ids: Values, longest: int = LONGEST) -> Tensor:
        """The codec's ids (B, 5 L) -> what the transformer reads, int64 (B, n): start, ids + 204, end, then padding.

        Absent sources are left out, and of more than fit only the first whole ones are kept: nine of five tokens in 50. Raises
        ValueError for an id that is neither of a column nor absent.
        """
        tokens = torch.as_tensor(ids).long()
        if tokens.ndim != 2 or tokens.shape[1] % len(COLUMNS):
            raise ValueError(f"ids of a catalogue must be (B, 5 L), got the shape {tuple(tokens.shape)}")
        bad = ((tokens < 0) | (tokens >= self.vocabulary)) & (tokens != self.config.absent)
        if bool(bad.any()):
            raise ValueError(f"id {int(tokens[bad][0])} is not of a catalogue; ids go from 0 to {self.vocabulary - 1}, "
                             f"{self.config.absent} is absent")
        rows = tokens.unflatten(1, (-1, len(COLUMNS)))
        there = (rows != self.config.absent).all(-1)
        there &= there.cumsum(1) <= (longest - 2) // len(COLUMNS)
        out = torch.full((len(rows), longest), PAD, device=tokens.device)
        out[:, 0] = START
        for row, kept in enumerate(there):
            sources = (rows[row][kept] + SHIFT).flatten()
            out[row, 1 : 1 + len(sources)] = sources
            out[row, 1 + len(sources)] = END
        return out

    def from_sequence(self, sequence: Values, sources: int | None = None) -> Tensor:
        """What `to_sequence` makes, or a model: (B, n) -> the codec's ids (B, 5 L), L the config's 20 unless `sources` is
        given.

        Reads from the start, if there is one, to the end or padding; a last source that is not whole is left out. Raises
        ValueError for special ids and sentinels in between, and for ids out of range.
        """
        tokens = torch.as_tensor(sequence).long()
        if tokens.ndim != 2:
            raise ValueError(f"sequences must be (B, n), got the shape {tuple(tokens.shape)}")
        most = self.config.sources if sources is None else sources
        out = torch.full((len(tokens), most * len(COLUMNS)), self.config.absent, device=tokens.device)
        for row, line in enumerate(tokens):
            line = line[1:] if len(line) and line[0] == START else line
            ends = ((line == END) | (line == PAD)).nonzero()
            line = line[: int(ends[0])] if len(ends) else line
            line = line[: min(len(line) // len(COLUMNS), most) * len(COLUMNS)]
            wrong = line[(line < SHIFT) | (line >= SHIFT + self.vocabulary)]
            if len(wrong):
                raise ValueError(f"id {int(wrong[0])} in sequence {row} is not of a catalogue; those go from {SHIFT} to "
                                 f"{SHIFT + self.vocabulary - 1}")
            out[row, : len(line)] = line - SHIFT
        return out

    def encode(self, objects: SkyObject | Sequence[SkyObject]) -> Tensor:
        """Objects with a catalogue -> int16 ids (B, 100), (100,) of one object; `to_sequence` makes of them what a model takes.

        Columns x, y (pixels of the object's Legacy Surveys image, or of a 96 x 96 stamp if it has none), shape_e1, shape_e2,
        shape_r. Sources off the central 96 x 96 pixels are left out; of more than 20 the first are kept, with a `CodecWarning`.
        Raises KeyError naming an object without a catalogue or a column, ValueError for a unit or a value that does not fit.
        """
        some, single = batched(objects)
        columns = np.full((len(COLUMNS), len(some), self.config.sources), np.nan)
        many = []
        for row, obj in enumerate(some):
            found = sources_of(obj)
            many += [obj.id] if found.shape[1] > self.config.sources else []
            kept = found[:, : self.config.sources]
            columns[:, row, : kept.shape[1]] = kept
        warn(f"more than {self.config.sources} sources; the first were kept", many)
        ids = self.tokenize(*torch.from_numpy(columns)).short()
        return ids[0] if single else ids

    def decode(self, ids: Values, centre: bool = False) -> Catalog | list[Catalog]:
        """Ids (B, 5 L) -> a Catalog an object, without the absent sources; (5 L,) -> one."""
        from engine.objects import Catalog

        tokens = torch.as_tensor(ids)
        single = tokens.ndim == 1
        columns = torch.stack(self.detokenize(tokens[None] if single else tokens, centre)).cpu().numpy()
        catalogs = []
        for row in range(columns.shape[1]):
            there = ~np.isnan(columns[0, row])
            catalogs.append(Catalog({n: c[row][there] for n, c in zip(COLUMNS, columns, strict=True)}, UNITS,  # type: ignore[arg-type]
                                    history=("decoded from tokens",)))
        return catalogs[0] if single else catalogs


def sources_of(obj: SkyObject) -> np.ndarray:
    """(5, L) of the sources on the central stamp, as `CatalogCodec.encode` says."""
    if obj.catalog is None:
        raise KeyError(f"object {obj.id} has no catalogue")
    missing = [n for n in COLUMNS if n not in obj.catalog.columns]
    if missing:
        raise KeyError(f"the catalogue of object {obj.id} has no {', '.join(missing)}; it has {', '.join(obj.catalog.columns)}")
    found = np.stack([in_unit(np.asarray(obj.catalog.columns[n], float), obj.catalog.units.get(n), UNITS.get(n),
                              f"{n} of the catalogue of object {obj.id}") for n in COLUMNS])
    image = obj.image("legacy")
    if image is not None:
        ny, nx = image.size
        found[:2] -= [[(nx - SIZE) // 2], [(ny - SIZE) // 2]]
    place = np.round(found[:2])
    return found[:, ((place >= 0) & (place < SIZE)).all(0)]
