"""Token ids on their way in: which are allowed, which are hidden, and where each one stands.

Shape letters: B batch, n tokens of a modality, N tokens of all given modalities, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.modalities import Modality

PADDING = 0  # the id that fills up a sequence; never seen and never asked
SEQUENCE_ROWS = 512  # of the position table of a sequence, as the published files have it
TEMPERATURE = 10_000.0


def is_sequence(modality: Modality) -> bool:
    """Whether its tokens are a sequence of any length, read one after the other; all others fill a grid."""
    return modality.kind == "catalog"


# ---------------------------------------------------------------------------------------------------------- positions


def has_brightness(modality: Modality) -> bool:
    """Whether a token for the brightness stands before the grid of an image's tokens: they are one more than a square."""
    return modality.kind in ("image", "field") and math.isqrt(modality.tokens) ** 2 == modality.tokens - 1


def grid(modality: Modality) -> tuple[int, int]:
    """Rows and columns of its tokens, without the brightness: a square for images and fields, n x 1 for all else."""
    if modality.kind in ("image", "field"):
        side = math.isqrt(modality.tokens)
        return side, side
    return modality.tokens, 1


def _waves(places: Tensor, count: int) -> Tensor:
    """sin and cos of each place at `count` frequencies, (n, 2 count)."""
    frequencies = 1.0 / TEMPERATURE ** (torch.arange(count, dtype=torch.float32) / count)
    angles = places.to(torch.float32)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def has_level(modality: Modality) -> bool:
    """Whether the first token says how bright it is, on an even grid, and the others how that is distributed."""
    return modality.kind == "spectrum" or has_brightness(modality)


def position_table(modality: Modality, dim: int) -> Tensor:
    """The fixed position vectors of a modality, float32 (n, D), or (512, D) for a sequence.

    Token t of a grid of h rows has two coordinates, t // h and t % h, half the width each. On a square they are row and
    column; on an n x 1 grid the first is always 0, so that half of the width says nothing. A scalar stands at (0, 0). The
    brightness of an image, which comes first, stands nowhere: its vector is 0.
    """
    if is_sequence(modality):
        return _waves(torch.arange(SEQUENCE_ROWS, device="cpu"), dim // 2)
    rows, columns = grid(modality)
    t = torch.arange(rows * columns, device="cpu")
    table = torch.cat([_waves(t // rows, dim // 4), _waves(t % rows, dim // 4)], 1)
    return torch.cat([torch.zeros_like(table[:1]), table]) if has_brightness(modality) else table


def sequence_places(visible: Tensor) -> Tensor:
    """Places of the tokens of a sequence, (B, n): only what is visible (bool, (B, n)) counts."""
    return (visible.cumsum(1) - 1).clamp_min(0)


# ------------------------------------------------------------------------------------------------------------- checks


def check_inputs(modalities: Mapping[str, Modality], tokens: Mapping[str, Tensor], hidden: Mapping[str, Tensor] | None,
                 registers: int, device: torch.device) -> tuple[dict[str, Tensor], Tensor | None]:
    """Ids (B, n) int64 on the device, and what is visible of them all, bool (B, N), or None where nothing is hidden.

    The padding of a sequence hides itself. Raises KeyError for a modality that is not among the model's, ValueError for
    all else: a shape, type, id or number of tokens that does not fit, or a row that shows nothing.
    """
    if not isinstance(tokens, Mapping) or not tokens:
        raise ValueError(f"no tokens to read; give a dictionary of modality -> ids, of {', '.join(modalities)}")
    for key in tokens:
        _known(key, modalities, "an input")
    ids = {key: _ids(key, value, modalities[key], device) for key, value in tokens.items()}
    _same_rows(ids)
    _in_range(ids, modalities)
    return ids, _visible(ids, modalities, hidden or {}, registers)


def check_targets(modalities: Mapping[str, Modality], targets: Sequence[str], sequences: Mapping[str, Tensor] | None,
                  device: torch.device) -> dict[str, Tensor]:
    """The ids of the sequences among the targets, (B, n) int64: a sequence is asked for token by token, given those before.

    Raises KeyError for a modality that the model does not predict, ValueError for all else.
    """
    if isinstance(targets, str) or not targets:
        raise ValueError(f"targets is {targets!r}; give a list of modalities, of {', '.join(modalities)}")
    for key in (*targets, *(sequences or {})):
        _known(key, modalities, "an output")
    if len(set(targets)) < len(targets):
        raise ValueError(f"targets is {list(targets)}; each modality may be named once")
    wanted = [key for key in targets if is_sequence(modalities[key])]
    if set(wanted) != set(sequences or {}):
        raise ValueError(f"sequences has {sorted(sequences or {})}, but the targets that are sequences are {sorted(wanted)}; "
                         "give the ids of those, whose next tokens are asked for, and of no other")
    ids = {key: _ids(key, (sequences or {})[key], modalities[key], device) for key in wanted}
    for key, value in ids.items():
        if value.shape[1] < 2:
            raise ValueError(f"sequences[{key!r}] has {value.shape[1]} token; it needs two at least, "
                             "since each token is asked for given those before")
    _in_range(ids, modalities)
    if not torch.compiler.is_compiling():
        for key, value in ids.items():
            if bool(((value[:, :-1] == PADDING) & (value[:, 1:] != PADDING)).any()):
                raise ValueError(f"sequences[{key!r}] has padding ({PADDING}) before a token; padding belongs at the end")
    return ids


def _known(key: str, modalities: Mapping[str, Modality], role: str) -> None:
    if key not in modalities:
        raise KeyError(f"{key!r} is not {role} of this model; it has {', '.join(modalities)}")


def _columns(value: Tensor) -> Tensor:
    """(B,) as (B, 1)."""
    return value[:, None] if value.ndim == 1 else value


def _ids(key: str, value: Tensor, modality: Modality, device: torch.device) -> Tensor:
    """One modality's ids, checked for type and shape."""
    if not isinstance(value, Tensor):
        raise ValueError(f"the tokens of {key!r} are a {type(value).__name__}; give a tensor of whole numbers")
    if value.dtype == torch.bool or value.is_floating_point() or value.is_complex():
        raise ValueError(f"the tokens of {key!r} are {value.dtype}; give whole numbers (torch.int64)")
    value = _columns(value)
    most, sequence = modality.tokens, is_sequence(modality)
    if value.ndim != 2 or (not 1 <= value.shape[1] <= most if sequence else value.shape[1] != most):
        allowed = f"from 1 to {most}" if sequence else f"all {most}" if most > 1 else "1"
        raise ValueError(f"the tokens of {key!r} have shape {tuple(value.shape)}; give {allowed} for each object, as (B, n)")
    return value.to(device=device, dtype=torch.int64)


def _same_rows(ids: Mapping[str, Tensor]) -> None:
    rows = {key: value.shape[0] for key, value in ids.items()}
    if len(set(rows.values())) > 1 or 0 in rows.values():
        raise ValueError(f"the modalities have {rows} rows; each must have one row an object, the same objects in all")


def _in_range(ids: Mapping[str, Tensor], modalities: Mapping[str, Modality]) -> None:
    """One look at all ids (on an accelerator each look waits for it); a compiled graph takes them as they are."""
    if not ids or torch.compiler.is_compiling():
        return
    ends = torch.stack([torch.stack(value.aminmax()) for value in ids.values()]).tolist()
    for key, (low, high) in zip(ids, ends, strict=True):
        top = modalities[key].vocabulary - 1
        if low < 0 or high > top:
            raise ValueError(f"{key!r} has the id {low if low < 0 else high}; its ids go from 0 to {top}")


def _visible(ids: Mapping[str, Tensor], modalities: Mapping[str, Modality], hidden: Mapping[str, Tensor],
             registers: int) -> Tensor | None:
    """What is not hidden, bool (B, N); None where everything is visible."""
    for key, value in hidden.items():
        if key not in ids:
            raise KeyError(f"hidden has {key!r}, which is not among the tokens ({', '.join(ids)})")
        if not isinstance(value, Tensor) or value.dtype != torch.bool or _columns(value).shape != ids[key].shape:
            what = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"hidden[{key!r}] is {what}; give torch.bool of shape {tuple(ids[key].shape)}, True where hidden")
    if not hidden and not any(is_sequence(modalities[key]) for key in ids):
        return None
    parts = []
    for key, value in ids.items():
        visible = ~_columns(hidden[key]).to(value.device) if key in hidden else torch.ones_like(value, dtype=torch.bool)
        parts.append(visible & (value != PADDING) if is_sequence(modalities[key]) else visible)
    visible = torch.cat(parts, 1)
    if torch.compiler.is_compiling():
        return visible
    counts = visible.sum(1)
    least = int(counts.min())
    if least == 0 and registers == 0:
        rows = (counts == 0).nonzero().flatten().tolist()
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise ValueError(f"nothing is visible in row {shown}; leave at least one token of each object visible")
    return None if least == visible.shape[1] else visible
