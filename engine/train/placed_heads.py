"""Heads of the decoder that look where they are asked: set before the first step of a run.

What a spectrum shows at a wavelength, another spectrograph's shows there, too. A decoder that is asked for the token at a place
should look at the input's token at that place, but gradients hardly find this: queries and keys must learn their halves of it
together, and the fixed positions of neighbours are nearly the same (after 11 million objects no head of ours did it). Mimetic
initialisation (Trockman & Kolter 2023, arXiv:2305.09828) begins attention where training would end; here a ridge regression
does so, which finds in a model's own vectors the waves of the position. Shape letters: B batch, n tokens, D width, K = D / H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.models.omni import Omni
from engine.models.tokens import position_table
from engine.train.masking import Layout
from engine.train.omni_step import Compact, MaskedOmni
from engine.train.token_data import TokenData

OBJECTS = 128  # that the regression sees, of each pair of modalities
LOOKED_AT = 4096  # rows among which they are searched
LOUD = 6.0  # root mean square of the values: what the head adds grows from nothing by steps of one size, times this
RIDGE = 1e-2  # of the mean square
# Of every second wave of a position, the shortest first: a quarter less alike at the neighbours, and soon not at all.
WAVES = (0.30, 0.25, 0.20, 0.10, 0.08, 0.04, 0.03)


def pairs_of(model: Omni, translations: Sequence[tuple[tuple[str, ...], str, float]]) -> list[tuple[str, str]]:
    """(read, asked for) with tokens of one codec that stand in a line: spectra."""
    known = {**model.inputs, **model.outputs}
    return [(source, target) for sources, target, _ in translations for source in sources
            if known[source].folder == known[target].folder and known[source].kind == "spectrum"]


@torch.no_grad()
def place_heads(module: MaskedOmni, pairs: Sequence[tuple[str, str]], data: TokenData, batch: Compact, weight: Tensor,
                blocks: int) -> None:
    """Set one head of the cross-attention of each of the last blocks: its queries and keys to the position, its values to
    the vectors of tokens (`OmniConfig.token_heads`), what it adds to nothing. It is the head without which the loss of a
    batch, with the weight (M,) of each modality, is smallest. Raises ValueError if there are no such pairs."""
    seen = [found for pair in pairs if (found := _tokens(*pair, data, module.layout)) is not None]
    if not seen:
        raise ValueError("heads are placed by pairs of spectra, as in --translate 'tok_spectrum_sdss>tok_spectrum_desi=0.3'; "
                         "no object has such a pair")
    model, heads = module.model, list(module.model.config.token_heads)
    last = model.config.decoder_depth - 1
    for number in range(last - len(heads), last - blocks, -1):  # nearest to the answer a head learns fastest
        head = _least_needed(module, number, batch, weight)
        queries, keys, whats = (torch.cat(parts) for parts in zip(*(_inside(model, number, *one) for one in seen), strict=True))
        _set(model, number, head, queries, keys, whats)
        heads.append(head)
        model.read_tokens(tuple(heads))


def _least_needed(module: MaskedOmni, number: int, batch: Compact, weight: Tensor) -> int:
    """The head of a block without which the loss is smallest."""
    block: Any = module.model.decoder[number]
    proj, losses = block.cross_attn.proj.weight, []
    for own in torch.arange(module.model.config.dim).chunk(block.cross_attn.heads):
        kept = proj[:, own].clone()
        proj[:, own] = 0
        losses.append(float((module(batch) * weight).sum()))
        proj[:, own] = kept
    return min(range(len(losses)), key=losses.__getitem__)


def _tokens(source: str, target: str, data: TokenData, layout: Layout) -> tuple[str, str, Tensor] | None:
    """Ids (B, n) of the source, of objects that have both, on the CPU."""
    ids, there = data.read(data.train[:LOOKED_AT])
    rows = there[:, layout.slices[source]].any(1) & there[:, layout.slices[target]].any(1)
    found = ids[rows][:OBJECTS, layout.slices[source]]
    return (source, target, found) if len(found) else None


def _inside(model: Omni, number: int, source: str, target: str, ids: Tensor) -> tuple[Tensor, ...]:
    """Of a block, for every place of every object: what queries are made of (B n, D) with the waves there (B n, K) behind it,
    the same of keys, and the vectors of the tokens (B n, D)."""
    block: Any = model.decoder[number]
    ids = ids.to(model.mask_token.device)
    caught: dict[str, list[Tensor]] = {"query": [], "context": []}
    hooks = [module.register_forward_hook(lambda _, __, out, name=name: caught[name].append(out))
             for name, module in (("query", block.query_norm), ("context", block.context_norm))]
    model.decode(model.encode({source: ids}), [target])
    for hook in hooks:
        hook.remove()
    size = model.config.dim // block.cross_attn.heads
    context = torch.cat(caught["context"])[:, -ids.shape[1] :]  # without registers
    query = torch.cat([q.expand(len(c), -1, -1) for q, c in zip(caught["query"], caught["context"], strict=True)])
    at_query, at_key = (_waves(model, key, size).to(ids.device).expand(len(ids), -1, -1) for key in (target, source))
    what = model.table(source, "encoder")(ids)
    parts = ((query, at_query), (context, at_key), (what,))
    return tuple(torch.cat(part, -1).flatten(0, 1) for part in parts)


def _waves(model: Omni, key: str, size: int) -> Tensor:
    """(n, K): waves of the positions, sines and cosines in turns, each as strong as it counts; then nothing."""
    width = model.config.dim
    sines, cosines = position_table({**model.inputs, **model.outputs}[key], width)[:, width // 2 :].chunk(2, 1)
    count = min(len(WAVES), size // 2, (sines.shape[1] + 1) // 2)
    strength = torch.tensor(WAVES[:count]).sqrt()
    waves = torch.stack([x[:, : 2 * count : 2] * strength for x in (sines, cosines)], -1).flatten(1)
    return torch.nn.functional.pad(waves, (0, size - 2 * count))


def _set(model: Omni, number: int, head: int, queries: Tensor, keys: Tensor, whats: Tensor) -> None:
    """The weights of one head: from vectors (B n, D) with what they should give behind them, and from tokens' vectors."""
    block: Any = model.decoder[number].cross_attn  # type: ignore[union-attr]
    width, size = model.config.dim, model.config.dim // block.heads
    own = slice(head * size, (head + 1) * size)
    block.q.weight[own] = _ridge(queries[:, :width], queries[:, width:])
    block.kv.weight[own] = _ridge(keys[:, :width], keys[:, width:])
    _, spread, main = torch.linalg.svd(whats - whats.mean(0), full_matrices=False)
    block.kv.weight[width + own.start : width + own.stop] = main[:size] * (LOUD * len(whats) ** 0.5 / spread[:size].mean())
    block.proj.weight[:, own] = 0


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """(K, D): the linear map, without a constant, that brings x (N, D) nearest to y (N, K)."""
    x, y = x.double(), y.double()
    square = x.T @ x / len(x)
    eye = torch.eye(x.shape[1]).to(x) * RIDGE * square.diagonal().mean()
    return torch.linalg.solve(square + eye, x.T @ y / len(x)).T.float()
