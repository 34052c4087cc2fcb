"""Heads that are placed look where they are asked, add nothing at first, and are those that the loss needs least."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.models.omni import Omni, OmniConfig
from engine.models.tokens import position_table
from engine.records import Records
from engine.train.masking import Budgets, Layout, choose
from engine.train.omni_step import Compact, MaskedOmni, compact
from engine.train.placed_heads import pairs_of, place_heads
from engine.train.token_data import TokenData

KEYS = ("tok_spectrum_desi", "tok_spectrum_sdss", "tok_z")
CONFIG = OmniConfig(KEYS, KEYS, norm_bias=False, act_layer="SiLU", dim=64, encoder_depth=1, decoder_depth=2, num_heads=4,
                    qkv_bias=False, proj_bias=False, mlp_bias=False, gated_mlp=True, qk_norm=True, share_tables=True,
                    sizes={"tok_spectrum_desi": (40, 30), "tok_spectrum_sdss": (40, 30)})
TRANSLATIONS = ((("tok_spectrum_sdss", "tok_z"), "tok_spectrum_desi", 0.5), (("tok_spectrum_desi",), "tok_z", 0.1))


def tokens(place: Path) -> TokenData:
    records = {}
    for number, key in enumerate(KEYS):
        n, vocabulary = CONFIG.modality(key).tokens, min(CONFIG.modality(key).vocabulary, 30)
        records[key] = Records.create(place / key, (n,), "<u2", {})
        rows = np.arange(200) if number else np.arange(0, 200, 2)
        records[key].append(rows, np.random.default_rng(number).integers(0, vocabulary, (len(rows), n)), 200)
    return TokenData([records], Layout(CONFIG), 16, 0, 0.0)


def first(data: TokenData) -> tuple[Compact, torch.Tensor]:
    """A batch, and the weights of its losses."""
    ids, there = data.read(data.train[:64])
    return compact(ids, choose(there, data.layout, Budgets((40,), 24), 0, 0), data.layout), torch.ones(len(KEYS))


def attention(model: Omni, number: int, ids: torch.Tensor) -> torch.Tensor:
    """(B, H, T, N) of a block, of DESI's tokens onto SDSS's."""
    caught: list[torch.Tensor] = []

    def catch(module: Any, given: tuple[Any, ...]) -> None:
        x, (keys, _), _ = given
        q = module.q_norm(module.q(x).unflatten(2, (module.heads, -1))).transpose(1, 2)
        caught.append((q * q.shape[-1] ** -0.5 @ keys.transpose(-2, -1)).softmax(-1))

    block: Any = model.decoder[number]
    hook = block.cross_attn.register_forward_pre_hook(catch)
    with torch.no_grad():
        model.decode(model.encode({"tok_spectrum_sdss": ids}), ["tok_spectrum_desi"])
    hook.remove()
    return torch.cat(caught)


@pytest.mark.parametrize("number", [0, 1])
def test_they_look_where_they_are_asked(tmp_path: Path, number: int) -> None:
    data, model = tokens(tmp_path), Omni(CONFIG)
    model.init_weights(3)
    ids = data.read(data.train[:5])[0][:, data.layout.slices["tok_spectrum_sdss"]]
    before = attention(model, number, ids).diagonal(dim1=2, dim2=3).mean((0, 2))
    place_heads(MaskedOmni(model), pairs_of(model, TRANSLATIONS), data, *first(data), 2 - number)
    after = attention(model, number, ids).diagonal(dim1=2, dim2=3).mean((0, 2))
    assert before.max() < 0.04 and after.max() > 0.2  # gains of new norms are 1: trained ones see sharper
    head = int(after.argmax())
    around = attention(model, number, ids)[:, head, 10:30]
    near = torch.stack([around[:, torch.arange(20), torch.arange(10, 30) + d] for d in (-3, -2, -1, 0, 1, 2, 3)], -1)
    assert near.sum(-1).mean() > 0.45 and near.mean((0, 1)).argmax() == 3
    assert not model.decoder[number].cross_attn.proj.weight[:, 16 * head : 16 * head + 16].any()  # type: ignore[union-attr]


def test_the_head_without_which_the_loss_is_smallest_is_taken(tmp_path: Path) -> None:
    data, model = tokens(tmp_path), Omni(CONFIG)
    model.init_weights(3)
    module, (batch, weight) = MaskedOmni(model), first(data)
    without = []
    for head in range(4):
        other = copy.deepcopy(module)
        with torch.no_grad():
            other.model.decoder[1].cross_attn.proj.weight[:, 16 * head : 16 * head + 16] = 0  # type: ignore[union-attr, index]
            without.append(float((other(batch) * weight).sum()))
    place_heads(module, pairs_of(model, TRANSLATIONS), data, batch, weight, 1)
    with torch.no_grad():
        assert float((module(batch) * weight).sum()) == pytest.approx(min(without), rel=1e-6)
    assert max(without) > min(without) * (1 + 1e-5)


def test_pairs_are_spectra_of_one_codec() -> None:
    assert pairs_of(Omni(CONFIG), TRANSLATIONS) == [("tok_spectrum_sdss", "tok_spectrum_desi")]


def test_without_a_pair_one_sentence_tells(tmp_path: Path) -> None:
    data = tokens(tmp_path)
    with pytest.raises(ValueError, match=r"--translate .*no object has such a pair"):
        place_heads(MaskedOmni(Omni(CONFIG)), pairs_of(Omni(CONFIG), TRANSLATIONS[1:]), data, *first(data), 1)


def test_waves_tell_neighbours_apart() -> None:
    """All waves of a position together hardly do."""
    from engine.train.placed_heads import _waves

    model = Omni(replace(CONFIG, dim=224, num_heads=7, sizes={"tok_spectrum_desi": (137, 30), "tok_spectrum_sdss": (137, 30)}))
    waves, every = _waves(model, "tok_spectrum_sdss", 32), position_table(model.inputs["tok_spectrum_sdss"], 224)
    likeness = torch.nn.functional.normalize(waves, dim=1) @ torch.nn.functional.normalize(waves, dim=1).T
    assert likeness[60, 61] < 0.8 and likeness[60, torch.arange(137) != 60].max() < 0.8
    assert torch.nn.functional.cosine_similarity(every[60], every[61], dim=0) > 0.95
