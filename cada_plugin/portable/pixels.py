"""Resize pictures as torchvision does in a test pipeline, without torch."""

import numpy as np
from PIL import Image

RESIZES = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
"""Interpolations by torchvision's name. torchvision resizes uint8 tensors by Pillow's algorithm (with antialiasing), so
that pixels differ by rounding alone: by one level of 255 at most, by two with ``bicubic``."""


def resized(image: Image.Image, size: tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    """An RGB image as uint8 (3, H, W), resized to ``size`` (H, W) without keeping its aspect ratio."""
    small = image.resize(size[::-1], RESIZES[interpolation])
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))
