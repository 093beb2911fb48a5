"""From a record to tensors, in the loader's workers: decode, augment (uint8 stays uint8), tokenise, mask, pack."""

from .image import LoadPersonImage, TorchvisionTransform
from .packing import PackPersonInputs
from .text import EncodeCaptions, MaskAttributes, MaskTokens, TagAttributes

__all__ = [
    "EncodeCaptions",
    "LoadPersonImage",
    "MaskAttributes",
    "MaskTokens",
    "PackPersonInputs",
    "TagAttributes",
    "TorchvisionTransform",
]
