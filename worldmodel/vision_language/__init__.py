"""Frozen pretrained encoders: pictures and sentences to vectors that compare, and their cache beside the episodes."""

from worldmodel.vision_language.cache import FeatureCache
from worldmodel.vision_language.encoder import EncoderError, VisionLanguageEncoder
from worldmodel.vision_language.loading import load

__all__ = ["EncoderError", "FeatureCache", "VisionLanguageEncoder", "load"]
