"""The transformer by itself: what it accepts, what hidden tokens change, what is learned from what, and its files."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoints import load_aion, save_aion
from engine.models.attention import BlockSizes, DecoderBlock, drop_path, where
from engine.models.omni import Encoded, Omni, OmniConfig
from engine.models.tokens import position_table

DOMAINS = ("tok_image", "tok_z", "catalog", "tok_xp_bp", "tok_lightcurve", "tok_flux_g")
CONFIG = OmniConfig(DOMAINS, DOMAINS, norm_bias=False, act_layer="SiLU", dim=16, encoder_depth=2, decoder_depth=2, num_heads=2,
                    qkv_bias=False, proj_bias=False, mlp_bias=False, gated_mlp=True, qk_norm=True,
                    sizes={"tok_image": (16, 40), "tok_lightcurve": (6, 20), "tok_xp_bp": (5, 30)})
BOTH = (*DOMAINS, "tok_image_hsc")  # two of one codec
SHARED: dict[str, Any] = {"domains_in": BOTH, "domains_out": BOTH, "share_tables": True,
                          "sizes": dict(CONFIG.sizes) | {"tok_image_hsc": (16, 40)}}


def made(**changes: Any) -> Omni:
    """A model whose tokens tell on each other: all parameters are larger than at the start."""
    model = Omni(replace(CONFIG, **changes)).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def model() -> Omni:
    return made().requires_grad_(False)


def some_tokens(*keys: str, batch: int = 3, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = {key: CONFIG.modality(key) for key in keys}
    return {key: torch.randint(1, m.vocabulary, (batch, m.tokens), generator=generator) for key, m in rows.items()}


def close(a: Tensor, b: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# ------------------------------------------------------------------------------------------------------- configuration


def test_config_is_read_strictly() -> None:
    content = CONFIG.as_dict()
    assert OmniConfig.from_dict(json.loads(json.dumps(content))) == CONFIG
    del content["dim"], content["sizes"]
    assert OmniConfig.from_dict(content).dim == 768  # as the published constructor has it
    content["dims"] = content.pop("act_layer")
    with pytest.raises(ValueError, match="unknown dims; missing act_layer"):
        OmniConfig.from_dict(content)
    assert not {"sizes", "share_tables"} & replace(CONFIG, sizes={}).as_dict().keys()
    shared = replace(CONFIG, **SHARED)
    assert shared.as_dict()["share_tables"] is True and OmniConfig.from_dict(json.loads(json.dumps(shared.as_dict()))) == shared


@pytest.mark.parametrize(("changes", "message"), [
    ({"dim": 18}, "dim is 18; it must be a multiple of 4"), ({"num_heads": 3}, "num_heads = 3"),
    ({"act_layer": "Swish"}, "act_layer is 'Swish'; it must be one of SiLU, GELU"),
    ({"qk_norm": 1}, "qk_norm is 1.*true or false"),
    ({"encoder_depth": 0}, "encoder_depth is 0"), ({"mlp_ratio": "4"}, "mlp_ratio is '4'"),
    ({"domains_in": ("tok_image_ls",)}, "domains_in is .*tok_image_ls.*among tok_image, "),
    ({"domains_out": ()}, "domains_out"),
    ({"domains_in": ("tok_z", "tok_z")}, "without repeats"), ({"drop_path_rate_encoder": 1.0}, "from 0 to below 1"),
    ({"sizes": {"tok_image": (15, 3)}}, "square"), ({"sizes": {"tok_ra": (1, 3)}}, "tok_ra.*a modality of this model"),
    ({"sizes": {"tok_z": (1, 0)}}, "two whole numbers above 0"), ({"share_tables": 1}, "share_tables is 1.*true or false"),
    (SHARED | {"sizes": CONFIG.sizes}, r"codec 'image' have .* different sizes \(40 of tok_image, 4375 of tok_image_hsc\)")])
def test_impossible_configurations_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_perceptrons_and_drop_rates() -> None:
    sizes = [replace(CONFIG, dim=dim, num_heads=4).hidden for dim in (768, 1024, 2048)]
    assert sizes == [2048, 2730, 5461] and replace(CONFIG, gated_mlp=False).hidden == 64
    rates = replace(CONFIG, drop_path_rate_encoder=0.3, drop_path_rate_decoder=0.6, shared_drop_path=True).drop_rates
    assert np.allclose(rates[0], [0, 0.1]) and np.allclose(rates[1], [0.4, 0.6])
    assert np.allclose(replace(CONFIG, drop_path_rate_decoder=0.6).drop_rates, [[0, 0], [0, 0.6]])


def test_positions() -> None:
    image, line = position_table(CONFIG.modality("tok_image"), 16), position_table(CONFIG.modality("tok_xp_bp"), 16)
    scalar, catalogue = position_table(CONFIG.modality("tok_z"), 16), position_table(CONFIG.modality("catalog"), 16)
    assert image.shape == (16, 16) and catalogue.shape == (512, 16)
    assert torch.equal(scalar[0], torch.tensor([0.0] * 4 + [1.0] * 4).repeat(2))
    assert torch.equal(image[5, :8], image[6, :8]) and torch.equal(image[5, 8:], image[9, 8:])  # 4 x 4: row, column
    assert torch.equal(line[:, :8], scalar[:, :8].expand(5, 8)) and len(line[:, 8:].unique(dim=0)) == 5
    close(catalogue[3, :8], torch.sin(3 / 10_000 ** (torch.arange(8) / 8)))


# --------------------------------------------------------------------------------------------------------------- start


def test_start_depends_on_the_seed_only() -> None:
    torch.manual_seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002 (watched, not used)
    a, b = Omni(CONFIG), Omni(CONFIG)
    b.init_weights(3)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002
    assert not torch.equal(a.mask_token, b.mask_token)
    a.init_weights(3)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert a.encoder[0].norm1.weight.eq(1).all() and a.decoder_proj_context.bias.eq(0).all()
    limit = (6 / 32) ** 0.5
    assert 0.9 * limit < a.encoder[0].attn.qkv.weight.abs().max() <= limit
    assert 0.01 < a.mask_token.std() < 0.04


def test_shared_modality_vectors_are_one_parameter() -> None:
    shared, own = Omni(CONFIG), Omni(replace(CONFIG, share_modality_embeddings=False))
    assert len(list(own.parameters())) - len(list(shared.parameters())) == len(DOMAINS)
    one_way = Omni(replace(CONFIG, domains_out=("tok_z",)))
    assert "encoder_embeddings.tok_xp_bp.mod_emb" in one_way.state_dict()
    assert "encoder_embeddings.tok_z.mod_emb" not in one_way.state_dict()


def test_shared_tables_are_one_a_codec() -> None:
    model = Omni(replace(CONFIG, **SHARED))
    tables = {name: p for name, p in model.state_dict().items() if p.ndim == 2 and not name.startswith(("encoder.", "decoder"))}
    folders = {CONFIG.modality(key).folder for key in BOTH}
    assert tables.keys() == {f"tables.{folder}.token_emb.weight" for folder in folders} and len(folders) == len(BOTH) - 1
    assert not [name for name in model.state_dict() if "to_logits" in name]
    assert all(0.01 < p.std() < 0.03 for p in tables.values())
    one_way = Omni(replace(CONFIG, domains_out=("tok_z",), share_tables=True), "meta")
    assert set(one_way.tables) == {CONFIG.modality(key).folder for key in DOMAINS}


def test_a_shared_table_learns_from_what_is_read_and_from_what_is_asked_for() -> None:
    """Reading changes the vectors of the ids that are read, asking those of all ids."""
    gradients = []
    for read, asked in (("tok_image", "tok_z"), ("tok_z", "tok_image_hsc")):
        model = made(**SHARED)
        model({read: torch.full_like(some_tokens(read)[read], 3)}, [asked])[asked].square().mean().backward()
        gradients.append(model.tables["image"].token_emb.weight.grad)
    by_reading, by_asking = gradients
    assert by_reading.any(1).nonzero().flatten().tolist() == [3] and by_asking.any(1).all()


# -------------------------------------------------------------------------------------------------------------- encode


def test_encode_keeps_every_token_in_its_place(model: Omni) -> None:
    tokens = some_tokens("tok_z", "catalog", "tok_image")
    encoded = model.encode(tokens)
    assert encoded.context.shape == (3, 67, 16) and encoded.visible.all() and encoded.complete
    places = {"registers": slice(0, 0), "tok_z": slice(0, 1), "catalog": slice(1, 51), "tok_image": slice(51, 67)}
    assert encoded.slices == places and list(encoded.slices) == list(places)
    swapped = model.encode({key: tokens[key] for key in ("tok_image", "catalog", "tok_z")})
    for key in tokens:
        close(encoded.context[:, encoded.slices[key]], swapped.context[:, swapped.slices[key]])
    close(model.encode(tokens | {"tok_z": tokens["tok_z"][:, 0]}).context, encoded.context)  # (B,) for a scalar


def test_registers_come_first_and_are_visible() -> None:
    model = made(num_register_tokens=2)
    encoded = model.encode(some_tokens("tok_z"), {"tok_z": torch.tensor([[True], [False], [True]])})
    assert encoded.slices == {"registers": slice(0, 2), "tok_z": slice(2, 3)}
    assert encoded.visible.tolist() == [[True, True, False], [True] * 3, [True, True, False]]
    assert encoded.context.isfinite().all()


def test_rows_may_have_different_modalities(model: Omni) -> None:
    """Each row is what it would be alone with its own modalities."""
    tokens = some_tokens("tok_image", "tok_z", "tok_xp_bp")
    hidden = {key: torch.zeros(3, n, dtype=torch.bool) for key, n in (("tok_image", 16), ("tok_xp_bp", 5))}
    hidden["tok_image"][1] = True
    hidden["tok_xp_bp"][2] = True
    hidden["tok_xp_bp"][0, 3] = True
    encoded = model.encode(tokens, hidden)
    logits = model.decode(encoded, ["tok_flux_g"])["tok_flux_g"]
    alone = model.encode({key: tokens[key][1:2] for key in ("tok_z", "tok_xp_bp")})
    close(encoded.context[1:2, 16:], alone.context)
    close(logits[1:2], model.decode(alone, ["tok_flux_g"])["tok_flux_g"])
    alone = model.encode({key: tokens[key][2:] for key in ("tok_image", "tok_z")})
    close(encoded.context[2:, :17], alone.context)
    assert encoded.visible.sum(1).tolist() == [21, 6, 17] and not encoded.context[~encoded.visible].any()
    assert not encoded.complete


def test_some_places_are_asked_for_by_themselves(model: Omni) -> None:
    """All of them are the whole target; of a few, each row's own, the others take no part: one alone sees itself only."""
    encoded = model.encode(some_tokens("tok_z", "tok_xp_bp"))
    whole = model.decode(encoded, ["tok_image"])["tok_image"]
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    close(model.decode(encoded, ["tok_image"], places={"tok_image": order})["tok_image"],
          whole.gather(1, order[..., None].expand_as(whole)))
    few = order[:, :2]
    asked = model.decode(encoded, ["tok_image", "tok_flux_g"], places={"tok_image": few})
    assert asked["tok_image"].shape == (3, 2, whole.shape[2]) and asked["tok_flux_g"].shape[1] == 1
    for row in range(3):
        alone = model.decode(encoded.rows(slice(row, row + 1)), ["tok_image"], places={"tok_image": few[row : row + 1]})
        close(asked["tok_image"][row : row + 1], alone["tok_image"])
    assert not torch.allclose(asked["tok_image"], whole.gather(1, few[..., None].expand(-1, -1, whole.shape[2])), atol=1e-4)

    sequence = {"catalog": torch.ones(3, 4, dtype=torch.int64)}
    for key in ("tok_flux_g", "catalog"):
        with pytest.raises(ValueError, match=f"places has {key}; give places of targets that are no sequences"):
            model.decode(encoded, ["tok_image", "catalog"], sequences=sequence, places={key: few})


def test_what_is_hidden_changes_nothing(model: Omni) -> None:
    tokens = some_tokens("tok_image", "catalog")
    hidden = {key: torch.rand(value.shape, generator=torch.Generator().manual_seed(2)) < 0.5 for key, value in tokens.items()}
    before = model.logits(tokens, ["tok_xp_bp"], hidden)["tok_xp_bp"]
    other = {key: torch.where(hidden[key], torch.ones_like(value), value) for key, value in tokens.items()}
    assert torch.equal(before, model.logits(other, ["tok_xp_bp"], hidden)["tok_xp_bp"])
    everything = {key: torch.zeros_like(value, dtype=torch.bool) for key, value in tokens.items()}
    assert torch.equal(model.encode(tokens, everything).context, model.encode(tokens).context)


def test_catalogue_counts_visible_tokens_and_hides_its_padding(model: Omni) -> None:
    ids = some_tokens("catalog")["catalog"]
    short = model.encode({"catalog": ids[:, :7]}).context
    padded = torch.cat([ids[:, :7], torch.zeros(3, 9, dtype=torch.int64)], 1)
    encoded = model.encode({"catalog": padded})
    close(encoded.context[:, :7], short)
    assert encoded.visible.sum(1).tolist() == [7, 7, 7]
    between = torch.stack([padded[:, 7], *padded[:, :7].T, padded[:, 8]], 1)  # padding in front takes no position either
    close(model.encode({"catalog": between}).context[:, 1:8], short)


def test_pieces_of_a_batch_are_the_batch(model: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = some_tokens("tok_image", "catalog", "tok_z", batch=5)
    hidden = {"catalog": torch.rand(5, 50, generator=torch.Generator().manual_seed(2)) < 0.5}
    hidden["catalog"][3] = False
    sequences = {"catalog": some_tokens("catalog", batch=5, seed=3)["catalog"]}
    targets = ["tok_xp_bp", "catalog"]
    whole, whole_logits = model.encode(tokens, hidden), model.logits(tokens, targets, hidden, sequences=sequences)
    monkeypatch.setattr("engine.models.omni.CACHED_TOKENS", 140)
    assert len(model._pieces(5, 67)) == 3
    close(model.encode(tokens, hidden).context, whole.context)
    for key, value in model.logits(tokens, targets, hidden, sequences=sequences).items():
        close(value, whole_logits[key])


# -------------------------------------------------------------------------------------------------------------- decode


def test_a_head_reads_the_tokens_themselves(tmp_path: Path) -> None:
    """Its values do not know the encoder; packed, remembered, repeated and loaded again the answers are the same."""
    model = made(token_heads=(1,)).requires_grad_(False)
    tokens = some_tokens("tok_image", "tok_z")
    hidden = {"tok_image": torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 0.5}
    encoded = model.encode(tokens, hidden)
    answers = model.decode(encoded, ["tok_xp_bp"])["tok_xp_bp"]
    close(model.decode(model.remember(encoded), ["tok_xp_bp"])["tok_xp_bp"], answers)
    twice = model.decode(model.remember(encoded.repeated(2)), ["tok_xp_bp"])["tok_xp_bp"]
    close(twice[::2], answers)
    close(twice[1::2], answers)
    save_aion(tmp_path, model)
    assert load_aion(tmp_path).config.token_heads == (1,) and not model.config.published
    close(load_aion(tmp_path).decode(encoded, ["tok_xp_bp"])["tok_xp_bp"], answers)
    (_, with_tokens), (_, other) = (model.remember(replace(encoded, context=c)).memory[-1]  # type: ignore[index]
                                    for c in (encoded.context, encoded.context.roll(1, 0)))
    assert torch.equal(with_tokens[:, 1], other[:, 1]) and not torch.equal(with_tokens[:, 0], other[:, 0])
    without = made().requires_grad_(False)
    assert (without.decode(without.encode(tokens, hidden), ["tok_xp_bp"])["tok_xp_bp"] - answers).abs().max() > 1e-3
    with pytest.raises(ValueError, match="came without them"):
        model.decode(replace(encoded, tokens=None), ["tok_xp_bp"])


def test_one_encoding_serves_many_calls(model: Omni) -> None:
    tokens = some_tokens("tok_image", "tok_z")
    hidden = {"tok_image": torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 0.5}
    encoded = model.encode(tokens, hidden)
    remembered = model.remember(encoded)
    both = model.logits(tokens, ["tok_flux_g", "tok_lightcurve"], hidden)
    for key, vocabulary, n in (("tok_flux_g", 1024, 1), ("tok_lightcurve", 20, 6)):
        assert both[key].shape == (3, n, vocabulary)
        close(model.decode(encoded, [key])[key], both[key])
        close(model.decode(remembered, [key])[key], both[key])
    plain = Encoded(encoded.context, encoded.visible, {})  # made by hand: nothing is taken for complete
    close(model.decode(plain, ["tok_flux_g"])["tok_flux_g"], both["tok_flux_g"])
    assert torch.equal(model(tokens, ["tok_flux_g", "tok_lightcurve"], hidden)["tok_flux_g"], both["tok_flux_g"])


@pytest.mark.parametrize("changes", [{}, {"num_register_tokens": 2, "token_heads": (1,)}, {"share_modality_embeddings": False}])
@pytest.mark.parametrize("some_hidden", [True, False])
def test_tokens_that_join_see_what_was_read_before(changes: dict[str, Any], some_hidden: bool) -> None:
    """As one pass in which every token sees those of its own round and of earlier ones, and nothing else."""
    model, (first, second) = made(**changes).requires_grad_(False), (6, 4)
    tokens = some_tokens("tok_image", "tok_xp_bp")
    hidden = {"tok_xp_bp": torch.rand(3, 5, generator=torch.Generator().manual_seed(2)) < 0.5} if some_hidden else {}
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(row)) for row in range(3)])
    grown = model.encode({"tok_xp_bp": tokens["tok_xp_bp"]}, hidden, room=10)
    before = model.decode(grown, ["tok_z"])["tok_z"]
    close(before, model.logits({"tok_xp_bp": tokens["tok_xp_bp"]}, ["tok_z"], hidden)["tok_z"])
    for at in order[:, :10].split((first, second), 1):
        grown = model.extend(grown, "tok_image", tokens["tok_image"].gather(1, at), at)
    for wrong, error in (("catalog", ValueError), ("tok_foo", KeyError)):
        with pytest.raises(error, match=f"'{wrong}' is no grid"):
            model.extend(grown, wrong, tokens["tok_image"][:, :1], order[:, :1])
    with pytest.raises(ValueError, match="no room for 1 tokens of 'tok_image'"):
        model.extend(grown, "tok_image", tokens["tok_image"][:, :1], order[:, :1])

    rounds = torch.full((3, 16), 3).scatter(1, order, torch.tensor([1] * first + [2] * second + [3] * 6).expand(3, -1))
    registers = model.config.num_register_tokens
    rounds = torch.cat([torch.zeros(3, registers + 5, dtype=torch.long), rounds], 1)
    visible = rounds < 3
    if some_hidden:
        visible[:, registers : registers + 5] = ~hidden["tok_xp_bp"]
    seen = (rounds[:, :, None] >= rounds[:, None, :]) & visible[:, None, :] | torch.eye(rounds.shape[1], dtype=torch.bool)
    slices = {"registers": slice(0, registers), "tok_xp_bp": slice(registers, registers + 5),
              "tok_image": slice(registers + 5, registers + 21)}
    what, place = model._embed({"tok_xp_bp": tokens["tok_xp_bp"], "tok_image": tokens["tok_image"]}, slices, None)
    x = what + place
    for block in model.encoder:
        x = block(x, where(seen[:, None]))
    whole = Encoded(model.decoder_proj_context(model.encoder_norm(x)) + place, visible, slices, tokens=what)
    for target in ("tok_z", "tok_flux_g"):
        close(model.decode(grown, [target])[target], model.decode(whole, [target])[target])
    again = model.logits(tokens, ["tok_z"], hidden | {"tok_image": rounds[:, -16:] == 3})["tok_z"]
    assert (model.decode(grown, ["tok_z"])["tok_z"] - again).abs().max() > 1e-3, "reading all again says something else"


@pytest.mark.parametrize("changes", [{}, {"decoder_sep_mask": False}, {"decoder_causal_mask": True},
                                     {"decoder_sep_mask": False, "decoder_causal_mask": True}])
def test_a_catalogue_is_told_nothing_of_what_comes(changes: dict[str, Any]) -> None:
    """A later id changes no logits of earlier ones, not even through other targets; an earlier one does."""
    model = made(**changes)
    tokens, ids = some_tokens("tok_image"), some_tokens("catalog", seed=4)["catalog"][:, :9]
    targets = ["catalog", "tok_xp_bp"] if changes.get("decoder_causal_mask") else ["tok_xp_bp", "catalog", "tok_z"]
    before = model.logits(tokens, targets, sequences={"catalog": ids})["catalog"]
    assert before.shape == (3, 8, 3468)
    later = ids.clone()
    later[:, 5] = 1 + (later[:, 5] + 7) % 3000
    after = model.logits(tokens, targets, sequences={"catalog": later})["catalog"]
    close(after[:, :5], before[:, :5])
    assert ((after - before)[:, 5:].abs().amax(2) > 1e-4).all()
    later[:, 8] = 0  # the last one is asked for, never read
    close(model.logits(tokens, targets, sequences={"catalog": later})["catalog"], after)


def test_targets_see_their_own_modality_or_all() -> None:
    tokens = some_tokens("tok_image")
    apart, together = made(), made(decoder_sep_mask=False)
    for model, same in ((apart, True), (together, False)):
        alone = model.logits(tokens, ["tok_xp_bp"])["tok_xp_bp"]
        beside = model.logits(tokens, ["tok_z", "tok_xp_bp"])["tok_xp_bp"]
        assert (float((alone - beside).detach().abs().max()) < 1e-5) is same
    mean = apart.logits(tokens, ["tok_xp_bp"], self_attention="mean")["tok_xp_bp"]
    assert (mean - apart.logits(tokens, ["tok_xp_bp"])["tok_xp_bp"]).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------------------- refusals


TWO = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(("tokens", "hidden", "error", "message"), [
    ({}, None, ValueError, "no tokens to read"),
    ({"tok_ra": TWO}, None, KeyError, "'tok_ra' is not an input of this model; it has tok_image"),
    ({"tok_image": TWO.new_zeros(2, 15)}, None, ValueError, r"'tok_image' have shape \(2, 15\); give all 16"),
    ({"tok_z": TWO.new_zeros(2, 2)}, None, ValueError, r"\(2, 2\); give 1 for each object"),
    ({"catalog": TWO.new_ones(2, 51)}, None, ValueError, "from 1 to 50"),
    ({"tok_z": torch.tensor([3, 1025])}, None, ValueError, "'tok_z' has the id 1025; its ids go from 0 to 1024"),
    ({"tok_z": torch.tensor([3, -1])}, None, ValueError, "'tok_z' has the id -1"),
    ({"tok_z": torch.zeros(2)}, None, ValueError, r"'tok_z' are torch\.float32; give whole numbers"),
    ({"tok_z": np.zeros(2, int)}, None, ValueError, "'tok_z' are a ndarray"),
    ({"tok_z": TWO, "tok_flux_g": TWO.new_zeros(3)}, None, ValueError, r"\{'tok_z': 2, 'tok_flux_g': 3\} rows"),
    ({"tok_z": TWO[:0]}, None, ValueError, "one row an object"),
    ({"tok_z": TWO}, {"tok_ra": TWO.bool()}, KeyError, "hidden has 'tok_ra'"),
    ({"tok_z": TWO}, {"tok_z": torch.zeros(2)}, ValueError, r"torch\.bool of shape \(2, 1\)"),
    ({"tok_z": TWO}, {"tok_z": torch.zeros(3, dtype=torch.bool)}, ValueError, r"shape \(2, 1\)"),
    ({"tok_z": TWO}, {"tok_z": torch.tensor([True, True])}, ValueError, "nothing is visible in row 0, 1"),
    ({"catalog": TWO.new_zeros(1, 4)}, None, ValueError, "visible in row 0"),
])
def test_inputs_that_are_refused(model: Omni, tokens: Any, hidden: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.encode(tokens, hidden)


@pytest.mark.parametrize(("targets", "sequences", "error", "message"), [
    ([], None, ValueError, "give a list of modalities"), ("tok_z", None, ValueError, "targets is 'tok_z'; give a list"),
    (["tok_ra"], None, KeyError, "'tok_ra' is not an output"), (["tok_z", "tok_z"], None, ValueError, "may be named once"),
    (["catalog"], None, ValueError, r"sequences has \[\], .* \['catalog'\]"),
    (["tok_z"], {"catalog": torch.ones(3, 4, dtype=torch.int64)}, ValueError, "of no other"),
    (["catalog"], {"catalog": torch.ones(3, 1, dtype=torch.int64)}, ValueError, "two at least"),
    (["catalog"], {"catalog": torch.ones(2, 4, dtype=torch.int64)}, ValueError, "has 2 rows, but 3 were encoded"),
    (["catalog"], {"catalog": torch.tensor([[1, 0, 2]] * 3)}, ValueError, "padding belongs at the end"),
    (["catalog"], {"catalog": torch.full((3, 4), 3468)}, ValueError, "from 0 to 3467")])
def test_targets_that_are_refused(model: Omni, targets: Any, sequences: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.logits(some_tokens("tok_z"), targets, sequences=sequences)


def test_another_self_attention_is_refused(model: Omni) -> None:
    with pytest.raises(ValueError, match="self_attention is 'causal'; it must be 'full' or 'mean'"):
        model.logits(some_tokens("tok_z"), ["tok_z"], self_attention="causal")  # type: ignore[arg-type]


def test_inputs_and_random_state_are_left_as_they_were(model: Omni) -> None:
    tokens = some_tokens("tok_image", "catalog")
    tokens["catalog"][:, 20:] = 0
    hidden = {"tok_image": torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 0.5}
    copies = [{key: value.clone() for key, value in group.items()} for group in (tokens, hidden)]
    states = torch.get_rng_state(), random.getstate()
    encoded = model.encode(tokens, hidden)
    context = encoded.context.clone()
    for kind in ("full", "mean"):
        model.decode(encoded, ["tok_z", "catalog"], kind, {"catalog": tokens["catalog"]})  # type: ignore[arg-type]
    assert torch.equal(context, encoded.context)
    for group, copy in zip((tokens, hidden), copies, strict=True):
        assert list(group) == list(copy) and all(torch.equal(group[key], copy[key]) for key in group)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("checkpointed", [False, True])
def test_every_parameter_that_is_used_learns(checkpointed: bool) -> None:
    model = made(num_register_tokens=1, use_act_checkpoint=checkpointed, norm_bias=True).train()
    tokens = some_tokens(*DOMAINS)
    hidden = {"tok_image": torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 0.5}
    logits = model(tokens, list(DOMAINS), hidden, sequences={"catalog": tokens["catalog"]})
    sum(value.square().mean() for value in logits.values()).backward()  # type: ignore[union-attr]
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_tables_that_nothing_reads_are_in_published_models_only() -> None:
    """The decoder reads tokens of sequences alone: a grid is asked for with the mask token."""
    own, published = made(), Omni(replace(made().config, sizes={}), "meta")
    assert {key for key in DOMAINS if f"decoder_embeddings.{key}.token_emb.weight" in own.state_dict()} == {"catalog"}
    assert all(f"decoder_embeddings.{key}.token_emb.weight" in published.state_dict() for key in DOMAINS)


def test_gradients_with_and_without_recomputing_are_equal() -> None:
    grads = []
    for checkpointed in (False, True):
        model = made(use_act_checkpoint=checkpointed).train()
        model(some_tokens("tok_image"), ["tok_xp_bp"])["tok_xp_bp"].square().mean().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and all(torch.allclose(grads[0][k], grads[1][k], atol=1e-7) for k in grads[0])


def test_paths_are_dropped_by_the_row_in_training_only() -> None:
    torch.manual_seed(0)
    kept = drop_path(torch.ones(4000, 2, 3), 0.25, training=True)
    assert np.allclose(kept.unique(), [0, 4 / 3]) and abs(float(kept.mean()) - 1) < 0.05
    assert (kept.amax((1, 2)) == kept.amin((1, 2))).all()
    model, tokens = made(drop_path_rate_encoder=0.9, drop_path_rate_decoder=0.9), some_tokens("tok_image")
    assert torch.equal(model.logits(tokens, ["tok_z"])["tok_z"], model.logits(tokens, ["tok_z"])["tok_z"])
    model.train()
    assert not torch.equal(model.logits(tokens, ["tok_z"])["tok_z"], model.logits(tokens, ["tok_z"])["tok_z"])


@pytest.mark.parametrize("changes", [{}, SHARED], ids=["own", "shared"])
def test_compiles_into_one_graph(changes: dict[str, Any]) -> None:
    model = made(**changes)
    tokens = some_tokens("tok_image", "catalog", "tok_z")
    hidden = {"tok_image": torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 0.5}
    sequences = {"catalog": some_tokens("catalog", seed=3)["catalog"]}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    targets = ["tok_xp_bp", "catalog", "tok_z"]
    for h in (None, hidden):
        expected, got = (f(tokens, targets, h, "full", sequences) for f in (model, compiled))
        assert list(got) == targets
        for key in targets:
            close(got[key], expected[key])


def test_autocast_makes_no_float32_of_heads_and_learns_the_same() -> None:
    """A decoder block in bfloat16 on a CPU: half of what attention sees is hidden, from both masks."""
    torch.manual_seed(0)
    block = DecoderBlock(BlockSizes(96, 3, 128, "SiLU", True, False, False, False, False, True), 0.0)
    x, context, seen = torch.randn(2, 5, 96, requires_grad=True), torch.randn(2, 7, 96), torch.rand(2, 1, 1, 7) > 0.5
    seen[..., 0] = True
    among = torch.ones(1, 1, 5, 5).tril().bool()
    found = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            key, _ = block.memory(context)
            y = block(x, context, where(among), where(seen))
        assert key.dtype == (torch.bfloat16 if half else torch.float32)
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, *block.parameters()))))
    for exact, near in zip(*found, strict=True):
        assert float((near - exact).detach().abs().max() / exact.detach().abs().max()) < 0.02


def test_bfloat16_stays_near() -> None:
    model, tokens = Omni(CONFIG).eval(), some_tokens("tok_image", "tok_z")
    exact = model.encode(tokens).context
    half = model.to(torch.bfloat16)
    got = half.encode(tokens).context
    assert got.dtype == torch.bfloat16 and half.logits(tokens, ["tok_xp_bp"])["tok_xp_bp"].isfinite().all()
    assert (got.float() - exact).abs().max() < 0.05 * exact.abs().max()


# --------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def folder(model: Omni, tmp_path: Path) -> Path:
    save_aion(tmp_path / "m", model)
    return tmp_path / "m"


def edit(folder: Path, **changes: Tensor | None) -> None:
    """Set or (None) take away tensors of a saved model."""
    tensors = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        tensors.pop(name, None) if value is None else tensors.update({name: value})
    save_file(tensors, folder / "model.safetensors")


def test_round_trip(model: Omni, folder: Path) -> None:
    loaded, tokens = load_aion(folder), some_tokens(*DOMAINS)
    assert loaded.config == model.config and not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded.encode(tokens).context, model.encode(tokens).context)
    with torch.no_grad():
        loaded.mask_token.zero_()  # the mapped file is not written
    assert torch.equal(load_aion(folder).mask_token, model.mask_token)
    save_aion(folder, loaded)  # over the file that it is mapped from
    assert not load_aion(folder).mask_token.any()


def test_round_trip_with_shared_tables(tmp_path: Path) -> None:
    model, tokens = made(**SHARED).requires_grad_(False), some_tokens(*DOMAINS)
    save_aion(tmp_path, model)
    stored, own = load_file(tmp_path / "model.safetensors"), model.state_dict()
    assert stored.keys() == own.keys() and all(torch.equal(value, own[name]) for name, value in stored.items())
    sequences = {"catalog": tokens["catalog"]}
    loaded = load_aion(tmp_path)
    expected, got = (m.logits(tokens, list(BOTH), sequences=sequences) for m in (model, loaded))
    assert loaded.config == model.config and all(torch.equal(got[key], expected[key]) for key in BOTH)


def test_positions_are_in_files_that_others_read_only(folder: Path, tmp_path: Path) -> None:
    assert not [name for name in load_file(folder / "model.safetensors") if "pos_emb" in name or "norm1.bias" in name]
    model = Omni(replace(CONFIG, domains_in=("tok_z",), domains_out=("tok_z",), sizes={}))
    save_aion(tmp_path / "published", model)
    extras = load_file(tmp_path / "published/model.safetensors").keys() - model.state_dict().keys()
    assert {"encoder_embeddings.tok_z.pos_emb", "decoder_embeddings.tok_z.pos_emb", "encoder.0.norm1.bias"} <= extras
    assert torch.equal(load_aion(tmp_path / "published").mask_token, model.mask_token)


def test_loading_in_bfloat16(model: Omni, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.checkpoints.aion.CONVERTED", 1000)
    half = load_aion(folder, torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16} == {b.dtype for b in half.buffers()}
    assert torch.equal(half.mask_token, model.mask_token.bfloat16())
    with pytest.raises(ValueError, match=r"dtype is torch.int8; the weights can be torch.float32"):
        load_aion(folder, torch.int8)


def test_every_tensor_that_does_not_fit_is_named(folder: Path) -> None:
    edit(folder, **{"mask_token": None, "extra": torch.ones(2), "decoder_norm.weight": torch.ones(3),
                    "encoder.0.norm1.bias": torch.ones(16), "encoder_norm.weight": torch.ones(16, dtype=torch.int32),
                    "encoder_embeddings.tok_z.mod_emb": torch.ones(1, 1, 16),
                    "decoder_embeddings.tok_z.pos_emb": torch.ones(1, 1, 16),
                    "decoder_embeddings.tok_xp_bp.pos_emb": torch.ones(1, 2, 16)})
    with pytest.raises(ValueError) as raised:
        load_aion(folder)
    for phrase in ("missing mask_token", "unexpected extra", "decoder_norm.weight is (3,), expected (16,)",
                   "encoder.0.norm1.bias is not zero", "encoder_norm.weight is torch.int32, expected floating point",
                   "encoder_embeddings.tok_z.mod_emb differs from decoder_embeddings.tok_z.mod_emb",
                   "decoder_embeddings.tok_z.pos_emb is not the sin-cos table",
                   "decoder_embeddings.tok_xp_bp.pos_emb is (1, 2, 16), expected (1, 5, 16)"):
        assert phrase in str(raised.value)


def test_shared_vectors_under_either_name(model: Omni, folder: Path) -> None:
    vector = load_file(folder / "model.safetensors")["decoder_embeddings.tok_z.mod_emb"]
    edit(folder, **{"encoder_embeddings.tok_z.mod_emb": vector})
    assert torch.equal(load_aion(folder).state_dict()["decoder_embeddings.tok_z.mod_emb"], vector)
    gone = ("decoder_embeddings.tok_z.mod_emb", "encoder.0.norm1.bias", "decoder_embeddings.tok_z.pos_emb")
    edit(folder, **dict.fromkeys(gone))
    assert torch.equal(load_aion(folder).state_dict()["decoder_embeddings.tok_z.mod_emb"], vector)
    edit(folder, **{"encoder_embeddings.tok_z.mod_emb": None})
    with pytest.raises(ValueError, match=r"missing decoder_embeddings\.tok_z\.mod_emb$"):
        load_aion(folder)


def test_several_files(model: Omni, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(load_aion(folder, dtype).mask_token, model.mask_token.to(dtype))
    index.write_text(json.dumps({"weight_map": where | {"x": "../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match=r"index\.json has no weight_map to safetensors files beside it"):
        load_aion(folder)
    index.write_text(json.dumps({"weight_map": where | {"x": "model-3.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"index\.json names model-3\.safetensors"):
        load_aion(folder)


def test_files_that_are_refused(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\x80\x02" + bytes(100)):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged or not a safetensors file"):
            load_aion(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor .*fetch it with"):
        load_aion(folder)
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    for what in (folder, folder / "pytorch_model.bin"):
        with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle, .*use model\.safetensors"):
            load_aion(what)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"config\.json is a file; give the folder"):
        load_aion(folder / "config.json")
    for content, message in (("{", "damaged or not JSON"), ("[1]", "holds a list"), ('{"dim": 3}', "missing act_layer")):
        (folder / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_aion(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; fetch it with"):
        load_aion(folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_aion(tmp_path / "nowhere")
