"""Models on disk: safetensors and JSON, never a pickle."""

from engine.checkpoints.bundles import Bundle, load, save
from engine.checkpoints.tensors import checksum
from engine.checkpoints.training import last_step, resume, save_training

__all__ = ["Bundle", "checksum", "last_step", "load", "resume", "save", "save_training"]
