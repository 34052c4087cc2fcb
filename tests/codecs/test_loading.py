"""Codecs from local folders: what fits is loaded without a copy, all else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_codecs import CONFIGS, written

from engine.checkpoints import load_codec
from engine.codecs import CodecWarning


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("prefix", ["_quantizer.", "quantizer."])
def test_every_codec_under_both_prefixes(name: str, prefix: str, tmp_path: Path) -> None:
    codec = load_codec(written(tmp_path, name, prefix))
    assert not codec.training and not any(p.requires_grad for p in codec.parameters())
    assert all(t.device.type == "cpu" for t in codec.state_dict().values()) and codec.vocabulary > 0


def test_every_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, "image")
    tensors = load_file(folder / "model.safetensors")
    tensors["extra"] = tensors.pop("subsample_in.bias")
    tensors["pre_quant_proj.bias"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    expected = r"missing subsample_in.bias; unexpected extra; pre_quant_proj.bias is \(3,\), expected \(5,\)"
    with pytest.raises(ValueError, match=expected):
        load_codec(folder)


def test_one_table_of_many_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, "bp_coefficients")
    tensors = load_file(folder / "model.safetensors")
    del tensors["_quantizer.quantizers.17._index_to_val"]
    tensors["_quantizer.quantizers.3._reservoir"] = torch.zeros(100)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"config.json: missing _quantizer.quantizers.17._index_to_val$"):
        load_codec(folder)


def test_constants_must_agree_with_the_config(tmp_path: Path) -> None:
    folder = written(tmp_path, "image")
    tensors = load_file(folder / "model.safetensors") | {"_quantizer.levels": torch.tensor([5, 7, 5, 5, 5], dtype=torch.int32)}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"_quantizer.levels is \[5.*\], but the config makes it \[7, 5, 5, 5, 5\]"):
        load_codec(folder)


def test_a_table_that_falls_is_damage(tmp_path: Path) -> None:
    folder = written(tmp_path, "a_g")
    tensors = load_file(folder / "model.safetensors")
    tensors["_quantizer._index_to_val"][7] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="not a table of numbers that increase"):
        load_codec(folder)


def test_damaged_files_and_pickles(tmp_path: Path) -> None:
    folder = written(tmp_path, "a_g")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        load_codec(folder)
    path.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin .*pickle can run any code"):
        load_codec(folder)
    torch.save({}, path)
    with pytest.raises(ValueError, match="damaged or not a safetensors file"):
        load_codec(folder)


def test_what_is_not_there(tmp_path: Path) -> None:
    folder = written(tmp_path / "codecs", "a_g")
    with pytest.raises(FileNotFoundError, match="codecs/a_g"):
        load_codec(tmp_path)
    with pytest.raises(FileNotFoundError, match="is a file"):
        load_codec(folder / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="not there"):
        load_codec(tmp_path / "none")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_codec(folder)


@pytest.mark.parametrize(("name", "change", "message"), [
    ("image", {"embedding_dim": 4}, "contradicts itself: embedding_dim is 4"),
    ("image", {"quantizer_levels": 7}, "does not describe a image codec"),
    ("spectrum", {"codebook_size": 512}, "codebook_size is 512"),
    ("spectrum", {"decoder_dims": [16, 8, 8, 3]}, "must be 1 .flux. or 2"),
    ("segmentation_map", {"variational": True}, "variational"),
    ("bp_coefficients", {"compression_fns": ["sqrt"]}, "must be arcsinh"),
    ("a_g", {"modality": "nothing"}, None),
])
def test_configs_that_make_no_sense(name: str, change: dict, message: str | None, tmp_path: Path) -> None:
    folder = written(tmp_path, name)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name] | change))
    if message is None:  # the name of the folder still tells
        assert load_codec(folder).vocabulary == 1024
        return
    with pytest.raises(ValueError, match=message):
        load_codec(folder)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    folder = written(tmp_path, "Z").rename(tmp_path / "other")
    (folder / "config.json").write_text('{"dim": 3}')
    with pytest.raises(ValueError, match=r"not a codec of AION-1: config.json has dim"):
        load_codec(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_codec(folder)


def test_keys_that_mean_nothing_are_said(tmp_path: Path) -> None:
    folder = written(tmp_path, "Z")
    (folder / "config.json").write_text(json.dumps(CONFIGS["Z"] | {"colour": 1}))
    with pytest.warns(CodecWarning, match="colour"):
        load_codec(folder)


def test_weights_are_mapped_and_not_copied(tmp_path: Path) -> None:
    codec = load_codec(written(tmp_path, "image"))
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("this system does not say what is mapped where")
    lines = [line.split() for line in maps.read_text().splitlines() if str(tmp_path) in line]
    spans = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    assert all(any(low <= p.data_ptr() < high for low, high in spans) for p in codec.parameters())
