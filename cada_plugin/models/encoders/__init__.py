"""Encoders of a single modality: images or text."""

from .clip import CLIPTextEncoder, CLIPVisionEncoder
from .text import BertTextEncoder, BiLSTMEncoder
from .torchreid import TorchreidEncoder
from .vision import ConvStem, ResidualStem, ViTEncoder

__all__ = [
    "BertTextEncoder",
    "BiLSTMEncoder",
    "CLIPTextEncoder",
    "CLIPVisionEncoder",
    "ConvStem",
    "ResidualStem",
    "TorchreidEncoder",
    "ViTEncoder",
]
