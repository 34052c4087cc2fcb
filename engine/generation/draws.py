"""How tokens are drawn: how many a round, from which distribution, with noise that belongs to one row alone. torch only.

Shape letters: R rows (an object's samples side by side), n tokens of the target, V ids.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Scheme = Literal["roar", "maskgit", "one-step"]


@dataclass(frozen=True)
class Settings:
    """How to draw. Raises ValueError naming the setting, its value and what is allowed.

    scheme: "roar", open places in a random order (AION-1, arXiv:2510.17960, app. D): with a token a round and no cache the
    model's joint distribution, with several those of one round do not know of each other; "maskgit", the most confident first
    (Chang et al. 2022, arXiv:2202.04200, sec. 3.2): of what was drawn the likely stays, so that samples come out likelier than
    the model has them; "one-step", all at once, each as it would be drawn alone. steps: rounds at most (a target has no more
    than it has tokens; one-step takes one). temperature: divides the logits; 0 takes the most probable id. top_k, top_p: only
    the k most probable ids; only the fewest that hold the share p; both are counted before the temperature. guidance: w of
    classifier-free guidance, u + w (c - u), with c the logits given the inputs and u those without (Ho & Salimans 2022,
    arXiv:2207.12598, eq. 6 with its w less by one); 1 is none, 0 forgets the inputs. cache: every token is read once, without
    knowing of those that are drawn later; otherwise all are read again in every round.
    """

    scheme: Scheme = "roar"
    steps: int = 16
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0
    cache: bool = True

    def __post_init__(self) -> None:
        k, p = self.top_k, self.top_p
        for name, right, allowed in (
                ("scheme", self.scheme in get_args(Scheme), f"one of {', '.join(get_args(Scheme))}"),
                ("steps", whole(self.steps) and self.steps >= 1, "a whole number from 1"),
                ("temperature", number(self.temperature) and self.temperature >= 0, "a number from 0, which takes the most "
                 "probable id"),
                ("top_k", k is None or (whole(k) and k >= 1), "a whole number from 1 (None, the default, keeps all ids)"),
                ("top_p", p is None or (number(p) and 0 < p <= 1), "above 0 and up to 1 (None, the default, keeps all ids)"),
                ("guidance", number(self.guidance) and self.guidance >= 0, "a number from 0; 1 is none"),
                ("cache", isinstance(self.cache, bool), "True or False")):
            if not right:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")

    @property
    def plain(self) -> bool:
        """Whether a token is drawn from what the model says of it, neither bent nor cut."""
        whole = self.temperature == 1 and self.top_k is None and self.top_p in (None, 1)
        return whole and self.guidance == 1

    @property
    def draws(self) -> str:
        """How each token is drawn, in words."""
        cut = "".join(f", {name} {value:g}" for name, value in (("top_k", self.top_k), ("top_p", self.top_p))
                      if value is not None)
        return f"temperature {self.temperature:g}{cut}" + ("" if self.guidance == 1 else f", guidance {self.guidance:g}")

    def __str__(self) -> str:
        steps = "" if self.scheme == "one-step" else f", {self.steps} steps {'with' if self.cache else 'without'} cache"
        return f"scheme {self.scheme}{steps}, {self.draws}"


def whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# ---------------------------------------------------------------------------------------------------------- schedules


def counts(scheme: Scheme, tokens: int, steps: int) -> list[int]:
    """How many tokens each round reveals; they add up to `tokens`, and every round reveals one at least.

    roar: a fixed share r of those still open, rounded down, with r such that `steps` rounds do it: 1 - tokens ** (-1 / steps).
    maskgit: after round i of S, the share cos(pi i / 2 S) is still open.
    """
    if scheme == "one-step":
        return [tokens]
    rounds = min(steps, tokens)
    left: Callable[[int, int], int]
    if scheme == "roar":
        share = 1 - tokens ** (-1 / rounds)
        left = lambda i, still: still - math.floor(share * still)  # noqa: E731
    else:
        left = lambda i, still: math.floor(tokens * math.cos(math.pi / 2 * i / rounds))  # noqa: E731
    found, still = [], tokens
    for i in range(1, rounds + 1):
        after = 0 if i == rounds else min(max(left(i, still), rounds - i), still - 1)
        found.append(still - after)
        still = after
    return found


# -------------------------------------------------------------------------------------------------------------- noise


def generator(*of: object) -> torch.Generator:
    """Noise that follows from these names and numbers alone: a seed, an object, a sample, a target."""
    digest = hashlib.sha256("\n".join(map(str, of)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def uniforms(generators: Sequence[torch.Generator], n: int, device: torch.device) -> Tensor:
    """(R, n) float64 from 0 to below 1, each row from its own generator, on the CPU: the same on every device."""
    return torch.stack([torch.rand(n, generator=g, dtype=torch.float64) for g in generators]).to(device)


def orders(generators: Sequence[torch.Generator], n: int, device: torch.device) -> Tensor:
    """(R, n): a random order of the places for each row."""
    return torch.stack([torch.randperm(n, generator=g) for g in generators]).to(device)


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise from uniform; 0 gives the smallest there is."""
    return -torch.log(-torch.log(uniform.clamp_min(torch.finfo(uniform.dtype).tiny)))


# -------------------------------------------------------------------------------------------------------------- draws


def truncated(logits: Tensor, settings: Settings) -> Tensor:
    """Logits (..., V) with -inf where top_k and then top_p leave an id out."""
    k, p = settings.top_k, settings.top_p
    if k is not None and k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(k).values[..., -1:], -torch.inf)
    if p is not None and p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        share = ordered.softmax(-1)
        beyond = share.cumsum(-1) - share >= p  # what is more probable already holds p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return logits


def pick(logits: Tensor, uniform: Tensor, settings: Settings) -> Tensor:
    """One id for each of (...), from logits (..., V) and uniform noise (...): the id in whose share of the distribution's sum,
    in double precision, the noise falls. One number a token is drawn so, where Gumbel noise would need V."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    cut = truncated(logits.float(), settings)
    p = ((cut - cut.amax(-1, keepdim=True)) / settings.temperature).softmax(-1)
    sums = p.double().cumsum(-1)
    ids = torch.searchsorted(sums, (uniform * sums[..., -1])[..., None].contiguous(), right=True)[..., 0]
    return ids.clamp_max(logits.shape[-1] - 1)
