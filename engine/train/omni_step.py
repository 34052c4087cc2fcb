"""The forward pass of masked training: the transformer on the chosen tokens alone, and the loss of each modality.

The same network as `Omni.logits` (a test compares them), but what is neither read nor asked for is never computed: the
encoder sees K tokens and the decoder T, of a thousand that an object may have. Shape letters: B batch, K inputs, T targets,
N places, M modalities, R registers, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from engine.models.attention import where
from engine.models.omni import Embedding, Omni
from engine.models.spreading import spread
from engine.models.tokens import has_level, position_table
from engine.train.masking import Chosen, Layout

LOSSES = ("modality", "group", "token")
LEVEL = 2.0  # bins a level is spread over where labels are softened: .02 mag of an image, 1.5 % of a spectrum
REACH = 6  # bins to either side
FEW = 64  # rows of a table
ROWS = 64  # products of as many rows as never before cost a CPU 5 to 10 ms more, which it takes to make a program for them


@dataclass(frozen=True)
class Compact:
    """The chosen tokens of a batch. Of inputs (B, K) and targets (B, T): places, ids and which of them count.

    before: (B, T) the id before a sequence's target, 0 elsewhere. by_target: the order (B T,) in which those of a modality lie
    together, and how many each of them has; targets that do not count come last.
    """

    inputs: Tensor
    input_ids: Tensor
    inputs_kept: Tensor
    targets: Tensor
    target_ids: Tensor
    targets_kept: Tensor
    before: Tensor
    by_target: Tensor
    target_counts: tuple[int, ...]
    ragged: bool  # some row reads fewer than K

    def map(self, change: Callable[[Tensor], Tensor]) -> Compact:
        changed: dict[str, Any] = {f.name: change(value) for f in fields(self)
                                   if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, **changed)

    def to(self, device: torch.device) -> Compact:
        return self.map(lambda x: x.to(device, non_blocking=True))


def compact(ids: Tensor, chosen: Chosen, layout: Layout) -> Compact:
    """The chosen ones of all tokens; ids: (B, N), anything where an object has none."""
    m = len(layout.keys)
    follows = torch.zeros(layout.places, dtype=torch.long)
    for own in layout.sequences.values():
        follows[own] = 1  # the last place of a sequence is never asked for
    shift = follows[chosen.targets]
    target_ids = ids.gather(1, chosen.targets + shift * chosen.targets_kept).masked_fill(~chosen.targets_kept, 0)
    before = ids.gather(1, chosen.targets).masked_fill(~(chosen.targets_kept & shift.bool()), 0)
    of_target = layout.modality[chosen.targets].masked_fill(~chosen.targets_kept, m).flatten()
    return Compact(
        inputs=chosen.inputs, input_ids=ids.gather(1, chosen.inputs).masked_fill(~chosen.inputs_kept, 0),
        inputs_kept=chosen.inputs_kept, targets=chosen.targets, target_ids=target_ids, targets_kept=chosen.targets_kept,
        before=before, by_target=of_target.argsort(stable=True),
        target_counts=tuple(of_target.bincount(minlength=m + 1).tolist()), ragged=not bool(chosen.inputs_kept.all()))


def weights(counts: Tensor, loss: str, layout: Layout) -> Tensor:
    """(M,) float: what each modality's summed cross-entropy is multiplied with; counts: (M,) targets of the whole batch.

    "modality": the mean over modalities that have targets of their mean over tokens; "group": the same for each group first,
    which the numbers of a catalogue are together, so that they do not outweigh images; "token": the mean over tokens.
    """
    if loss == "token":
        return torch.full_like(counts, 1.0, dtype=torch.float32) / counts.sum().clamp_min(1)
    there = (counts > 0).float()
    group = layout.loss_group if loss == "group" else torch.arange(len(counts))
    members = torch.zeros(len(counts)).index_add_(0, group, there)
    return there / (counts.clamp_min(1) * members[group].clamp_min(1) * (members > 0).sum().clamp_min(1))


class _Rows(torch.autograd.Function):
    """Rows of a table, as `F.embedding`, whose gradient on a GPU waits until it has counted ids; this one never waits."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows = len(table)
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        ids, gradient = ctx.saved_tensors[0].flatten(), gradients[0].flatten(0, -2)
        if ctx.rows <= FEW:  # many would wait for the same rows to be free
            return None, (ids == torch.arange(ctx.rows, device=ids.device)[:, None]).to(gradient.dtype) @ gradient
        return None, gradient.new_zeros(ctx.rows, gradient.shape[1]).index_add_(0, ids, gradient)


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """Rows (..., D) of a table (V, D)."""
    return cast(Tensor, _Rows.apply(ids, table)) if ids.is_cuda else F.embedding(ids, table)  # type: ignore[no-untyped-call]


class MaskedOmni(nn.Module):
    """A transformer with the loss of its masked training: `forward` gives the sum of cross-entropies of each modality.

    through: what runs the blocks, `blocks` or what a GPU has recorded of it.
    """

    positions: Tensor
    modality: Tensor
    starts: Tensor
    sequential: Tensor

    def __init__(self, model: Omni, soften: float = 0.0) -> None:
        """soften: standard deviation, in bins, of what a redshift is spread to as a target; unless it is 0, levels are, too."""
        super().__init__()
        self.model, self.layout = model, Layout(model.config)
        self.through: Callable[..., Tensor] = self.blocks
        rows = [position_table(model.config.modality(key), model.config.dim)[:n]
                for key, n in zip(self.layout.keys, self.layout.counts, strict=True)]
        device = model.mask_token.device
        self.register_buffer("positions", torch.cat(rows).to(device), persistent=False)
        self.register_buffer("modality", self.layout.modality.to(device), persistent=False)
        sequential = torch.tensor([*(key in self.layout.sequences for key in self.layout.keys), False])
        self.register_buffer("sequential", sequential.to(device), persistent=False)
        tables = self._tables()
        starts = torch.tensor([0, *(len(table) for table in tables)]).cumsum(0)
        first = [next(i for i, table in enumerate(tables) if table is model.table(key, "encoder").weight)
                 if key in model.inputs else 0 for key in self.layout.keys]
        self.register_buffer("starts", starts[first].to(device), persistent=False)
        self.grids = [key for key in self.layout.keys if soften and model.config.modality(key).codec == "grid"]
        for key in self.grids:
            shares = spread(model.config.modality(key).vocabulary, soften).to(device)
            self.register_buffer(f"softened_{key}", shares, persistent=False)
        self.levels = {key: own.start for key, own in self.layout.slices.items()
                       if soften and has_level(model.config.modality(key))}

    def forward(self, batch: Compact) -> Tensor:
        """(M,) float32: the summed cross-entropy of the targets of each modality."""
        target_ids, places = (x.flatten()[batch.by_target].split(batch.target_counts)[:-1]
                              for x in (batch.target_ids, batch.targets))
        sums = [self._loss(key, logits.float(), ids, at)
                for key, logits, ids, at in zip(self.layout.keys, self.logits(batch), target_ids, places, strict=True)]
        return torch.stack(sums)

    def _loss(self, key: str, logits: Tensor, ids: Tensor, places: Tensor) -> Tensor:
        """The summed cross-entropy of logits (n, vocabulary) of ids (n,) that stand at places (n,)."""
        if key in self.grids:
            return F.cross_entropy(logits, F.embedding(ids, getattr(self, f"softened_{key}")), reduction="sum")
        if key not in self.levels:
            return F.cross_entropy(logits, ids, reduction="sum")
        bins = torch.arange(-REACH, REACH + 1, device=ids.device)
        bell = torch.exp(-0.5 * (bins / LEVEL) ** 2)
        shares = torch.where((places == self.levels[key])[:, None], bell / bell.sum(), (bins == 0).float())
        near = (ids[:, None] + bins).clamp(0, logits.shape[-1] - 1)
        return -(logits.log_softmax(-1).gather(1, near) * shares).sum()

    def logits(self, batch: Compact) -> list[Tensor]:
        """Of each modality (n, vocabulary), its targets in the order of `batch.by_target`."""
        place, tokens, seen = self._inputs(batch)
        y = self.through(place, tokens, seen, self._queries(batch), self._among(batch))
        parts = y.flatten(0, 1).index_select(0, batch.by_target).split(batch.target_counts)[:-1]
        return [self._to_logits(key, part) if key in self.model.outputs else part
                for key, part in zip(self.layout.keys, parts, strict=True)]

    def _to_logits(self, key: str, part: Tensor) -> Tensor:
        """As the model's, of rows filled up to a multiple of `ROWS` on a CPU."""
        more = 0 if part.is_cuda else -len(part) % ROWS
        return self.model.to_logits(key, F.pad(part, (0, 0, 0, more)))[: len(part)]

    def blocks(self, place: Tensor, tokens: Tensor, seen: Tensor | None, y: Tensor, among: Tensor) -> Tensor:
        """What logits are made of, (B, T, D). Of inputs, with registers, places and vectors (B, R + K, D) and which are seen,
        bool (B, 1, 1, R + K), or None for all; of targets the queries (B, T, D) and who sees whom, bool (B, 1, T, T)."""
        model, attend = self.model, where(seen)
        x = tokens + place
        for block in model.encoder:
            x = self._run(block, x, attend)
        context = model.decoder_proj_context(model.encoder_norm(x)) + place
        beside = where(among)
        for block in model.decoder:
            y = self._run(block, y, context, beside, attend, None, tokens)
        return model.decoder_norm(y)

    def _inputs(self, batch: Compact) -> tuple[Tensor, Tensor, Tensor | None]:
        """Place, vectors and which are seen, as `blocks` takes them."""
        model, c = self.model, self.model.config
        place = self._places(batch.inputs, decoder=False)
        # All in one, and all tables have a gradient in every step, so that processes that share the work agree on which do.
        tokens = rows_of(torch.cat(self._tables()), batch.input_ids + self.starts[self.modality[batch.inputs]])
        if model.register_tokens is not None:
            tokens = torch.cat([model.register_tokens.expand(tokens.shape[0], -1, -1), tokens], 1)
            place = F.pad(place, (0, 0, c.num_register_tokens, 0))
        masked = batch.ragged or place.is_cuda  # compiled blocks are one program for all batches
        seen = F.pad(batch.inputs_kept, (c.num_register_tokens, 0), value=True)[:, None, None] if masked else None
        return place, tokens, seen

    def _tables(self) -> list[Tensor]:
        """(V, D) each, all vectors of ids that the encoder reads, one after another; modalities may share one."""
        weights = (self.model.table(key, "encoder").weight for key in self.layout.keys if key in self.model.inputs)
        return list({id(weight): weight for weight in weights}.values())

    def _queries(self, batch: Compact) -> Tensor:
        """What the decoder starts from, (B, T, D)."""
        what: Tensor = self.model.mask_token
        for key in self.layout.sequences:  # a sequence's target is asked for by the token before it
            if key in self.model.outputs:
                own = (self.modality[batch.targets] == self.layout.keys.index(key)) & batch.targets_kept
                before = rows_of(self.model.table(key, "decoder").weight, batch.before.masked_fill(~own, 0))
                what = torch.where(own[..., None], before, what)
        return what + self._places(batch.targets, decoder=True)

    def _places(self, places: Tensor, decoder: bool) -> Tensor:
        """Position and modality vectors of places (B, n) -> (B, n, D)."""
        c = self.model.config
        vectors = []
        for key in self.layout.keys:
            ours = key in self.model.outputs if decoder else key in self.model.inputs
            shared = decoder or (c.share_modality_embeddings and key in self.model.outputs)
            vectors.append(self._of("decoder" if shared else "encoder", key).mod_emb[0] if ours
                           else torch.zeros_like(self.model.mask_token[0]))
        return F.embedding(places, self.positions) + rows_of(torch.cat(vectors), self.modality[places])

    def _among(self, batch: Compact) -> Tensor:
        """bool (B, 1, T, T): which targets see which, as `Omni.decode` with self_attention="full" lets them."""
        c, m = self.model.config, len(self.layout.keys)
        modality = self.modality[batch.targets].masked_fill(~batch.targets_kept, m)  # what does not count sees its like
        is_sequence = self.sequential[modality]
        same = modality[:, :, None] == modality[:, None, :]
        earlier = torch.ones_like(same).tril()
        if c.decoder_causal_mask:
            seen = same & earlier if c.decoder_sep_mask else earlier
        else:
            sequence = is_sequence[:, None, :]
            seen = (same & (earlier | ~sequence)) if c.decoder_sep_mask else torch.where(
                sequence, same & earlier, batch.targets_kept[:, None] | same)
        return seen[:, None]

    def _of(self, side: str, key: str) -> Embedding:
        tables = self.model.encoder_embeddings if side == "encoder" else self.model.decoder_embeddings
        return cast(Embedding, tables[key])

    def _run(self, block: nn.Module, *args: Any) -> Tensor:
        """A block; with use_act_checkpoint its inside is computed again for the gradient."""
        if self.model.config.use_act_checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)
