"""Losses, a file for each (CMPM and CMPC share one): a module that holds the settings and, unless it is trivial, a pure
function on tensors. All compute in fp32. Shape letters: B, the pairs that the caller gives. The models
give contrastive losses the pairs of all processes, and identity and matching losses those of one."""

from .contrastive import InfoNCELoss, info_nce_loss
from .global_association import GlobalAssociationLoss, global_association_loss
from .identity import IdentityLoss
from .masked_attributes import MaskedAttributeLoss, masked_attribute_loss
from .matching import MatchingLoss, matching_loss
from .phrases import PhraseMatchingLoss, phrase_matching_loss
from .projection import CMPCLoss, CMPMLoss, projection_classification_loss, projection_matching_loss
from .ranking import MatchRankingLoss, ranking_loss
from .similarity_distribution import SDMLoss, similarity_distribution_loss
from .triplet_alignment import TripletAlignmentLoss, triplet_alignment_losses

__all__ = [
    "CMPCLoss",
    "CMPMLoss",
    "GlobalAssociationLoss",
    "IdentityLoss",
    "InfoNCELoss",
    "MaskedAttributeLoss",
    "MatchRankingLoss",
    "MatchingLoss",
    "PhraseMatchingLoss",
    "SDMLoss",
    "TripletAlignmentLoss",
    "global_association_loss",
    "info_nce_loss",
    "masked_attribute_loss",
    "matching_loss",
    "phrase_matching_loss",
    "projection_classification_loss",
    "projection_matching_loss",
    "ranking_loss",
    "similarity_distribution_loss",
    "triplet_alignment_losses",
]
