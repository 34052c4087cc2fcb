"""A catalogue from a model: one token after the other, each of the column whose turn it is.

Shape letters: B objects, R = B samples rows, n tokens so far, V ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from engine.codecs.catalog import COLUMNS, END, PAD, SHIFT, START
from engine.generation.draws import Settings, pick, uniforms
from engine.generation.grids import Round, check_rows, check_scheme, known_target
from engine.generation.reading import Tokens, encode
from engine.models.omni import Encoded, Omni
from engine.models.tokens import is_sequence


def generate(model: Omni, tokens: Tokens, hidden: Tokens, target: str, settings: Settings,
             generators: Sequence[torch.Generator], ranges: Sequence[int]) -> Iterator[Round]:
    """Draw a catalogue, given tokens (B, n) of other modalities, hidden where True: one `Round` a token, ids (R, all), padded.

    ranges: `CatalogCodec.ranges`, the first id of every column. Each source is five tokens, one of each column in turn,
    whatever the model would rather say; it may end only between sources and must where another would not fit, so that the
    codec can decode every draw. The inputs are encoded once. Scheme and steps are not looked at: a sequence has an order of
    its own. A row depends on its own generator alone, as in `grids.generate`.

    Raises KeyError for a target that the model does not predict; ValueError for one that is no sequence or among the inputs,
    and for guidance with a model without registers, which sees nothing without the inputs.
    """
    m = known_target(model, target)
    if not is_sequence(m):
        raise ValueError(f"{target!r} is no sequence; its tokens are drawn by generation.grids")
    check_rows(tokens, target, generators)
    check_scheme(model, m, settings)
    return _tokens(model, tokens, hidden, target, settings, generators, grammar(ranges, m.vocabulary))


def grammar(ranges: Sequence[int], vocabulary: int) -> Tensor:
    """Which ids may stand in each column, bool (5, V); the end may stand where a source would begin."""
    allowed = torch.zeros(len(COLUMNS), vocabulary, dtype=torch.bool)
    for column in range(len(COLUMNS)):
        allowed[column, SHIFT + ranges[column] : SHIFT + ranges[column + 1]] = True
    allowed[0, END] = True
    return allowed


def _tokens(model: Omni, tokens: Tokens, hidden: Tokens, target: str, settings: Settings,
            generators: Sequence[torch.Generator], allowed: Tensor) -> Iterator[Round]:
    longest, total = model.outputs[target].tokens, len(generators)
    given, alone = _contexts(model, tokens, hidden, settings, total)
    device = given.context.device
    allowed = allowed.to(device)
    ids = torch.full((total, longest), PAD, device=device)
    ids[:, 0] = START
    ended = torch.zeros(total, dtype=torch.bool, device=device)
    last = 1 + (longest - 2) // len(COLUMNS) * len(COLUMNS)  # where the end stands after as many sources as fit
    for at in range(1, last + 1):
        noise = uniforms(generators, 1, device)[:, 0]
        if at == last:
            drawn = torch.full((total,), END, device=device)
        else:
            logits = _next(model, given, target, ids[:, :at])
            if alone is not None:
                free = _next(model, alone, target, ids[:, :at])
                logits = free + settings.guidance * (logits - free)
            drawn = pick(logits.masked_fill(~allowed[(at - 1) % len(COLUMNS)], -torch.inf), noise, settings)
        ids = ids.clone()
        ids[:, at] = torch.where(ended, PAD, drawn)
        ended = ended | (drawn == END)
        done = bool(ended.all())
        yield Round(ids, ids != PAD, None, 1.0 if done else at / (last + 1))
        if done:
            return


def _contexts(model: Omni, tokens: Tokens, hidden: Tokens, settings: Settings, total: int) -> tuple[Encoded, Encoded | None]:
    """What the decoder attends to in each of the rows: the inputs, and, for guidance, nothing but registers."""
    with torch.inference_mode():
        given = encode(model, tokens, hidden)
        samples = total // len(given.context)
        repeated = given.repeated(samples)
        if settings.guidance == 1:
            return model.remember(repeated), None
        key, value = next(iter(tokens.items()))
        nothing = model.encode({key: value[:1].expand(total, *value.shape[1:])},
                               {key: torch.ones(total, *value.shape[1:], dtype=torch.bool)})
        return model.remember(repeated), model.remember(nothing)


def _next(model: Omni, encoded: Encoded, target: str, ids: Tensor) -> Tensor:
    """Logits (R, V), float32, of the token after ids (R, n)."""
    asked = torch.cat([ids, torch.full_like(ids[:, :1], PAD)], 1)  # the last is asked for and never read
    with torch.inference_mode():
        return model.decode(encoded, [target], sequences={target: asked})[target][:, -1].float()
