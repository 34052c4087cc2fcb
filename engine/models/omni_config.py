"""The configuration of an AION-1 transformer, read strictly: unknown, missing and impossible values are named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

from engine.modalities import MODALITIES, Modality
from engine.models.attention import ACTIVATIONS, BlockSizes

OURS = ("sizes", "share_tables", "soften", "token_heads", "calibration")  # keys that the published files do not have


@dataclass(frozen=True)
class OmniConfig:
    """A transformer, in the keys of the published config.json (the first four have no default there either).

    Five are ours and absent from the published files. `sizes`: key -> (tokens, vocabulary) of a modality where they differ
    from `engine.modalities`. `share_tables`: modalities of one codec have one table of token vectors, read by encoder and
    decoder, and logits are products with it (Press & Wolf 2017; 4M, Mizrahi et al. 2023). `soften`: over how many bins the
    redshifts asked for in training were spread; `engine.models.spreading` takes that off what the model says. `token_heads`:
    of the decoder's last block, the one before and so on, the head onto the context whose values are the vectors of the
    tokens, not what the encoder made of them, which knows the object and hardly the token. `calibration`: of a number that
    is told, (entropy, power, share) as `engine.models.calibration` has them.

    Raises ValueError naming the key, its value and what is allowed.
    """

    domains_in: tuple[str, ...]
    domains_out: tuple[str, ...]
    norm_bias: bool
    act_layer: str
    dim: int = 768
    encoder_depth: int = 12
    decoder_depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    gated_mlp: bool = False
    qk_norm: bool = False
    decoder_causal_mask: bool = False
    decoder_sep_mask: bool = True  # target tokens see only those of their own modality
    num_register_tokens: int = 0
    share_modality_embeddings: bool = True  # one modality vector for encoder and decoder
    drop_path_rate_encoder: float = 0.0
    drop_path_rate_decoder: float = 0.0
    shared_drop_path: bool = False  # the rates grow over both depths together
    use_act_checkpoint: bool = False  # training computes the blocks again rather than keep their activations
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict, hash=False)
    share_tables: bool = False
    soften: float = 0.0
    token_heads: tuple[int, ...] = ()
    calibration: Mapping[str, tuple[tuple[float, float, float], ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("domains_in", "domains_out"):
            object.__setattr__(self, name, _domains(name, getattr(self, name)))
        for name, low in (("dim", 4), ("encoder_depth", 1), ("decoder_depth", 1), ("num_heads", 1), ("num_register_tokens", 0)):
            value = getattr(self, name)
            _require(type(value) is int and value >= low, name, value, f"a whole number of at least {low}")
        for f in fields(self):
            if f.type == "bool":
                _require(type(getattr(self, f.name)) is bool, f.name, getattr(self, f.name), "true or false")
        for name in ("drop_path_rate_encoder", "drop_path_rate_decoder"):
            rate = getattr(self, name)
            _require(_is_number(rate) and 0 <= rate < 1, name, rate, "from 0 to below 1")
        _require(_is_number(self.mlp_ratio) and self.hidden >= 1, "mlp_ratio", self.mlp_ratio, "a number above 0")
        _require(self.dim % 4 == 0 and self.dim % self.num_heads == 0, "dim", self.dim,
                 f"a multiple of 4 (sin-cos positions) and of num_heads = {self.num_heads}")
        _require(_is_number(self.soften) and self.soften >= 0, "soften", self.soften, "a number of bins, 0 or more")
        object.__setattr__(self, "token_heads", tuple(self.token_heads))
        _require(len(self.token_heads) <= self.decoder_depth and all(
            type(h) is int and 0 <= h < self.num_heads for h in self.token_heads), "token_heads", self.token_heads,
            f"numbers of heads, 0 to {self.num_heads - 1}, of at most {self.decoder_depth} blocks")
        _require(self.act_layer in ACTIVATIONS, "act_layer", self.act_layer, f"one of {', '.join(ACTIVATIONS)}")
        object.__setattr__(self, "sizes", {key: _size(key, value, self.domains) for key, value in dict(self.sizes).items()})
        object.__setattr__(self, "calibration", {key: _knots(key, value, self.domains_out)
                                                 for key, value in dict(self.calibration).items()})
        if self.share_tables:
            self._check_tables()

    def _check_tables(self) -> None:
        """One table has one number of ids."""
        of: dict[str, dict[str, int]] = {}
        for m in map(self.modality, self.domains):
            of.setdefault(m.folder, {})[m.key] = m.vocabulary
        for folder, vocabularies in of.items():
            if len(set(vocabularies.values())) > 1:
                numbers = ", ".join(f"{n} of {key}" for key, n in vocabularies.items())
                raise ValueError(f"share_tables is True, but the modalities of the codec {folder!r} have vocabularies of "
                                 f"different sizes ({numbers}); one table serves them only if these are equal")

    @classmethod
    def from_dict(cls, content: Any, source: str = "config.json") -> OmniConfig:
        """The configuration in the JSON object of a config.json; ValueError names all keys that are unknown or missing."""
        if not isinstance(content, dict):
            raise ValueError(f"{source} holds a {type(content).__name__}, expected an object with the keys of an AION-1 model")
        needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
        wrong = [f"unknown {key}" for key in sorted(set(content) - {f.name for f in fields(cls)})]
        wrong += [f"missing {key}" for key in sorted(needed - set(content))]
        if wrong:
            raise ValueError(f"{source} does not describe an AION-1 transformer: {'; '.join(wrong)}")
        try:
            return cls(**content)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error

    def as_dict(self) -> dict[str, Any]:
        """What goes into a config.json: the published keys, and ours only where they are set."""
        content = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if k not in OURS or v}
        return content | ({"sizes": {key: list(size) for key, size in self.sizes.items()}} if self.sizes else {})

    @property
    def published(self) -> bool:
        """Whether its tensors are those of AION-1's files, and the reference package computes the same with them; `soften`
        and `calibration` change nothing of it."""
        return not self.sizes and not self.share_tables and not self.token_heads

    @property
    def domains(self) -> tuple[str, ...]:
        """Every modality that goes in or comes out, once."""
        return tuple(dict.fromkeys((*self.domains_in, *self.domains_out)))

    def modality(self, key: str) -> Modality:
        """The row of `engine.modalities`, with this model's numbers of tokens and ids."""
        if key not in self.sizes:
            return MODALITIES[key]
        tokens, vocabulary = self.sizes[key]
        return replace(MODALITIES[key], tokens=tokens, vocabulary=vocabulary)

    @property
    def hidden(self) -> int:
        """Width inside the perceptrons; a gated one has three matrices and is narrower, for as many weights."""
        full = int(self.dim * self.mlp_ratio)
        return int(2 * full / 3) if self.gated_mlp else full

    @property
    def blocks(self) -> BlockSizes:
        return BlockSizes(self.dim, self.num_heads, self.hidden, self.act_layer, self.gated_mlp, self.norm_bias,
                          self.qkv_bias, self.proj_bias, self.mlp_bias, self.qk_norm)

    @property
    def drop_rates(self) -> tuple[list[float], list[float]]:
        """The share of rows in which a block is left out, growing with depth: encoder, decoder."""
        e, d = self.encoder_depth, self.decoder_depth
        if self.shared_drop_path:
            return _ramp(self.drop_path_rate_encoder, e + d)[:e], _ramp(self.drop_path_rate_decoder, e + d)[e:]
        return _ramp(self.drop_path_rate_encoder, e), _ramp(self.drop_path_rate_decoder, d)


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _ramp(top: float, steps: int) -> list[float]:
    return [top * i / max(1, steps - 1) for i in range(steps)]


def _domains(name: str, value: Any) -> tuple[str, ...]:
    """A list of known modalities without repeats."""
    _require(isinstance(value, (list, tuple)) and len(value) > 0, name, value, "a list of modalities that is not empty")
    keys: tuple[str, ...] = tuple(value)
    unknown = [key for key in keys if key not in MODALITIES]
    _require(not unknown, name, unknown, f"among {', '.join(MODALITIES)}")
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    _require(not repeated, name, repeated, "a list without repeats")
    return keys


def _size(key: str, value: Any, domains: tuple[str, ...]) -> tuple[int, int]:
    """A modality's own (tokens, vocabulary)."""
    _require(key in domains, "sizes", key, f"a modality of this model ({', '.join(domains)})")
    whole = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int and v > 0 for v in value)
    _require(whole, f"sizes[{key!r}]", value, "[tokens, vocabulary], two whole numbers above 0")
    tokens, vocabulary = value
    if MODALITIES[key].kind in ("image", "field"):
        _require(math.isqrt(tokens) ** 2 in (tokens, tokens - 1), f"sizes[{key!r}]", value,
                 "a square number of tokens, as an image has, or one more for its brightness")
    return tokens, vocabulary


def _knots(key: str, value: Any, targets: tuple[str, ...]) -> tuple[tuple[float, float, float], ...]:
    """The (entropy, power, share) of a number that the model tells."""
    _require(key in targets and MODALITIES[key].codec == "grid", "calibration", key, "a number on a grid that the model tells")
    threes = isinstance(value, (list, tuple)) and len(value) > 1 and all(
        isinstance(knot, (list, tuple)) and len(knot) == 3 and all(map(_is_number, knot)) for knot in value)
    right = threes and all(a[0] < b[0] for a, b in pairwise(value)) and all(p > 0 and 0 <= s < 1 for _, p, s in value)
    _require(right, f"calibration[{key!r}]", value,
             "two or more [entropy, power, share], entropies increasing, powers above 0, shares from 0 to below 1")
    return tuple((float(h), float(power), float(share)) for h, power, share in value)
