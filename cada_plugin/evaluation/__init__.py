"""Retrieval metrics: pure functions on scores, and the MMEngine metric around them."""

from .metric import TextToImageRetrieval
from .ranking import mean_metrics, rank_metrics, rank_queries
from .result import RankedImage, RetrievalResult, TwoStageScores
from .significance import paired_bootstrap, smallest_detectable
from .torchreid_ranker import torchreid_rank_metrics

__all__ = [
    "RankedImage",
    "RetrievalResult",
    "TextToImageRetrieval",
    "TwoStageScores",
    "mean_metrics",
    "paired_bootstrap",
    "rank_metrics",
    "rank_queries",
    "smallest_detectable",
    "torchreid_rank_metrics",
]
