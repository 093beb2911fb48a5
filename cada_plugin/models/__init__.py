"""Models behind the retriever contract, and their parts."""

from .blip import BLIP
from .cada import CADA
from .cross_modal import CrossModalBert, ImageMemory
from .dual_encoder import CLIPRetriever, CMPMRetriever, DualEncoder
from .encoders import (
    BertTextEncoder,
    BiLSTMEncoder,
    CLIPTextEncoder,
    CLIPVisionEncoder,
    TorchreidEncoder,
    ViTEncoder,
)
from .heads import AttributeDecoder
from .irra import IRRA
from .preprocessor import PersonDataPreprocessor
from .rde import RDE
from .retriever import ImageFeatures, TextFeatures, TextImageRetriever

__all__ = [
    "BLIP",
    "CADA",
    "IRRA",
    "RDE",
    "AttributeDecoder",
    "BertTextEncoder",
    "BiLSTMEncoder",
    "CLIPRetriever",
    "CLIPTextEncoder",
    "CLIPVisionEncoder",
    "CMPMRetriever",
    "CrossModalBert",
    "DualEncoder",
    "ImageFeatures",
    "ImageMemory",
    "PersonDataPreprocessor",
    "TextFeatures",
    "TextImageRetriever",
    "TorchreidEncoder",
    "ViTEncoder",
]
