"""Tokens of images, spectra, coefficients, fields and scalars from a model: a few at a time, each round given those before.

Shape letters: B objects, R = B samples rows, n tokens of the target, V ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.generation.draws import Settings, counts, gumbel, orders, pick, uniforms
from engine.generation.reading import Reading, Some, Tokens
from engine.modalities import Modality
from engine.models.omni import Encoded, Omni
from engine.models.tokens import is_sequence

ROWS = 16  # drawn at a time: logits of an image are 10 MB a row, what is kept of it by AION-1's base size a hundred


@dataclass(frozen=True)
class Round:
    """What is known of the target after a round: ids (R, n), int64, of which bool (R, n) are known.

    logits: after the first round (B, n, V), float32, what the inputs alone say of every token, without guidance or truncation.
    share: of the rounds of all rows, this one included.
    """

    ids: Tensor
    known: Tensor
    logits: Tensor | None
    share: float


def generate(model: Omni, tokens: Tokens, hidden: Tokens, target: str, settings: Settings,
             generators: Sequence[torch.Generator], reaches: Sequence[int] | None = None) -> Iterator[Round]:
    """Draw the target's tokens, given tokens (B, n) of other modalities, hidden where True: one `Round` after another.

    generators: one a row, R of them, a whole number of samples for each object in turn; every draw of a row comes from its own
    and their number does not depend on the others, so that a row is the same whatever rows it shares the batch with (up to a
    rounding of the logits that falls between two ids). reaches: how many ids there are for each of the n tokens; None:
    all of the vocabulary.

    The inputs are read once (of more than `ROWS` objects twice, so that not all need be kept), and the first round is computed
    once for all samples of an object; then `ROWS` rows at a time go through all rounds. What `Settings.cache` does is told in
    `generation.reading`. The decoder is asked for those tokens alone that are to be drawn, by maskgit for all that are
    open: as in training, for none that is known.

    Guidance needs logits without the inputs: registers and the target's known tokens remain. It costs a second pass, over few
    tokens. A model without registers has nothing to see in the first round: that one is drawn without guidance.

    Raises KeyError for a target that the model does not predict; ValueError for a sequence, a target among the inputs, more
    than one round for a target that the model cannot read, and guidance that could never act.
    """
    m = known_target(model, target)
    if is_sequence(m):
        raise ValueError(f"{target!r} is a sequence; it is drawn one token after the other, by generation.sequences")
    check_rows(tokens, target, generators)
    check_scheme(model, m, settings)
    beyond = torch.arange(m.vocabulary) >= torch.tensor(reaches or [m.vocabulary] * m.tokens)[:, None]
    reading = Reading(model, tokens, hidden, target, settings.cache)
    return _rounds(_Drawing(reading, settings, generators, beyond.to(model.mask_token.device),
                            counts(settings.scheme, m.tokens, settings.steps)))


@dataclass(frozen=True)
class _Drawing:
    """The arguments of `generate`, checked. beyond: bool (n, V), ids that there are not; counts: tokens drawn in each round."""

    reading: Reading
    settings: Settings
    generators: Sequence[torch.Generator]
    beyond: Tensor
    counts: Sequence[int]


@dataclass(frozen=True)
class _Start:
    """Some rows before anything is drawn: what the decoder attends to and says, with the inputs and, for guidance, without:
    logits (r, n, V) and (1, n, V), None where there is nothing to attend to or no guidance."""

    given: Encoded
    first: Tensor
    alone: Encoded | None
    free: Tensor | None


def _rounds(job: _Drawing) -> Iterator[Round]:
    reading, n, total, more = job.reading, sum(job.counts), len(job.generators), len(job.counts) > 1
    objects = len(next(iter(reading.tokens.values())))
    many = more and reading.cache and objects > ROWS  # what is kept of all would take too much memory: each is read again
    inputs = reading.start(slice(None), more and not many)
    first = reading.says(inputs)
    alone = reading.nothing(more) if job.settings.guidance != 1 else None
    free = None if alone is None else reading.says(alone)
    told: Tensor | None = first.masked_fill(job.beyond, -torch.inf)
    ids = torch.zeros(total, n, dtype=torch.long, device=first.device)
    known = torch.zeros_like(ids, dtype=torch.bool)
    for rows in torch.arange(total).split(ROWS):
        some = slice(int(rows[0]), int(rows[-1]) + 1) if total == objects else rows // (total // objects)
        given = reading.start(some) if many else inputs.rows(some)
        start = _Start(given, first[some], None if alone is None else alone.rows(torch.zeros_like(rows)), free)
        for i, (own, seen) in enumerate(_together(job, rows, some, start)):
            ids, known = ids.clone(), known.clone()  # whoever has the round before keeps it
            ids[rows], known[rows] = own, seen
            yield Round(ids, known, told, (int(rows[0]) + len(rows) * (i + 1) / len(job.counts)) / total)
            told = None


def _together(job: _Drawing, rows: Tensor, objects: Some, start: _Start) -> Iterator[tuple[Tensor, Tensor]]:
    """The ids of some rows (r, n), and which of them are known, round after round."""
    reading, generators, n = job.reading, [job.generators[r] for r in rows.tolist()], sum(job.counts)
    given, alone, w = start.given, start.alone, job.settings.guidance
    ids = torch.zeros(len(rows), n, dtype=torch.long, device=start.first.device)
    known = torch.zeros_like(ids, dtype=torch.bool)
    order = orders(generators, n, ids.device) if job.settings.scheme == "roar" else None
    at, done = ids[:, :0], 0
    for i, count in enumerate(job.counts):
        latest = at
        at = (~known).nonzero()[:, 1].view(len(rows), n - done) if order is None else order[:, done : done + count]
        free = None
        if i == 0:
            logits = _at(start.first, at)
            free = None if start.free is None else _at(start.free, at)
        else:
            given = reading.joined(given, objects, ids, known, latest)
            logits = reading.says(given, at)
            if w != 1:
                alone = reading.joined(alone, None, ids, known, latest)
                free = reading.says(alone, at)
        logits = logits if free is None else free + w * (logits - free)
        logits = logits.masked_fill(job.beyond[at], -torch.inf)
        if order is None:
            left = 1 - (i + 1) / len(job.counts)
            at, drawn = _most_confident(logits, at, n, count, left, job.settings, generators)
        else:
            drawn = pick(logits, uniforms(generators, count, ids.device), job.settings)
        ids, known, done = ids.scatter(1, at, drawn), known.scatter(1, at, True), done + count
        yield ids, known


def _at(logits: Tensor, places: Tensor) -> Tensor:
    """(1 or r, n, V) -> (r, t, V) of places (r, t)."""
    logits = logits.expand(len(places), -1, -1)
    return logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1]))


def _most_confident(logits: Tensor, places: Tensor, n: int, count: int, left: float, settings: Settings,
                    generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Places (R, count) to reveal and ids for them: all open ones, at places (R, t) of n, are drawn, and those that the model
    found likeliest stay.

    Confidence is the log-probability of what was drawn plus Gumbel noise times the temperature times the share of rounds left.
    """
    noise = uniforms(generators, 2 * n, logits.device)
    noise, of_places = noise[:, :n].gather(1, places), noise[:, n:].gather(1, places)
    drawn = torch.cat([pick(row[None], u[None], settings) for row, u in zip(logits, noise, strict=True)])
    confidence = logits.gather(2, drawn[..., None])[..., 0] - logits.logsumexp(-1)
    confidence = confidence + settings.temperature * left * gumbel(of_places)
    chosen = confidence.topk(count, dim=1).indices
    return places.gather(1, chosen), drawn.gather(1, chosen)


# ------------------------------------------------------------------------------------------------------------- shared


def known_target(model: Omni, target: str) -> Modality:
    """The modality of a target. Raises KeyError if the model does not predict it."""
    if target not in model.outputs:
        raise KeyError(f"{target!r} is not an output of this model; it has {', '.join(model.outputs)}")
    return model.outputs[target]


def check_scheme(model: Omni, m: Modality, settings: Settings) -> None:
    """Raises ValueError for a scheme that the model cannot follow for this target, and for guidance that could never act."""
    once = len(counts(settings.scheme, m.tokens, settings.steps)) == 1 and not is_sequence(m)
    if not once and not is_sequence(m) and m.key not in model.inputs:
        raise ValueError(f"scheme {settings.scheme!r} feeds tokens of {m.key!r} back, but this model does not read them; only "
                         "'one-step' can draw them")
    if settings.guidance != 1 and (once or is_sequence(m)) and not model.config.num_register_tokens:
        remedy = " in one round; leave it at 1, or take more rounds" if once else "; leave it at 1"
        raise ValueError(f"guidance is {settings.guidance:g}, but this model has no registers, so that without the inputs "
                         f"there is nothing to see when {m.key!r} is drawn{remedy}")


def check_rows(tokens: Tokens, target: str, generators: Sequence[torch.Generator]) -> None:
    """Raises ValueError for a target among the inputs, and unless every object has a whole number of rows."""
    if target in tokens:
        raise ValueError(f"{target!r} is an input and the target; take it out of one")
    if not tokens:
        raise ValueError(f"there is no input to make {target!r} from")
    objects = len(next(iter(tokens.values())))
    if not generators or len(generators) % max(objects, 1):
        raise ValueError(f"there are {len(generators)} generators for {objects} objects; give as many for each")
