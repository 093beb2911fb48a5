"""Models behind the retriever contract, and their parts."""

from .cada import CADA
from .cross_modal import CrossModalBert, ImageMemory
from .encoders import ViTEncoder
from .heads import AttributeDecoder
from .preprocessor import PersonDataPreprocessor
from .retriever import ImageFeatures, TextFeatures, TextImageRetriever

__all__ = [
    "CADA",
    "AttributeDecoder",
    "CrossModalBert",
    "ImageFeatures",
    "ImageMemory",
    "PersonDataPreprocessor",
    "TextFeatures",
    "TextImageRetriever",
    "ViTEncoder",
]
