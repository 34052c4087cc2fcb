"""The blocks of AION-1: attention within tokens and onto a context, and the perceptron behind it.

They are those of 4M (Mizrahi et al. 2023, sec. 3) with its options: SwiGLU (Shazeer 2020), norms of queries and keys
(Henry et al. 2020), no biases. Shape letters: B batch, T queries, N keys, D width, H heads, K = D / H. Modules bear the
names they have in the published files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.processor import fast_bfloat16, has_amx

SCORES = 4 << 20  # bytes of attention scores computed at a time in bfloat16 on a CPU
TILE = 16  # keys
EPS = 1e-6  # of all layer norms
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "SiLU": F.silu, "GELU": F.gelu, "ReLU": F.relu, "ReLU6": F.relu6, "LeakyReLU": F.leaky_relu, "ELU": F.elu, "SELU": F.selu,
    "CELU": F.celu, "Mish": F.mish, "Hardswish": F.hardswish, "Softplus": F.softplus, "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid}

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # queries (B, H, T, K), keys and values (B, H, N, K) -> (B, H, T, K)
Memory = tuple[Tensor, Tensor]  # keys and values (B, H, N, K) of some tokens


@dataclass(frozen=True)
class Span:
    """Tokens start to stop that see each other and nothing else; in a causal span none sees those after itself."""

    start: int
    stop: int
    causal: bool = False


def everywhere(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each query sees all keys (Vaswani et al. 2017, eq. 1)."""
    if _learning(q):
        return _learned(q, k, v)
    if _written_out(q):
        return _by_heads(q, k, v)
    return _filled_up(q, k, v) if _unlucky(q, k) else F.scaled_dot_product_attention(q, k, v)


def _learning(q: Tensor) -> bool:
    """Whether a gradient is wanted in bfloat16 on a CPU: there the fused kernel takes three times as long, forth and back, as
    plain products do; in float32 it takes as long."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad


def _learned(q: Tensor, k: Tensor, v: Tensor, unseen: Tensor | None = None) -> Tensor:
    """Attention in three plain products; unseen: what is added to the scores. Autocast would make a softmax of float32 copies;
    its sums are float32 anyway, and what is multiplied with the values bfloat16."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    with torch.autocast("cpu", enabled=False):
        return (scores if unseen is None else scores + unseen).softmax(-1) @ v


def _written_out(q: Tensor) -> bool:
    """Whether three plain products are faster than the fused kernel: in bfloat16 on a processor with fast vectors of it.

    There the kernel multiplies as if in float32, at half the speed. The sums of both ways are float32; what is rounded
    here and not there are the scores.
    """
    plain = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] > 1
    return plain and not torch.is_grad_enabled() and not torch.compiler.is_compiling() and fast_bfloat16() and not has_amx()


def _unlucky(q: Tensor, k: Tensor) -> bool:
    """Whether the fused kernel takes up to twice as long for these keys as for a few more: it multiplies tiles of them."""
    quick = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    return quick and k.shape[2] % TILE > 0 and 64 <= q.shape[2] <= k.shape[2] < 512 and not torch.compiler.is_compiling()


def _filled_up(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with keys filled up to whole tiles; nothing sees what is added."""
    keys, more = k.shape[2], -k.shape[2] % TILE
    added = torch.zeros(1, 1, 1, keys + more, dtype=q.dtype)
    added[..., keys:] = -torch.inf
    return F.scaled_dot_product_attention(q, F.pad(k, (0, 0, 0, more)), F.pad(v, (0, 0, 0, more)), added)


def _by_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention written out for some heads at a time, so that their scores fit into the cache: twice as fast as all at once,
    for which the system would clear fresh memory at every layer."""
    query, key, value = (x.flatten(0, 1) for x in (q * q.shape[-1] ** -0.5, k.transpose(-2, -1), v))
    out = torch.empty(query.shape[:2] + value.shape[2:], dtype=q.dtype, device=q.device)
    step = max(1, SCORES // (query.shape[1] * key.shape[2] * q.element_size()))
    for i in range(0, len(out), step):
        torch.bmm((query[i : i + step] @ key[i : i + step]).softmax(-1), value[i : i + step], out=out[i : i + step])
    return out.unflatten(0, q.shape[:2])


def where(seen: Tensor | None) -> Attend:
    """Attention to the keys that are seen: bool, of a shape that broadcasts to (B, H, T, N); None: all of them."""
    if seen is None:
        return everywhere

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not _learning(q):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        unseen = torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, -torch.inf)  # added: its gradient costs nothing
        return _learned(q, k, v, unseen)

    return attend


def joining(blocks: Sequence[Memory], start: int, attend: Attend) -> Attend:
    """Attention for one pass through all blocks: a block's keys and values are written into its own of `blocks`, behind the
    `start` that are there, and its tokens see all of them."""
    turn = iter(blocks)

    def joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, *written(next(turn), start, (k, v)))

    return joined


def written(memory: Memory, start: int, new: Memory) -> Memory:
    """The first keys and values of a memory with room for more, after the new ones were written behind `start` of them."""
    stop = start + new[0].shape[2]
    memory[0][:, :, start:stop], memory[1][:, :, start:stop] = new
    return memory[0][:, :, :stop], memory[1][:, :, :stop]


def average(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The plain mean of all values, (B, H, 1, K): what a softmax makes of equal scores, whatever the queries and keys."""
    return v.mean(2, keepdim=True)


def within(spans: Sequence[Span]) -> Attend:
    """Attention inside each span; together they cover all tokens, in order. A token alone sees itself: its own value."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = []
        for span in spans:
            q_own, k_own, v_own = (x[:, :, span.start : span.stop] for x in (q, k, v))
            if span.stop - span.start == 1:
                parts.append(v_own)
            elif span.causal:
                parts.append(F.scaled_dot_product_attention(q_own, k_own, v_own, is_causal=True))
            else:
                parts.append(everywhere(q_own, k_own, v_own))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    return attend


def layer_norm(width: int, bias: bool) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=EPS, bias=bias)


class HeadNorm(nn.LayerNorm):
    """A layer norm of short rows. On a CPU it takes and gives bfloat16, for which autocast would make copies in float32; its
    sums are float32 anyway, and what comes after it takes bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Leave a residual branch out in a share `rate` of the rows, in training (stochastic depth, Huang et al. 2016).

    Draws from torch's own generator, as any dropout does; nothing is drawn at rate 0 or in evaluation.
    """
    if rate == 0.0 or not training:
        return branch
    kept = torch.empty(branch.shape[0], 1, 1, dtype=branch.dtype, device=branch.device).bernoulli_(1 - rate)
    return branch * (kept / (1 - rate))


@dataclass(frozen=True)
class BlockSizes:
    """What all blocks of a model have in common."""

    dim: int
    heads: int
    hidden: int
    activation: str
    gated: bool
    norm_bias: bool
    qkv_bias: bool
    proj_bias: bool
    mlp_bias: bool
    qk_norm: bool

    def norm(self) -> nn.LayerNorm:
        return layer_norm(self.dim, self.norm_bias)

    def head_norm(self) -> nn.Module:
        """A norm over the K numbers of a head, the same for all heads; nothing where the model has none."""
        return HeadNorm(self.dim // self.heads, eps=EPS, bias=self.norm_bias) if self.qk_norm else nn.Identity()


class SelfAttention(nn.Module):
    """Attention among tokens: (B, T, D) -> (B, T, D), or (B, 1, D) if `attend` is `average`."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.qkv = nn.Linear(sizes.dim, 3 * sizes.dim, bias=sizes.qkv_bias)
        self.q_norm, self.k_norm = sizes.head_norm(), sizes.head_norm()
        self.proj = nn.Linear(sizes.dim, sizes.dim, bias=sizes.proj_bias)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2)  # (B, T, H, K) each
        seen = attend(self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2), v.transpose(1, 2))
        return self.proj(seen.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of tokens (B, T, D), or (1, T, D) if they are the same for all rows, onto a context (B, N, D)."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.token_head: int | None = None  # the head whose values are made of the tokens' own vectors
        self.q = nn.Linear(sizes.dim, sizes.dim, bias=sizes.qkv_bias)
        self.kv = nn.Linear(sizes.dim, 2 * sizes.dim, bias=sizes.qkv_bias)
        self.q_norm, self.k_norm = sizes.head_norm(), sizes.head_norm()
        self.proj = nn.Linear(sizes.dim, sizes.dim, bias=sizes.proj_bias)

    def memory(self, context: Tensor, tokens: Tensor | None = None) -> Memory:
        """Keys and values (B, H, N, K) of a context (B, N, D): all that attention needs to know of it. tokens: (B, N, D), what
        the values of `token_head` are made of."""
        k, v = self.kv(context).unflatten(2, (2, self.heads, -1)).unbind(2)
        if self.token_head is not None:
            if tokens is None:
                raise ValueError("a head reads the vectors of the tokens, but the context came without them")
            h, own = self.token_head, (self.heads + self.token_head) * v.shape[-1]
            bias = None if self.kv.bias is None else self.kv.bias[own : own + v.shape[-1]]
            said = F.linear(tokens, self.kv.weight[own : own + v.shape[-1]], bias)
            v = torch.cat([v[:, :, :h], said[:, :, None].to(v.dtype), v[:, :, h + 1 :]], 2)
        return self.k_norm(k).transpose(1, 2), v.transpose(1, 2)

    def forward(self, x: Tensor, memory: Memory, attend: Attend) -> Tensor:
        k, v = memory
        q = self.q_norm(self.q(x).unflatten(2, (self.heads, -1))).transpose(1, 2)
        return self.proj(attend(q.expand(k.shape[0], -1, -1, -1), k, v).transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """fc2(act(fc1 x)), or fc2(act(fc1 x) * fc3 x) where it is gated: (B, T, D) -> (B, T, D)."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[sizes.activation]
        self.fc1 = nn.Linear(sizes.dim, sizes.hidden, bias=sizes.mlp_bias)
        self.fc2 = nn.Linear(sizes.hidden, sizes.dim, bias=sizes.mlp_bias)
        self.fc3 = nn.Linear(sizes.dim, sizes.hidden, bias=sizes.mlp_bias) if sizes.gated else None

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # once for both
        hidden = self.activation(self.fc1(x))
        return self.fc2(hidden if self.fc3 is None else hidden * self.fc3(x))


class EncoderBlock(nn.Module):
    """Attention among tokens, then a perceptron, each of the normed tokens and added to them."""

    def __init__(self, sizes: BlockSizes, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.norm1, self.attn = sizes.norm(), SelfAttention(sizes)
        self.norm2, self.mlp = sizes.norm(), Perceptron(sizes)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        x = x + drop_path(self.attn(self.norm1(x), attend), self.drop, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop, self.training)


class DecoderBlock(nn.Module):
    """Attention among the target tokens, onto the context, then a perceptron, each added."""

    def __init__(self, sizes: BlockSizes, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.norm1, self.self_attn = sizes.norm(), SelfAttention(sizes)
        self.query_norm, self.context_norm, self.cross_attn = sizes.norm(), sizes.norm(), CrossAttention(sizes)
        self.norm2, self.mlp = sizes.norm(), Perceptron(sizes)

    def memory(self, context: Tensor, tokens: Tensor | None = None) -> Memory:
        """Keys and values of the context (B, N, D), and the vectors of its tokens, for this block."""
        return self.cross_attn.memory(self.context_norm(context), tokens)

    def forward(self, x: Tensor, context: Tensor, among: Attend, onto: Attend,
                memory: Memory | None = None, tokens: Tensor | None = None) -> Tensor:
        """x: (B, T, D), or (1, T, D) while all rows are the same -> (B, T, D); `among` its tokens, `onto` the context.

        memory: what `memory` made of the context, and of its tokens, before.
        """
        memory = self.memory(context, tokens) if memory is None else memory
        x = x + drop_path(self.self_attn(self.norm1(x), among), self.drop, self.training)
        x = x + drop_path(self.cross_attn(self.query_norm(x), memory, onto), self.drop, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop, self.training)
