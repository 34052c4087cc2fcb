"""Codecs: measurements to tokens and back, for AION-1 and models like it. `engine.checkpoints.load_codec` loads them."""

from engine.codecs.border import CodecWarning
from engine.codecs.catalog import CatalogCodec, CatalogConfig
from engine.codecs.compact import CompactConfig, CompactImageCodec
from engine.codecs.fast import fast
from engine.codecs.image import ImageCodec, ImageConfig
from engine.codecs.scalars import ScalarCodec, ScalarConfig
from engine.codecs.segmentation import SegmentationCodec, SegmentationConfig
from engine.codecs.spectrum import SpectrumCodec, SpectrumConfig

Codec = CatalogCodec | CompactImageCodec | ImageCodec | ScalarCodec | SegmentationCodec | SpectrumCodec

__all__ = ["CatalogCodec", "CatalogConfig", "Codec", "CodecWarning", "CompactConfig", "CompactImageCodec", "ImageCodec",
           "ImageConfig", "ScalarCodec", "ScalarConfig", "SegmentationCodec",
           "SegmentationConfig", "SpectrumCodec", "SpectrumConfig", "fast"]
