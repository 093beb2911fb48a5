"""Encoders of one modality."""

from .clip import CLIPTextEncoder, CLIPVisionEncoder
from .text import BertTextEncoder, BiLSTMEncoder
from .torchreid import TorchreidEncoder
from .vision import ConvStem, ViTEncoder

__all__ = [
    "BertTextEncoder",
    "BiLSTMEncoder",
    "CLIPTextEncoder",
    "CLIPVisionEncoder",
    "ConvStem",
    "TorchreidEncoder",
    "ViTEncoder",
]
