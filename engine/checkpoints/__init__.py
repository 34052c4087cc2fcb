"""Models on disk: safetensors and JSON, never a pickle."""

from engine.checkpoints.aion import load_aion, read_config, save_aion
from engine.checkpoints.bundles import Bundle, load, save
from engine.checkpoints.codecs import load_codec
from engine.checkpoints.omni import OmniBundle
from engine.checkpoints.own_codecs import halved, save_codec
from engine.checkpoints.tokenizers import CodecBundle
from engine.checkpoints.training import last_step, restart, resume, save_training
from engine.model_files import checksum

__all__ = ["Bundle", "CodecBundle", "OmniBundle", "checksum", "halved", "last_step", "load", "load_aion", "load_codec",
           "read_config", "restart", "resume", "save", "save_aion", "save_codec", "save_training"]
