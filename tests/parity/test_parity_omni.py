"""The transformer beside the published package: the same numbers where that is right, and better ones where it is not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoints import load_aion, save_aion
from engine.modalities import MODALITIES
from engine.models.omni import Omni, OmniConfig

NEAR = 1e-4
DOMAINS = ("tok_flux_g", "tok_image", "tok_z", "tok_spectrum_desi", "catalog", "tok_segmap", "tok_xp_bp")
BARE: dict[str, Any] = {"domains_in": list(DOMAINS), "domains_out": list(DOMAINS), "dim": 32, "encoder_depth": 2,
                        "decoder_depth": 2, "num_heads": 4, "norm_bias": True, "act_layer": "GELU"}
NO_BIAS = {"norm_bias": False, "qkv_bias": False, "proj_bias": False, "mlp_bias": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "published": dict(act_layer="SiLU", gated_mlp=True, qk_norm=True, **NO_BIAS),
    "gated with biases": {"act_layer": "SiLU", "gated_mlp": True, "mlp_ratio": 3.0},
    "heads normed with biases": {"qk_norm": True, "num_register_tokens": 3},
    "registers, own vectors": dict(num_register_tokens=2, share_modality_embeddings=False, **NO_BIAS),
    "only biases of norms": {"act_layer": "ReLU", "qkv_bias": False, "proj_bias": False, "mlp_bias": False},
    "causal": {"decoder_causal_mask": True, "act_layer": "Tanh"},
    "together": {"decoder_sep_mask": False, "qk_norm": True, "norm_bias": False},
    "causal together": {"decoder_causal_mask": True, "decoder_sep_mask": False, "act_layer": "LeakyReLU"},
    "one way": {"domains_in": ["tok_image", "tok_z"], "domains_out": ["tok_z", "tok_xp_bp", "tok_segmap"],
                    "encoder_depth": 1, "decoder_depth": 3, "shared_drop_path": True, "drop_path_rate_encoder": 0.1},
}


@pytest.fixture(params=CONFIGS, name="pair")
def both(request: pytest.FixtureRequest, peer: Any) -> tuple[Any, Omni]:
    """The reference and ours, with the weights that the reference saved."""
    reference, folder = peer(BARE | CONFIGS[request.param])
    return reference, load_aion(folder)


@pytest.fixture
def plain(peer: Any) -> tuple[Any, Omni]:
    reference, folder = peer(BARE)
    return reference, load_aion(folder)


def some_tokens(keys: tuple[str, ...], batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = {key: MODALITIES[key] for key in keys}
    return {key: torch.randint(1, m.vocabulary, (batch, m.tokens), generator=generator) for key, m in rows.items()}


def inputs_of(model: Omni) -> dict[str, Tensor]:
    return some_tokens(model.config.domains_in[::-1])  # an order that is not the configuration's


def count(tokens: dict[str, Tensor]) -> int:
    return sum(value.shape[1] for value in tokens.values())


def far(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def asked_publicly(reference: Any, tokens: dict[str, Tensor], targets: list[str], hidden: Any = None) -> dict[str, Tensor]:
    """What the reference's `forward` computes, also for targets whose class has no number of tokens."""
    batch = len(next(iter(tokens.values())))
    wanted = {key: torch.zeros(batch, MODALITIES[key].tokens, dtype=torch.bool) for key in targets}
    logits = reference._forward(tokens, wanted, hidden, count(wanted), count(tokens))
    return {key: value.view(batch, MODALITIES[key].tokens, -1) for key, value in logits.items()}


def asked_fully(reference: Any, tokens: dict[str, Tensor], targets: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The reference's own functions with the masks of 4M's training: all of a grid, a sequence token by token."""
    batch = len(next(iter(tokens.values())))
    x, emb, mask, _ = reference.embed_inputs(tokens, num_encoder_tokens=count(tokens))
    embedded = {}
    for key, target in targets.items():
        seen = target["tensor"].new_zeros(target["tensor"].shape)
        seen[:, 0] = seen.shape[1]
        seen = torch.ones_like(seen) if key == "catalog" else seen
        embedded[key] = reference.decoder_embeddings[key].forward_embed(
            {"target_mask": seen < 0, "decoder_attention_mask": seen} | target)
    total = sum(t["tensor"].shape[1] for t in targets.values())
    y, y_emb, _, _, y_seen, which = reference.forward_mask_decoder(embedded, total)
    if not (reference.decoder_causal_mask or reference.decoder_sep_mask):
        y_seen = torch.zeros_like(y_seen)
    y = reference._decode(reference._encode(x, emb, mask), mask, y, y_emb, y_seen)
    own = {key: y[which == reference.modality_info[key]["id"]] for key in targets}
    return {key: reference.decoder_embeddings[key].forward_logits(value).view(batch, -1, MODALITIES[key].vocabulary)
            for key, value in own.items()}


def grids(keys: list[str], batch: int = 2) -> dict[str, dict[str, Tensor]]:
    return {key: {"tensor": torch.zeros(batch, MODALITIES[key].tokens, dtype=torch.int64)} for key in keys}


# --------------------------------------------------------------------------------------------------------- same numbers


def test_encode(pair: tuple[Any, Omni]) -> None:
    reference, ours = pair
    tokens = inputs_of(ours)
    encoded = ours.encode(tokens)
    assert far(encoded.context, reference.encode(tokens, num_encoder_tokens=count(tokens))) < NEAR
    assert list(encoded.slices) == ["registers", *tokens] and encoded.visible.all()


def test_encode_each_modality_alone(plain: tuple[Any, Omni]) -> None:
    reference, ours = plain
    for key, value in some_tokens(DOMAINS).items():
        context = ours.encode({key: value}).context
        assert far(context, reference.encode({key: value}, num_encoder_tokens=value.shape[1])) < NEAR, key


def test_encode_with_hidden_tokens(pair: tuple[Any, Omni]) -> None:
    reference, ours = pair
    tokens = inputs_of(ours)
    generator = torch.Generator().manual_seed(1)
    hidden = {key: torch.rand(value.shape, generator=generator) < 0.4 for key, value in tokens.items()}
    hidden["tok_image"][0] = True  # the rows have different modalities
    hidden["tok_z"][1] = True
    theirs = reference.encode(tokens, hidden, num_encoder_tokens=count(tokens))
    encoded = ours.encode(tokens, hidden)
    for row in range(2):
        own = encoded.context[row, encoded.visible[row]]
        assert far(own, theirs[row, : len(own)]) < NEAR
    assert not encoded.context[~encoded.visible].any()
    logits, public = ours.logits(tokens, ["tok_z"], hidden, "mean"), asked_publicly(reference, tokens, ["tok_z"], hidden)
    assert far(logits["tok_z"], public["tok_z"]) < NEAR


def test_mean_is_the_public_call(pair: tuple[Any, Omni], monkeypatch: pytest.MonkeyPatch) -> None:
    reference, ours = pair
    monkeypatch.setattr(random, "sample", lambda some, k: list(some))  # the reference shuffles its targets
    tokens = inputs_of(ours)
    encoded = ours.encode(tokens)
    for targets in (["tok_z"], ["tok_xp_bp"], [key for key in ours.outputs if key != "catalog"]):
        mine, theirs = ours.decode(encoded, targets, "mean"), asked_publicly(reference, tokens, targets)
        assert list(mine) == targets and all(far(mine[key], theirs[key]) < NEAR for key in targets)


def test_mean_is_forward_itself(aion: Any, plain: tuple[Any, Omni]) -> None:
    reference, ours = plain
    tokens = some_tokens(("tok_image",))
    theirs = reference(tokens, [aion.modalities.Z, aion.modalities.GaiaXpBp])
    mine = ours.logits(tokens, ["tok_z", "tok_xp_bp"], self_attention="mean")
    assert all(far(mine[key], theirs[key]) < NEAR for key in mine)


def test_full_is_the_inner_functions_with_full_attention(pair: tuple[Any, Omni], monkeypatch: pytest.MonkeyPatch) -> None:
    reference, ours = pair
    monkeypatch.setattr(random, "sample", lambda some, k: list(some))
    tokens = inputs_of(ours)
    several = [key for key in ours.outputs if key != "catalog"]
    encoded = ours.encode(tokens)
    for targets in (["tok_segmap"], several):
        mine, theirs = ours.decode(encoded, targets), asked_fully(reference, tokens, grids(targets))
        assert all(far(mine[key], theirs[key]) < NEAR for key in targets)


def test_catalogue_as_a_target(plain: tuple[Any, Omni]) -> None:
    """Next-token logits, also of rows that are padded, also beside other targets."""
    reference, ours = plain
    tokens, ids = some_tokens(("tok_image",)), some_tokens(("catalog",), seed=5)["catalog"][:, :30]
    mine = ours.logits(tokens, ["tok_z", "catalog"], sequences={"catalog": ids})
    theirs = asked_fully(reference, tokens, grids(["tok_z"]) | {"catalog": {"tensor": ids}})
    assert mine["catalog"].shape == (2, 29, 3468) and all(far(mine[key], theirs[key]) < NEAR for key in mine)
    ids = ids.clone()
    ids[:, 20:] = 0
    padded = ours.logits(tokens, ["catalog"], sequences={"catalog": ids})["catalog"][:, :19]
    theirs = asked_fully(reference, tokens, {"catalog": {"tensor": ids, "target_mask": ids == 0}})
    assert far(padded, theirs["catalog"]) < NEAR


def test_the_reference_reads_what_we_write(aion: Any, tmp_path: Path) -> None:
    for i, changes in enumerate((CONFIGS["published"], CONFIGS["registers, own vectors"])):
        ours = Omni(OmniConfig.from_dict(BARE | changes)).eval()
        save_aion(tmp_path / str(i), ours)
        theirs = aion.AION.from_pretrained(tmp_path / str(i)).eval()
        tokens = some_tokens(DOMAINS)
        assert far(ours.encode(tokens).context, theirs.encode(tokens, num_encoder_tokens=count(tokens))) < NEAR
        theirs.save_pretrained(tmp_path / "again")
        again, mine = (load_file(tmp_path / name / "model.safetensors") for name in ("again", str(i)))
        assert again.keys() == mine.keys() and all(torch.equal(again[name], mine[name]) for name in mine)


# ------------------------------------------------------------------------------------------------- where ours is right


def test_target_tokens_tell_each_other_apart(plain: tuple[Any, Omni]) -> None:
    """The reference's forward forbids every pair of target tokens, and a softmax of nothing but forbidden is a plain mean."""
    reference, ours = plain
    tokens = some_tokens(("tok_image",))
    full, mean = (ours.logits(tokens, ["tok_xp_bp"], self_attention=kind)["tok_xp_bp"] for kind in ("full", "mean"))
    assert far(asked_publicly(reference, tokens, ["tok_xp_bp"])["tok_xp_bp"], mean) < NEAR
    assert far(asked_fully(reference, tokens, grids(["tok_xp_bp"]))["tok_xp_bp"], full) < NEAR
    assert far(full, mean) > 0.05
    alone = ours.logits(tokens, ["tok_z"])["tok_z"]  # what else is asked for does not matter; there it does
    assert far(ours.logits(tokens, ["tok_xp_bp", "tok_z"])["tok_z"], alone) < NEAR
    assert far(asked_publicly(reference, tokens, ["tok_xp_bp", "tok_z"])["tok_z"], alone) > 0.05


def test_nothing_is_cut_after_256_tokens(plain: tuple[Any, Omni]) -> None:
    reference, ours = plain
    tokens = some_tokens(("tok_image",))
    changed = {"tok_image": tokens["tok_image"].clone()}
    changed["tok_image"][:, 300:] = 7
    assert reference.encode(tokens).shape[1] == 256 and far(reference.encode(tokens), reference.encode(changed)) == 0
    context = ours.encode(tokens).context
    assert context.shape[1] == 576 and far(context, ours.encode(changed).context) > 0.05


def test_hidden_rows_are_marked(plain: tuple[Any, Omni]) -> None:
    """An average over what is visible is the same whatever is hidden beside it; over the reference's rows it is not."""
    reference, ours = plain
    tokens = some_tokens(("tok_image", "tok_spectrum_desi"))
    hidden = {"tok_spectrum_desi": torch.ones(2, 273, dtype=torch.bool)}
    alone = ours.encode({"tok_image": tokens["tok_image"]}).context.mean(1)
    encoded = ours.encode(tokens, hidden)
    visible = encoded.visible[..., None]
    assert far((encoded.context * visible).sum(1) / visible.sum(1), alone) < NEAR
    theirs = reference.encode(tokens, hidden, num_encoder_tokens=849)
    assert theirs.shape[1] == 849 and far(theirs.mean(1), alone) > 0.05


def test_a_missing_weight_is_an_error(aion: Any, peer: Any, tmp_path: Path) -> None:
    _, folder = peer(BARE)
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.1.attn.qkv.weight"]
    tensors["encoder.7.norm1.weight"] = torch.ones(32)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    aion.AION.from_pretrained(tmp_path)  # says nothing, and has random weights there
    with pytest.raises(ValueError, match=r"missing encoder\.1\.attn\.qkv\.weight; unexpected encoder\.7\.norm1\.weight"):
        load_aion(tmp_path)


def test_unrelated_random_numbers_change_nothing(peer: Any) -> None:
    reference, folder = peer(BARE | CONFIGS["causal together"])
    ours, tokens, targets = load_aion(folder), some_tokens(("tok_image",)), ["tok_z", "tok_xp_bp", "tok_flux_g"]
    theirs, mine = [], []
    for seed in range(4):
        random.seed(seed)
        state = random.getstate()
        mine.append(ours.logits(tokens, targets)["tok_z"])
        assert random.getstate() == state
        theirs.append(asked_publicly(reference, tokens, targets)["tok_z"])
    assert max(far(theirs[0], other) for other in theirs) > 0.01
    assert max(far(mine[0], other) for other in mine) == 0


@pytest.mark.parametrize(("name", "key"), [("LegacySurveyCatalog", "catalog"), ("LegacySurveySegmentationMap", "tok_segmap")])
def test_catalogue_and_segmentation_map_can_be_asked_for(aion: Any, plain: tuple[Any, Omni], name: str, key: str) -> None:
    reference, ours = plain
    tokens = some_tokens((key, "tok_z"))
    with pytest.raises(AttributeError):
        reference(tokens, getattr(aion.modalities, name))
    sequences = {"catalog": tokens["catalog"]} if key == "catalog" else None
    logits = ours.logits({"tok_z": tokens["tok_z"]}, [key], sequences=sequences)[key]
    assert logits.shape == (2, 49 if key == "catalog" else 144, MODALITIES[key].vocabulary) and logits.isfinite().all()
    assert ours.encode(tokens).context.isfinite().all()


# ------------------------------------------------------------------------------------------------------------ base size


@pytest.mark.slow
def test_base_size_loads_lean_and_runs_faster(aion: Any, tmp_path: Path) -> None:
    """In processor time of one thread, which other programs disturb least; `tools.bench.reference_omni` has the figures."""
    from tools.bench import reference_omni as bench

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reference = aion.AION(bench.BASE).eval().requires_grad_(False)
        reference.save_pretrained(tmp_path)
        computed = bench.computing(tmp_path, reference, batch=1, repeats=1)
        ours = load_aion(tmp_path)
        tokens = some_tokens(("tok_image",), batch=1)
        assert far(ours.encode(tokens).context, reference.encode(tokens, num_encoder_tokens=576)) < NEAR
        del reference
        save_aion(tmp_path / "again", ours)
        loaded = bench.loading(tmp_path / "again", repeats=2)
    finally:
        torch.set_num_threads(threads)
    for line in (*computed, *loaded):
        print(line)
    bfloat16 = 0.6 if bench.fast_bfloat16() else 10
    assert all(line.cpu_ratio < {"reference": 1.1, "float32": 0.95, "bfloat16": bfloat16}[line.program] for line in computed)
    exact = next(line for line in loaded if line.program == "float32")
    assert exact.cpu_ratio < 0.5 and exact.peak_mb is not None and exact.peak_mb < 1.15 * 314_255_616 * 4 / 2**20
