"""The parts of the plugin that MMEngine runs: loops, hooks, an optimiser wrapper and a Runner."""

from .checkpoint_hook import SafeCheckpointHook
from .consensus import ConsensusDivisionHook
from .finite import FiniteCheckHook
from .hooks import EpochSeedHook, PendingValidationHook, ProgressHook, RankedGalleryHook, TrainingProgressHook
from .look_alikes import LookAlikeHook
from .loops import RetrievalTestLoop, RetrievalValLoop
from .optim import BF16OptimWrapper
from .runner import CalmRunner

__all__ = [
    "BF16OptimWrapper",
    "CalmRunner",
    "ConsensusDivisionHook",
    "EpochSeedHook",
    "FiniteCheckHook",
    "LookAlikeHook",
    "PendingValidationHook",
    "ProgressHook",
    "RankedGalleryHook",
    "RetrievalTestLoop",
    "RetrievalValLoop",
    "SafeCheckpointHook",
    "TrainingProgressHook",
]
