"""Transforms from an item to tensors, run in the loader's workers: decode, augment (in uint8), tokenise, mask, pack."""

from .image import LoadPersonImage, TorchvisionTransform
from .packing import PackPersonInputs
from .text import (
    ContradictPhrases,
    EncodeCaptions,
    FalsifyCaption,
    KeepPhrases,
    MaskAttributes,
    MaskTokens,
    ReadPhrases,
    TagAttributes,
)

__all__ = [
    "ContradictPhrases",
    "EncodeCaptions",
    "FalsifyCaption",
    "KeepPhrases",
    "LoadPersonImage",
    "MaskAttributes",
    "MaskTokens",
    "PackPersonInputs",
    "ReadPhrases",
    "TagAttributes",
    "TorchvisionTransform",
]
