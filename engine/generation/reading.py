"""What a model says of a target from inputs, and from those of the target's tokens that are known: round by round.

Tokens that become known join what was read, each once (`Omni.extend`), so that many rounds cost little more than one. Or, as in
training, where attention goes both ways, all are read again in every round, at the price of an encoder's pass each.
Shape letters: B objects, r rows, each of one of them, n tokens of the target, t of them at some places, V ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.models.calibration import calibrated
from engine.models.omni import Encoded, Omni
from engine.models.spreading import unspread

Tokens = Mapping[str, Tensor]
Some = slice | Tensor  # of the objects: a part of them, or the number of each row's


@dataclass(frozen=True)
class Reading:
    """A model, tokens (B, n) of inputs, hidden where True, and what is asked for. cache: each token is read once."""

    model: Omni
    tokens: Tokens
    hidden: Tokens
    target: str
    cache: bool

    def start(self, objects: Some, more: bool = True) -> Encoded:
        """What the decoder attends to before anything of the target is known; more: something will be."""
        return self._encode(_rows(self.tokens, objects), _rows(self.hidden, objects), more)

    def nothing(self, more: bool = True) -> Encoded | None:
        """The same without inputs: registers, (1, N, D); None for a model that has none."""
        if not self.model.config.num_register_tokens:
            return None
        key, value = next(iter(self.tokens.items()))
        return self._encode({key: value[:1]}, {key: torch.ones_like(value[:1], dtype=torch.bool)}, more)

    def joined(self, before: Encoded | None, objects: Some | None, ids: Tensor, known: Tensor, latest: Tensor) -> Encoded:
        """What the decoder attends to with known ones among ids (r, n), the latest of them at places (r, t); objects: None for
        rows without inputs; before: what it attended to before, None if there was nothing."""
        if before is not None and self.cache:
            with torch.inference_mode():
                return self.model.extend(before, self.target, ids.gather(1, latest), latest)
        tokens, hidden = ({} if objects is None else _rows(of, objects) for of in (self.tokens, self.hidden))
        return self._encode(tokens | {self.target: ids}, hidden | {self.target: ~known}, True)

    def says(self, given: Encoded, places: Tensor | None = None) -> Tensor:
        """Logits (r, n, V), float32, of all tokens, or (r, t, V) of those at places (r, t)."""
        with torch.inference_mode():
            return says(self.model, given, self.target, places)

    def _encode(self, tokens: Tokens, hidden: Tokens, more: bool) -> Encoded:
        with torch.inference_mode():
            return encode(self.model, tokens, hidden, self.model.outputs[self.target].tokens if more and self.cache else None)


def log_likelihood(reading: Reading, objects: Tensor | None, ids: Tensor, order: Tensor, rounds: Sequence[int]) -> Tensor:
    """log p of each of ids (r, n), given the inputs of its row's object and the tokens of the rounds before; they become known
    in an order (r, n), so many a round, both on the model's device. objects: (r,), None for rows without inputs; the first
    round is then NaN in a model without registers."""
    more = len(rounds) > 1
    given = reading.nothing(more) if objects is None else reading.start(slice(None), more)
    given = None if given is None else given.rows(torch.zeros(len(ids), dtype=torch.long) if objects is None else objects)
    said, known = torch.full(ids.shape, torch.nan, device=ids.device), torch.zeros_like(ids, dtype=torch.bool)
    at, done = order[:, :0], 0
    for i, count in enumerate(rounds):
        given = reading.joined(given, objects, ids, known, at) if i else given
        at, done = order[:, done : done + count], done + count
        if given is not None:
            said.scatter_(1, at, reading.says(given, at).log_softmax(-1).gather(2, ids.gather(1, at)[..., None])[..., 0])
        known = known.scatter(1, at, True)
    return said


def predict(model: Omni, tokens: Tokens, hidden: Tokens, targets: Sequence[str]) -> dict[str, Tensor]:
    """What the inputs say of several targets, each by itself: target -> logits (B, n, V), float32.

    The inputs are encoded once, and several targets share the keys and values that the decoder makes of them
    (`Omni.remember`). Raises what `Omni.encode` and `Omni.decode` raise.
    """
    with torch.inference_mode():
        encoded = encode(model, tokens, hidden)
        encoded = model.remember(encoded) if len(targets) > 1 else encoded
        return {target: says(model, encoded, target) for target in targets}


def says(model: Omni, encoded: Encoded, target: str, places: Tensor | None = None) -> Tensor:
    """Logits (B, n, V), float32, of what was asked for in training; labels that were spread there are brought back, and the
    distribution of a number is as sure as it was found to be right."""
    logits = model.decode(encoded, [target], places=None if places is None else {target: places})[target].float()
    soften = model.config.soften if model.outputs[target].codec == "grid" else 0.0
    logits = unspread(logits, soften) if soften else logits
    return calibrated(logits, model.config.calibration[target]) if target in model.config.calibration else logits


def encode(model: Omni, tokens: Tokens, hidden: Tokens, room: int | None = None) -> Encoded:
    """`Omni.encode` without the modalities that every row hides, unless that is all of them."""
    used = [key for key in tokens if key not in hidden or not bool(hidden[key].all())] or list(tokens)[:1]
    return model.encode({key: tokens[key] for key in used}, {key: hidden[key] for key in used if key in hidden}, room)


def _rows(of: Tokens, objects: Some) -> dict[str, Tensor]:
    return {key: value[objects] for key, value in of.items()}
