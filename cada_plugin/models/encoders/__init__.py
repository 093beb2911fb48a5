"""Encoders of one modality."""

from .vision import ConvStem, ViTEncoder

__all__ = ["ConvStem", "ViTEncoder"]
