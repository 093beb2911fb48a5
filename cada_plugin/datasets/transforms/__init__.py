"""Transforms from an item to tensors, run in the loader's workers: decode, augment (in uint8), tokenise, mask, pack."""

from .image import LoadPersonImage, TorchvisionTransform
from .packing import PackPersonInputs
from .text import EncodeCaptions, FalsifyCaption, FalsifyPhrases, KeepPhrases, MaskAttributes, MaskTokens, TagAttributes

__all__ = [
    "EncodeCaptions",
    "FalsifyCaption",
    "FalsifyPhrases",
    "KeepPhrases",
    "LoadPersonImage",
    "MaskAttributes",
    "MaskTokens",
    "PackPersonInputs",
    "TagAttributes",
    "TorchvisionTransform",
]
