"""Losses, one per file: a pure function on tensors, and a module that holds its settings. All compute in fp32."""

from .global_association import GlobalAssociationLoss, global_association_loss
from .masked_attributes import MaskedAttributeLoss, masked_attribute_loss
from .matching import MatchingLoss, matching_loss

__all__ = [
    "GlobalAssociationLoss",
    "MaskedAttributeLoss",
    "MatchingLoss",
    "global_association_loss",
    "masked_attribute_loss",
    "matching_loss",
]
