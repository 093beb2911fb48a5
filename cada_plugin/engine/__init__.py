"""What a Runner of MMEngine uses of the plugin: loops, hooks, re-ranking."""

from .checkpoint_hook import SafeCheckpointHook
from .consensus import ConsensusDivisionHook
from .finite import FiniteCheckHook
from .hooks import EpochSeedHook, PendingValidationHook, ProgressHook, RankedGalleryHook, TrainingProgressHook
from .loops import RetrievalTestLoop, RetrievalValLoop
from .optim import BF16OptimWrapper
from .rerank import match_shortlists
from .runner import CalmRunner

__all__ = [
    "BF16OptimWrapper",
    "CalmRunner",
    "ConsensusDivisionHook",
    "EpochSeedHook",
    "FiniteCheckHook",
    "PendingValidationHook",
    "ProgressHook",
    "RankedGalleryHook",
    "RetrievalTestLoop",
    "RetrievalValLoop",
    "SafeCheckpointHook",
    "TrainingProgressHook",
    "match_shortlists",
]
