"""AION-1's transformer: tokens of any modalities in, logits of any others out (Parker et al. 2025, arXiv:2510.17960).

An encoder reads the tokens; a decoder asks it, with one query a target token (4M, Mizrahi et al. 2023, sec. 3):

    ids -> token vectors + place -> encoder -> encoder_norm -> decoder_proj_context -> + place, again = context
    mask token + place -> decoder (among the targets, then onto the context) -> decoder_norm -> to_logits

where the place of a token is a fixed sin-cos position and a learned vector of its modality.
Shape letters: B batch, n tokens of a modality, N registers and all input tokens, M the most that one row shows of them,
T target tokens, D width, H heads, K = D / H. Modules bear the names they have in the published files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from engine.modalities import MODALITIES, Modality
from engine.models import attention
from engine.models.attention import Attend, DecoderBlock, EncoderBlock, Memory, Span, average, everywhere, where, within
from engine.models.omni_config import OmniConfig
from engine.models.tokens import check_inputs, check_targets, grid, has_brightness, is_sequence, position_table, sequence_places

__all__ = ["Encoded", "Omni", "OmniConfig"]

SelfAttentionKind = Literal["full", "mean"]
Side = Literal["encoder", "decoder"]
CACHED_TOKENS = 2304  # computed at a time on a CPU: with many more the activations of a block leave its cache


@dataclass(frozen=True)
class Encoded:
    """What the decoder attends to.

    context: (B, N, D), zero where hidden; visible: bool (B, N); slices: "registers" (empty if the model has none), then the
    modalities in the order given -> their tokens among the N; complete: everything is visible; memory: see `Omni.remember`;
    kept: the same of the encoder's blocks, both with room for more tokens, see `Omni.extend`; tokens: (B, N, D), the vectors
    of the tokens themselves, in models with `token_heads`.
    """

    context: Tensor
    visible: Tensor
    slices: dict[str, slice]
    complete: bool = False
    memory: tuple[Memory, ...] | None = None
    kept: tuple[Memory, ...] | None = None
    tokens: Tensor | None = None

    def rows(self, some: slice | Tensor) -> Encoded:
        """The same for some of the batch, a slice of it or their numbers."""
        memory, kept = (None if each is None else tuple((k[some], v[some]) for k, v in each)
                        for each in (self.memory, self.kept))
        return replace(self, context=self.context[some], visible=self.visible[some], memory=memory, kept=kept,
                       tokens=None if self.tokens is None else self.tokens[some])

    def repeated(self, samples: int) -> Encoded:
        """Each row so many times, one after the other; before anything is remembered."""
        return replace(self, context=self.context.repeat_interleave(samples, 0),
                       visible=self.visible.repeat_interleave(samples, 0),
                       tokens=None if self.tokens is None else self.tokens.repeat_interleave(samples, 0))


class Embedding(nn.Module):
    """A modality's tables: token vectors, its own vector, and (on the way out) the vectors that give logits. With
    `share_tables` the first and last are one, which belongs to a codec."""

    token_emb: nn.Embedding
    mod_emb: Tensor
    to_logits: nn.Linear

    def __init__(self, modality: Modality, dim: int, tokens: bool, own: bool, out: bool) -> None:
        super().__init__()
        if tokens:  # Given its table, it draws none: on the meta device that would import a second of torch's Python.
            self.token_emb = nn.Embedding.from_pretrained(torch.empty(modality.vocabulary, dim), freeze=False)
        if own:
            self.mod_emb = nn.Parameter(torch.empty(1, 1, dim))
        if out:
            self.to_logits = nn.Linear(dim, modality.vocabulary, bias=False)


class Omni(nn.Module):
    """The transformer of AION-1. `encode` and `decode` are its halves, `logits` is both.

    A model is ready when constructed, filled from seed 0 (on torch's "meta" device it stays empty, for a reader of files).
    On a CPU in evaluation, a batch is computed in pieces that fit its cache.
    """

    def __init__(self, config: OmniConfig, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.config = c = config
        device = torch.get_default_device() if device is None else torch.device(device)
        self.inputs = {key: c.modality(key) for key in c.domains_in}
        self.outputs = {key: c.modality(key) for key in c.domains_out}
        with torch.device("meta"):  # nothing is drawn from torch's global generator
            apart = not c.share_tables
            folders = {m.folder: m for m in (*self.inputs.values(), *self.outputs.values())} if c.share_tables else {}
            self.tables = nn.ModuleDict({
                name: Embedding(m, c.dim, tokens=True, own=False, out=False) for name, m in folders.items()})
            self.encoder_embeddings = nn.ModuleDict({
                key: Embedding(m, c.dim, apart, own=not self._shares(key), out=False) for key, m in self.inputs.items()})
            # The decoder reads no tokens but those of sequences. The published files have tables of all, ours do not.
            self.decoder_embeddings = nn.ModuleDict({
                key: Embedding(m, c.dim, tokens=c.published or (apart and is_sequence(m)), own=True, out=apart)
                for key, m in self.outputs.items()})
            self.mask_token = nn.Parameter(torch.empty(1, 1, c.dim))
            registers = torch.empty(1, c.num_register_tokens, c.dim)
            self.register_tokens = nn.Parameter(registers) if c.num_register_tokens else None
            encoder_rates, decoder_rates = c.drop_rates
            self.encoder = nn.ModuleList([EncoderBlock(c.blocks, rate) for rate in encoder_rates])
            self.encoder_norm = c.blocks.norm()
            self.decoder_proj_context = nn.Linear(c.dim, c.dim)
            self.decoder = nn.ModuleList([DecoderBlock(c.blocks, rate) for rate in decoder_rates])
            self.decoder_norm = c.blocks.norm()
        self.read_tokens(c.token_heads)
        if device.type != "meta":
            self.to_empty(device=device)
            self.init_weights(0)

    def read_tokens(self, heads: tuple[int, ...]) -> None:
        """In the last blocks of the decoder let these heads have the tokens' own vectors for values: see `OmniConfig`."""
        self.config = replace(self.config, token_heads=heads)
        for block, head in zip(reversed(self.decoder), heads, strict=False):
            cast(DecoderBlock, block).cross_attn.token_head = head

    # --------------------------------------------------------------------------------------------------------- start

    def init_weights(self, seed: int) -> None:
        """Fill every tensor from one seed, the same on every device, in the order of `named_parameters`.

        | tensor                                                            | start                                      |
        |-------------------------------------------------------------------|--------------------------------------------|
        | token_emb of all modalities, or of all codecs (share_tables)      | normal, 0.02                               |
        | mod_emb (the decoder's serves the encoder too if they are shared) | normal, 0.02                               |
        | mask_token, register_tokens                                       | normal, 0.02                               |
        | to_logits; q, proj, fc1, fc2, fc3; decoder_proj_context           | uniform, sqrt(6 / (inputs + outputs))      |
        | qkv, kv                                                           | the same, for each of q, k, v by itself    |
        | weights of norms (also q_norm, k_norm)                            | 1                                          |
        | all biases                                                        | 0                                          |
        | positions                                                         | sin-cos, fixed: `tokens.position_table`    |

        Uniform: Glorot & Bengio 2010, eq. 16, as in MAE (He et al. 2022, app. A.1) and 4M.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.ndim == 1:
                    p.fill_(1.0 if name.endswith("weight") else 0.0)
                    continue
                values = torch.empty(p.shape, dtype=torch.float32, device="cpu")
                if name.endswith(("token_emb.weight", "mod_emb", "mask_token", "register_tokens")):
                    values.normal_(0.0, 0.02, generator=generator)
                else:
                    parts = 3 if name.endswith("qkv.weight") else 2 if name.endswith("kv.weight") else 1
                    bound = math.sqrt(6 / (p.shape[0] // parts + p.shape[1]))
                    values.uniform_(-bound, bound, generator=generator)
                p.copy_(values)
        self.fill_positions()

    def fill_positions(self) -> None:
        """Compute the position tables, one for all modalities on the same grid, where the weights are."""
        like = self.mask_token
        tables = {_table_name(m): m for m in (*self.inputs.values(), *self.outputs.values())}
        for name, m in tables.items():
            table = position_table(m, self.config.dim).to(like.device, like.dtype)
            self.register_buffer(name, table, persistent=False)

    # -------------------------------------------------------------------------------------------------------- tables

    def table(self, key: str, side: Side) -> nn.Embedding:
        """Ids of a modality -> their vectors (..., D), as the encoder or the decoder reads them."""
        if self.config.share_tables:
            return _of(self.tables, MODALITIES[key].folder).token_emb
        return _of(self.encoder_embeddings if side == "encoder" else self.decoder_embeddings, key).token_emb

    def to_logits(self, key: str, y: Tensor) -> Tensor:
        """The decoder's answers (..., D) -> logits of a modality (..., vocabulary)."""
        if self.config.share_tables:  # what an id is when read is what it is compared with when asked for
            return F.linear(y, self.table(key, "decoder").weight)
        return _of(self.decoder_embeddings, key).to_logits(y)

    def _shares(self, key: str) -> bool:
        """Whether the modality's vector is one for encoder and decoder; it is then kept with the decoder, as in the files."""
        return self.config.share_modality_embeddings and key in self.config.domains_out

    def _owner(self, key: str) -> Embedding:
        """Where the encoder finds the modality's vector."""
        return _of(self.decoder_embeddings if self._shares(key) else self.encoder_embeddings, key)

    # -------------------------------------------------------------------------------------------------------- encode

    def encode(self, tokens: Mapping[str, Tensor], hidden: Mapping[str, Tensor] | None = None, room: int | None = None
               ) -> Encoded:
        """Read tokens: modality -> ids, integer (B, n), or (B,) for a scalar; hidden: modality -> bool (B, n), True = hidden.

        All tokens are read, whatever their number, and keep their place; hidden ones change nothing of the others, and rows
        may hide different ones. The padding (id 0) of a catalogue hides itself. room: so many tokens may join later, by
        `extend`; what is visible is then moved together, and no `slices` tell where. Raises KeyError for an unknown modality;
        ValueError for ids of another type, shape or range, and for a row that shows nothing.
        """
        ids, visible = check_inputs(self.inputs, tokens, hidden, self.config.num_register_tokens, self.mask_token.device)
        slices, stop = {"registers": slice(0, self.config.num_register_tokens)}, self.config.num_register_tokens
        for key, value in ids.items():
            slices[key] = slice(stop, stop := stop + value.shape[1])
        if visible is not None:
            visible = F.pad(visible, (self.config.num_register_tokens, 0), value=True)
        batch = next(iter(ids.values())).shape[0]
        if room is not None:
            return self._with_room(ids, slices, visible, room)
        pieces = [self._read(_rows(ids, rows), slices, None if visible is None else visible[rows])
                  for rows in self._pieces(batch, stop)]
        context = torch.cat([piece[0] for piece in pieces]) if len(pieces) > 1 else pieces[0][0]
        what = torch.cat([cast(Tensor, piece[1]) for piece in pieces]) if self.config.token_heads else None
        shown = torch.ones(batch, stop, dtype=torch.bool, device=context.device) if visible is None else visible
        return Encoded(context, shown, slices, complete=visible is None, tokens=what)

    def _read(self, ids: dict[str, Tensor], slices: dict[str, slice], visible: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The context (B, N, D) of ids (B, n) of which bool (B, N) is visible (None: all), and, if a head reads them, the
        vectors of the tokens (B, N, D)."""
        what, place = self._embed(ids, slices, visible)
        packing = None if visible is None else _Packing.of(visible)
        x = what
        if packing is not None:
            x, place = packing.pack(x), packing.pack(place)
        context = self._context(x + place, place, where(None if packing is None else packing.seen))
        tokens = what.expand(len(context), -1, -1) if self.config.token_heads else None
        return context if packing is None else packing.unpack(context), tokens

    def _with_room(self, ids: dict[str, Tensor], slices: dict[str, slice], visible: Tensor | None, room: int) -> Encoded:
        """`encode` for `extend`: hidden tokens are left out, and what is visible is moved together."""
        batch = next(iter(ids.values())).shape[0]
        what, place = (part.expand(batch, -1, -1) for part in self._embed(ids, slices, visible))
        packing = None if visible is None else _Packing.of(visible)
        if packing is None:
            shown, seen = torch.ones(what.shape[:2], dtype=torch.bool, device=what.device), None
        else:
            what, place, shown, seen = packing.pack(what), packing.pack(place), packing.kept, packing.seen
        n = shown.shape[1]
        kept, memory = (self._room(len(blocks), batch, n + room) for blocks in (self.encoder, self.decoder))
        context = torch.empty_like(what)
        for rows in self._pieces(batch, n):
            attend = attention.joining([(k[rows], v[rows]) for k, v in kept], 0, where(None if seen is None else seen[rows]))
            context[rows] = self._context(what[rows] + place[rows], place[rows], attend)
        context = context.masked_fill(~shown[..., None], 0)
        tokens = what if self.config.token_heads else None
        self._remember_more(memory, 0, context, tokens)
        return Encoded(context, shown, {}, complete=seen is None, memory=memory, kept=kept, tokens=tokens)

    def _room(self, blocks: int, batch: int, tokens: int) -> tuple[Memory, ...]:
        """Empty keys and values of so many blocks and tokens."""
        like, heads = self.mask_token, self.config.num_heads
        shape = batch, heads, tokens, self.config.dim // heads
        return tuple((like.new_empty(shape), like.new_empty(shape)) for _ in range(blocks))

    def _context(self, x: Tensor, place: Tensor, attend: Attend) -> Tensor:
        """(B, N, D) of what tokens are, their place added, and their place."""
        for block in self.encoder:
            x = self._run(block, x, attend)
        return self.decoder_proj_context(self.encoder_norm(x)) + place

    def extend(self, encoded: Encoded, key: str, ids: Tensor, places: Tensor) -> Encoded:
        """What `encode` made with room, with tokens joined: ids (B, t) of a grid at places (B, t), both integer.

        The new tokens see each other and all before them; those before stay as they were read. So every token is read once,
        at the price that what is read first does not know what comes later, as with the cached keys and values of language
        models; in training all tokens saw all others. They are written into the room of `encoded`, which can be extended once,
        without gradients; both take 2 N D numbers a row in every block of encoder and decoder. Raises KeyError for a modality
        that the model does not read; ValueError for a sequence, and where there is no room.
        """
        if key not in self.inputs or is_sequence(self.inputs[key]):
            raise (ValueError if key in self.inputs else KeyError)(f"{key!r} is no grid that this model reads")
        start, stop = encoded.visible.shape[1], encoded.visible.shape[1] + ids.shape[1]
        if encoded.kept is None or encoded.memory is None or encoded.kept[0][0].shape[2] < stop:
            raise ValueError(f"there is no room for {ids.shape[1]} tokens of {key!r}; encode with room for them")
        what = self.table(key, "encoder")(ids)
        place = F.embedding(places, self.get_buffer(_table_name(self.inputs[key]))) + self._owner(key).mod_emb
        visible = torch.cat([encoded.visible, torch.ones_like(ids, dtype=torch.bool)], 1)
        attend = where(None if encoded.complete else visible[:, None, None, :])
        context = self._context(what + place, place, attention.joining(encoded.kept, start, attend))
        self._remember_more(encoded.memory, start, context, what)
        return replace(encoded, context=torch.cat([encoded.context, context], 1), visible=visible,
                       tokens=None if encoded.tokens is None else torch.cat([encoded.tokens, what], 1))

    def _embed(self, ids: dict[str, Tensor], slices: dict[str, slice], visible: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the tokens are, (B, N, D), and their place, (B, N, D), or (1, N, D) where it is the same in all rows."""
        what: list[Tensor] = []
        place: list[Tensor] = []
        if self.register_tokens is not None:
            what.append(self.register_tokens)
            place.append(torch.zeros_like(self.register_tokens))
        for key, value in ids.items():
            m = self.inputs[key]
            positions = self.get_buffer(_table_name(m))
            if is_sequence(m) and visible is not None:
                positions = positions[sequence_places(visible[:, slices[key]])]
            else:
                positions = positions[None, : value.shape[1]]
            what.append(self.table(key, "encoder")(value))
            place.append(positions + self._owner(key).mod_emb)
        return _join(what), _join(place)

    # -------------------------------------------------------------------------------------------------------- decode

    def decode(self, encoded: Encoded, targets: Sequence[str], self_attention: SelfAttentionKind = "full",
               sequences: Mapping[str, Tensor] | None = None, places: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Logits of the targets, modality -> (B, n, vocabulary), in the model's dtype.

        places: modality -> integer (B, t), the only tokens of it that are asked for; the logits are theirs, (B, t, vocabulary).
        As in training, what is not asked for takes no part.

        self_attention says how target tokens see each other. "full", the right one: all of a modality (of all modalities, if
        not decoder_sep_mask), only earlier ones if decoder_causal_mask. "mean" is what the published package's forward does
        without decoder_causal_mask: a plain average over all tokens of all targets; for comparison with it.

        A catalogue is asked for as a sequence: sequences["catalog"] has its ids (B, n), padded with 0 at the end, and the
        logits (B, n - 1, vocabulary) are those of ids[:, 1:], each given the ids before it (none sees later ones, and the
        last id is never read). Raises KeyError for an unknown target; ValueError for all else that does not fit.
        """
        ids = self._check_targets(targets, self_attention, sequences)
        batch, inputs = encoded.context.shape[:2]
        for key, value in ids.items():
            if value.shape[0] != batch:
                raise ValueError(f"sequences[{key!r}] has {value.shape[0]} rows, but {batch} were encoded; give as many")
        slices, stop, places = {}, 0, places or {}
        if odd := [key for key in places if key not in targets or key in ids]:
            raise ValueError(f"places has {', '.join(odd)}; give places of targets that are no sequences")
        for key in targets:
            n = ids[key].shape[1] - 1 if key in ids else places[key].shape[1] if key in places else self.outputs[key].tokens
            slices[key] = slice(stop, stop := stop + n)
        among = self._among(slices, self_attention)
        pieces = [self._answers(encoded.rows(rows), _rows(ids, rows), _rows(dict(places), rows), slices, among)
                  for rows in self._pieces(batch, max(stop, inputs // 4))]  # few steps are taken with the context itself
        return pieces[0] if len(pieces) == 1 else {key: torch.cat([p[key] for p in pieces]) for key in targets}

    def logits(self, tokens: Mapping[str, Tensor], targets: Sequence[str], hidden: Mapping[str, Tensor] | None = None,
               self_attention: SelfAttentionKind = "full", sequences: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """`decode` of what `encode` makes of the tokens: modality -> (B, n, vocabulary)."""
        self._check_targets(targets, self_attention, sequences)  # before the long part
        return self.decode(self.encode(tokens, hidden), targets, self_attention, sequences)

    forward = logits

    def remember(self, encoded: Encoded) -> Encoded:
        """The same with the keys and values of every decoder block, 2 B N D numbers each: for many calls of `decode`."""
        return replace(encoded, memory=tuple(
            cast(DecoderBlock, block).memory(encoded.context, encoded.tokens) for block in self.decoder))

    def _remember_more(self, memory: Sequence[Memory], start: int, context: Tensor, tokens: Tensor | None) -> None:
        """Write the keys and values of more context behind those that are there."""
        for block, room in zip(self.decoder, memory, strict=True):
            attention.written(room, start, cast(DecoderBlock, block).memory(context, tokens))

    def _answers(self, encoded: Encoded, ids: dict[str, Tensor], places: dict[str, Tensor], slices: dict[str, slice],
                 among: Attend) -> dict[str, Tensor]:
        """Logits of the target tokens in `slices`; ids: of the sequences among them; places: of what is asked for in part."""
        context, tokens = encoded.context, encoded.tokens
        seen = None if encoded.complete else encoded.visible[:, None, None, :]
        if seen is not None and encoded.memory is None:
            packing = _Packing.of(encoded.visible)
            context, seen = packing.pack(context), packing.seen
            tokens = None if tokens is None else packing.pack(tokens)
        onto = where(seen)
        y = _join([self._queries(key, ids.get(key), places.get(key)) for key in slices])
        if self.training:  # dropped paths differ from row to row
            y = y.expand(context.shape[0], -1, -1)
        n = encoded.visible.shape[1]  # what is remembered may have room for more
        memory: Sequence[Memory | None] = [None] * len(self.decoder)
        if encoded.memory is not None:
            memory = [(k[:, :, :n], v[:, :, :n]) for k, v in encoded.memory]
        for block, known in zip(self.decoder, memory, strict=True):
            y = self._run(block, y, context, among, onto, known, tokens)
        y = self.decoder_norm(y)
        return {key: self.to_logits(key, y[:, own]) for key, own in slices.items()}

    def _queries(self, key: str, ids: Tensor | None, places: Tensor | None) -> Tensor:
        """What the decoder starts from: the mask token for a grid, (1, n, D), or (B, t, D) at some places; for a sequence the
        ids so far, (B, n - 1, D)."""
        what = self.mask_token if ids is None else self.table(key, "decoder")(ids[:, :-1])
        n = self.outputs[key].tokens if ids is None else what.shape[1]
        table = self.get_buffer(_table_name(self.outputs[key]))
        position = table[None, :n] if places is None else F.embedding(places, table)
        return what + (position + _of(self.decoder_embeddings, key).mod_emb)

    def _among(self, slices: dict[str, slice], kind: SelfAttentionKind) -> Attend:
        """How target tokens see each other."""
        c, total = self.config, max(own.stop for own in slices.values())
        if kind == "mean" and not c.decoder_causal_mask:
            return average
        sequences = [own for key, own in slices.items() if is_sequence(self.outputs[key])]
        if c.decoder_sep_mask:
            return within([Span(own.start, own.stop, c.decoder_causal_mask or own in sequences) for own in slices.values()])
        if c.decoder_causal_mask:
            return within([Span(0, total, causal=True)])
        if not sequences:
            return everywhere
        # Grids see grids; a token of a sequence also sees those before it. Nothing else sees a sequence, lest it tell
        # the sequence's own earlier tokens what comes.
        seen = torch.ones(total, total, dtype=torch.bool, device=self.mask_token.device)
        for own in sequences:
            seen[:, own] = False
            seen[own, own] = torch.ones_like(seen[own, own]).tril()
        return where(seen)

    # ------------------------------------------------------------------------------------------------------- plumbing

    def _check_targets(self, targets: Sequence[str], kind: str, sequences: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        if kind not in ("full", "mean"):
            raise ValueError(f"self_attention is {kind!r}; it must be 'full' or 'mean'")
        return check_targets(self.outputs, targets, sequences, self.mask_token.device)

    def _run(self, block: nn.Module, *args: Any) -> Tensor:
        """A block; in training with use_act_checkpoint its inside is computed again for the gradient."""
        if self.config.use_act_checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def _pieces(self, batch: int, tokens: int) -> list[slice]:
        """Rows to compute at a time: all of them, but on a CPU in evaluation only as many as its cache has room for."""
        if self.training or self.mask_token.device.type != "cpu" or torch.compiler.is_compiling():
            return [slice(0, batch)]
        step = max(1, CACHED_TOKENS // tokens)
        return [slice(start, min(start + step, batch)) for start in range(0, batch, step)]


@dataclass(frozen=True)
class _Packing:
    """The visible tokens of each row moved together, so that no work is done on hidden ones.

    order: (B, M) places of the visible tokens, then of hidden ones in the rows that show fewer than M (None: all stay where
    they are); kept: bool (B, M), which of those are visible; tokens: N; seen: a mask for attention, None if all are kept.
    """

    order: Tensor | None
    kept: Tensor
    tokens: int
    seen: Tensor | None

    @classmethod
    def of(cls, visible: Tensor) -> _Packing:
        tokens = visible.shape[1]
        if torch.compiler.is_compiling():  # a graph needs shapes that do not depend on what is hidden
            return cls(None, visible, tokens, visible[:, None, None, :])
        counts = visible.sum(1)
        most, least = int(counts.max()), int(counts.min())
        if most == tokens:
            order, kept = None, visible
        else:
            order = (~visible).byte().argsort(dim=1, stable=True)[:, :most]
            kept = visible.gather(1, order)
        return cls(order, kept, tokens, None if least == most else kept[:, None, None, :])

    def pack(self, x: Tensor) -> Tensor:
        """(1 or B, N, D) -> (B, M, D)."""
        return x if self.order is None else torch.take_along_dim(x, self.order[..., None], 1)

    def unpack(self, x: Tensor) -> Tensor:
        """(B, M, D) -> (B, N, D), zero where hidden."""
        x = x.masked_fill(~self.kept[..., None], 0)
        if self.order is None:
            return x
        return x.new_zeros(x.shape[0], self.tokens, x.shape[2]).scatter(1, self.order[..., None].expand_as(x), x)


def _table_name(m: Modality) -> str:
    """Of the buffer with a modality's positions: modalities on the same grid share it."""
    name = "positions_sequence" if is_sequence(m) else "positions_{}x{}".format(*grid(m))
    return name + "_and_brightness" if has_brightness(m) else name


def _of(embeddings: nn.ModuleDict, key: str) -> Embedding:
    return cast(Embedding, embeddings[key])


def _rows(ids: dict[str, Tensor], some: slice) -> dict[str, Tensor]:
    return {key: value[some] for key, value in ids.items()}


def _join(parts: list[Tensor]) -> Tensor:
    """(1 or B, n, D) each, joined along the tokens; what is the same for all rows is repeated only beside what is not."""
    rows = max(part.shape[0] for part in parts)
    return torch.cat([part.expand(rows, -1, -1) for part in parts], 1)
