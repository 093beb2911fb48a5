"""Models behind the retriever contract, and their parts.

Every module of this folder is imported here, so that a new model is registered by being in it.
"""

import importlib
import pkgutil

from .attribute_decoder import AttributeDecoder
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
from .fusion import FusionRetriever
from .groupings import Grouping, PhraseGroups, PositionGroups, TokenGroups
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
    "FusionRetriever",
    "Grouping",
    "ImageFeatures",
    "ImageMemory",
    "PersonDataPreprocessor",
    "PhraseGroups",
    "PositionGroups",
    "TextFeatures",
    "TextImageRetriever",
    "TokenGroups",
    "TorchreidEncoder",
    "ViTEncoder",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
