"""What a Runner of MMEngine uses of the plugin: loops, hooks, re-ranking."""

from .consensus import ConsensusDivisionHook
from .hooks import EpochSeedHook, PendingValidationHook, ProgressHook, RankedGalleryHook
from .loops import RetrievalTestLoop, RetrievalValLoop
from .optim import BF16OptimWrapper
from .rerank import match_shortlists
from .runner import CalmRunner

__all__ = [
    "BF16OptimWrapper",
    "CalmRunner",
    "ConsensusDivisionHook",
    "EpochSeedHook",
    "PendingValidationHook",
    "ProgressHook",
    "RankedGalleryHook",
    "RetrievalTestLoop",
    "RetrievalValLoop",
    "match_shortlists",
]
