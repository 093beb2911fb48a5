"""Retrieval metrics: pure functions on scores, and the MMEngine metric around them."""

from .metric import TextToImageRetrieval
from .ranking import average_ranks, rank_metrics, rank_queries
from .result import RankedImage, RetrievalResult, ranked_images
from .significance import paired_bootstrap
from .torchreid_ranker import torchreid_rank_metrics

__all__ = [
    "RankedImage",
    "RetrievalResult",
    "TextToImageRetrieval",
    "average_ranks",
    "paired_bootstrap",
    "rank_metrics",
    "rank_queries",
    "ranked_images",
    "torchreid_rank_metrics",
]
