"""Codecs from a local folder as Hugging Face lays them out: config.json and model.safetensors, read strictly.

A codec that we trained says so by a "kind" in its config.json, and is read by `engine.checkpoints.own_codecs`. AION-1's have
names of their own, which stay here: each function below turns a config of theirs into one of ours, and `theirs` turns the name
of a tensor of ours into theirs. Reservoirs, from which the tables of scalars were made, are not read.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints.own_codecs import own_codec, rises
from engine.checkpoints.tensors import map_tensors
from engine.codecs import (
    CatalogCodec,
    CatalogConfig,
    Codec,
    CodecWarning,
    ImageCodec,
    ImageConfig,
    ScalarCodec,
    ScalarConfig,
    SegmentationCodec,
    SegmentationConfig,
    SpectrumCodec,
    SpectrumConfig,
)
from engine.codecs.image import SIZE
from engine.codecs.quantizers import Table
from engine.modalities import AION
from engine.model_files import read_json, refuse_pickles

Config = Mapping[str, Any]


def load_codec(folder: str | Path) -> Codec:
    """The codec in a local folder, with its tensors mapped from the file: ready to use, on the CPU.

    Which codec it is follows from config.json and, for scalars, from the name of the folder. Raises FileNotFoundError if a file
    is missing, ValueError for a pickle, a damaged file, a config that does not make sense, and if any tensor is missing,
    unexpected or of another shape (all of them are named).
    """
    folder = Path(folder)
    config = read_config(folder)
    if "kind" in config:
        return own_codec(config, folder)
    kind = kind_of(config, folder)
    try:
        with torch.device("meta"):
            codec = BUILD[kind](config, folder)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} does not describe a {kind} codec: {error}") from error
    fill(codec, folder / "model.safetensors", kind)
    return codec.eval().requires_grad_(False)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, once it is sure that there are tensors to go with it."""
    refuse_pickles(folder)
    if folder.is_file() or not folder.is_dir():
        what = "a file" if folder.is_file() else "not there"
        raise FileNotFoundError(f"{folder} is {what}; give the folder that holds config.json and model.safetensors")
    if not (folder / "model.safetensors").is_file():
        inside = sorted(p.parent.relative_to(folder).as_posix() for p in folder.glob("**/model.safetensors"))
        hint = f"; its folders {', '.join(inside)} do" if inside else ""
        raise FileNotFoundError(f"{folder} has no model.safetensors{hint}")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json, which says how large the codec is")
    return read_json(folder / "config.json")


def kind_of(config: Config, folder: Path) -> str:
    """Which codec a config describes: a key of `BUILD`."""
    telling = {"quantizer_levels": "image", "encoder_dims": "spectrum", "encoder_output_dim": "segmentation",
               "mask_value": "catalog", "num_quantizers": "multi", "min_log_value": "log"}
    found = next((kind for key, kind in telling.items() if key in config), None)
    if found is not None:
        return found
    known: dict[str, str] = {m.folder: m.codec for m in AION}
    kind = known.get(str(config.get("modality")), known.get(folder.name, ""))
    if kind not in BUILD:
        raise ValueError(f"{folder} is not a codec of AION-1: config.json has {', '.join(sorted(config)) or 'nothing'}, and "
                         f"neither its name nor its modality is one of {', '.join(sorted(known))}")
    return kind


# -- configs --------------------------------------------------------------------------------------------------------


def sizes(config: Config, names: Mapping[str, str], ignored: str = "") -> dict[str, Any]:
    """Values of a config under our names (ours -> theirs), lists as tuples; what is not there keeps our default."""
    unknown = sorted(set(config) - set(names.values()) - set(ignored.split()))
    if unknown:
        warnings.warn(f"config.json has {', '.join(unknown)}, which mean nothing to this codec", CodecWarning, stacklevel=4)
    found = {ours: config[theirs] for ours, theirs in names.items() if theirs in config}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}


def image(config: Config, _: Path) -> ImageCodec:
    ours = ImageConfig(**sizes(config, {
        "levels": "quantizer_levels", "width": "hidden_dims", "projection": "multisurvey_projection_dims",
        "halvings": "n_compressions", "units": "num_consecutive", "softening": "range_compression_factor",
        "gain": "mult_factor"}, "embedding_dim"))
    same("embedding_dim", config.get("embedding_dim", 5), "quantizer_levels", len(ours.levels))
    return ImageCodec(ours)


def spectrum(config: Config, _: Path) -> SpectrumCodec:
    ours = SpectrumConfig(**sizes(config, {
        "encoder_depths": "encoder_depths", "encoder_widths": "encoder_dims", "decoder_depths": "decoder_depths",
        "decoder_widths": "decoder_dims", "start": "lambda_min", "step": "resolution", "pixels": "num_pixels",
        "width": "latent_channels", "bits": "dim", "levels": "codebook_size", "scaling": "input_scaling",
        "clip_ivar": "clip_ivar", "clip_flux": "clip_flux"}, "embedding_dim normalization_range"))
    ours = replace(ours, strides=(4, *(2,) * (len(ours.encoder_depths) - 1)))
    same("embedding_dim", config.get("embedding_dim", 4), "dim", ours.bits)
    same("codebook_size", ours.levels, "2 ** dim", 2**ours.bits)
    same("encoder_dims[-1]", ours.encoder_widths[-1], "latent_channels", ours.width)
    if ours.decoder_widths[-1] not in (1, 2):
        raise ValueError(f"decoder_dims ends with {ours.decoder_widths[-1]}; it must be 1 (flux) or 2 (flux and mask)")
    return SpectrumCodec(ours)


def segmentation(config: Config, _: Path) -> SegmentationCodec:
    found = sizes(config, {
        "levels": "levels", "width": "encoder_output_dim", "decoder_width": "decoder_input_dim", "hidden": "res_hidden_dims",
        "layers": "num_res_layers", "halvings": "num_downsamples", "stretch": "output_activation_extension"},
        "embedding_dim variational quantisation_loss_weight lr lr_warmup begin_cosine_annealing lr_cosine_period "
        "ema_model_weights ema_decay ema_update_freq")
    found["decoder_width"] = found.get("decoder_width") or found["width"]
    ours = SegmentationConfig(**found)
    if config.get("variational"):
        raise ValueError("variational segmentation codecs are not supported: their quantiser has no matching channels")
    same("embedding_dim", config.get("embedding_dim") or ours.width, "levels", len(ours.levels))
    return SegmentationCodec(ours)


def catalog(config: Config, _: Path) -> CatalogCodec:
    return CatalogCodec(CatalogConfig(**sizes(config, {"absent": "mask_value"})))


def scalar(codec: str) -> Callable[[Config, Path], ScalarCodec]:
    def build(config: Config, folder: Path) -> ScalarCodec:
        names = {"folder": "modality", "size": "codebook_size", "floor": "min_log_value", "channels": "num_quantizers"}
        found = sizes(config, names, "reservoir_size compression_fns decompression_fns")
        functions = [config.get(key) for key in ("compression_fns", "decompression_fns")] if codec == "multi" else None
        if functions not in (None, [["arcsinh"], ["sinh"]], [["asinh"], ["sinh"]]):
            raise ValueError(f"compression and decompression must be arcsinh and sinh, got {functions}")
        return ScalarCodec(ScalarConfig(**{"folder": folder.name, "codec": codec, **found}))
    return build


def same(first: str, a: Any, second: str, b: Any) -> None:
    if a != b:
        raise ValueError(f"the config contradicts itself: {first} is {a}, but {second} makes it {b}")


BUILD: dict[str, Callable[[Config, Path], Codec]] = {
    "image": image, "spectrum": spectrum, "segmentation": segmentation, "catalog": catalog,
    **{codec: scalar(codec) for codec in ("cdf", "log", "grid", "multi")},
}

# -- tensors --------------------------------------------------------------------------------------------------------

IMAGE = {"embed": "subsample_in", "embed.conv": "model.conv_in.conv", "readout": "subsample_out",
         "readout.conv": "model.conv_out.conv", "to_code": "pre_quant_proj", "from_code": "post_quant_proj"}
IMAGE_LAYERS = {"": "conv", "conv": "net.0.conv", "mix": "net.2", "spread": "net.0", "gate.score": "net.4.to_k",
                "gate.narrow": "net.4.net.0", "gate.widen": "net.4.net.2"}
SPECTRUM = {"norm": "encoder.norm", "norm_code": "pre_quant_norm", "to_code": "quant_conv", "from_code": "post_quant_conv"}
SPECTRUM_LAYERS = {"depthwise": "dwconv", "norm": "norm", "up": "pwconv1", "down": "pwconv2", "": "grn"}
SEGMENTATION = {"to_code": "encode_proj", "from_code": "decode_proj"}
SEGMENTATION_LAYERS = {"conv": "net.1", "norm": "net.2", "mix": "net.4"}


def parts(name: str) -> tuple[str, str, str, str]:
    """"encoder.2.1.gate.score.weight" -> "encoder", "2.1", "gate.score", "weight"."""
    found = re.fullmatch(r"(encoder|decoder)\.(\d+(?:\.\d+)*)\.(?:(.+)\.)?(\w+)", name)
    assert found is not None, name
    half, place, layer, kind = found.groups()
    return half, place, layer or "", kind


def theirs(codec: Codec, name: str) -> list[str]:
    """What the file calls a tensor of ours; several names where ours is a stack of theirs."""
    stem, _, kind = name.rpartition(".")
    if isinstance(codec, ScalarCodec):
        if codec.config.codec == "multi":
            return [f"_quantizer.quantizers.{i}._index_to_val" for i in range(codec.config.channels or 0)]
        return ["_quantizer.buckets" if codec.config.codec == "grid" else "_quantizer._index_to_val"]
    if isinstance(codec, CatalogCodec):
        return [f"_quantizer.quantizers.{name.split('.')[1].upper()}._index_to_val"]
    if isinstance(codec, ImageCodec):
        if stem == "norm":
            return [f"model.encoder_layers.{len(codec.encoder)}.1.{kind}"]
        if stem in IMAGE:
            return [f"{IMAGE[stem]}.{kind}"]
        half, place, layer, kind = parts(name)
        return [f"model.{half}_layers.{place}.{IMAGE_LAYERS[layer]}.{kind}"]
    if isinstance(codec, SegmentationCodec):
        if stem in SEGMENTATION:
            return [f"{SEGMENTATION[stem]}.{kind}"]
        half, place, layer, kind = parts(name)
        inner = f".{SEGMENTATION_LAYERS[layer]}" if layer else ""
        return [f"{half}.net.{place.replace('.', '.net.')}{inner}.{kind}"]
    if name == "levels.values":
        return ["normalization_quantizer.buckets"]
    if stem in SPECTRUM:
        return [f"{SPECTRUM[stem]}.{kind}"]
    half, place, layer, kind = parts(name)
    stage, block, number = place.split(".")
    if block == "0":
        return [f"{half}.{'down' if half == 'encoder' else 'up'}sample_layers.{stage}.{number}.{kind}"]
    return [f"{half}.stages.{stage}.{number}.{SPECTRUM_LAYERS[layer]}.{kind}"]


def constants(codec: Codec) -> dict[str, Any]:
    """What a file may hold besides weights: name -> the value that it must have by the config, None where any will do."""
    if isinstance(codec, (ImageCodec, SegmentationCodec)):
        return {"_quantizer.levels": list(codec.config.levels)}
    if isinstance(codec, SpectrumCodec):
        c = codec.config
        return {"_quantizer._quantizer.mask": [2**i for i in reversed(range(c.bits))], "latent_grid.lambda_min": c.start,
                "latent_grid.resolution": c.step, "latent_grid.length": c.pixels, "latent_grid._wavelength": None}
    if isinstance(codec, CatalogCodec):
        reservoirs = {f"_quantizer.quantizers.{n.upper()}._reservoir": None for n in codec.tables}
        return reservoirs | {f"_quantizer.quantizers.{n}._codebook_size": SIZE for n in "XY"}
    assert isinstance(codec, ScalarCodec)
    rows = [""] if codec.config.codec != "multi" else [f"quantizers.{i}." for i in range(codec.config.channels or 0)]
    return {f"_quantizer.{row}_reservoir": None for row in rows}


def fill(codec: Codec, path: Path, kind: str) -> None:
    """Put the tensors of a file into a codec on the meta device, mapped where the file has them as we need them."""
    own = codec.state_dict()
    file = {re.sub(r"^quantizer\.", "_quantizer.", name): value for name, value in map_tensors(path).items()}
    check(codec, own, file, path)
    wrong = [f"{name} is {file[name].tolist()}, but the config makes it {value}" for name, value in constants(codec).items()
             if value is not None and name in file and not close(file[name].double(), value)]
    tensors = {ours: joined([file[name] for name in theirs(codec, ours)], like) for ours, like in own.items()}
    codec.load_state_dict(tensors, assign=True)
    for name, table in codec.named_modules():
        if isinstance(table, Table) and not rises(table.values):
            wrong.append(f"{', '.join(theirs(codec, f'{name}.values')[:1])} is not a table of numbers that increase")
    if wrong:
        raise ValueError(f"{path} is not the {kind} codec of its config.json: {'; '.join(wrong)}")


def check(codec: Codec, own: Mapping[str, Tensor], file: Mapping[str, Tensor], path: Path) -> None:
    """Raises ValueError naming every tensor that is missing, unexpected or of another shape."""
    expected = {name: (own[ours], len(names)) for ours in own for names in [theirs(codec, ours)] for name in names}
    spare = constants(codec)
    wrong = [f"missing {name}" for name in expected if name not in file]
    wrong += [f"unexpected {name}" for name in file
              if name not in expected and name not in spare and not name.startswith("ema.module.")]
    for name, (tensor, stacked) in expected.items():
        wanted = tuple(tensor.shape[1:] if stacked > 1 else tensor.shape)
        if name in file and squeezed(file[name].shape) != squeezed(wanted):
            wrong.append(f"{name} is {tuple(file[name].shape)}, expected {wanted}")
    if wrong:
        raise ValueError(f"{path} does not fit its config.json: {'; '.join(wrong)}")


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A 1 x 1 convolution is a linear map, and (1, 1, W) a row of W."""
    return tuple(n for n in shape if n != 1)


def joined(values: list[Tensor], like: Tensor) -> Tensor:
    """One tensor of the shape and type of ours, without a copy where one is enough."""
    value = values[0] if len(values) == 1 else torch.stack(values)
    return value.reshape(like.shape).to(like.dtype)


def close(value: Tensor, expected: Any) -> bool:
    wanted = torch.tensor(expected, dtype=torch.float64)
    return value.shape == wanted.shape and torch.allclose(value, wanted, rtol=1e-6)
