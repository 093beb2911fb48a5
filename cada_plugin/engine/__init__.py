"""What a Runner of MMEngine uses of the plugin: loops and hooks."""

from .checkpoint_hook import SafeCheckpointHook
from .consensus import ConsensusDivisionHook
from .finite import FiniteCheckHook
from .hooks import EpochSeedHook, PendingValidationHook, ProgressHook, RankedGalleryHook, TrainingProgressHook
from .loops import RetrievalTestLoop, RetrievalValLoop
from .optim import BF16OptimWrapper
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
]
