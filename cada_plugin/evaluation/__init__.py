"""Retrieval metrics and what can be said from them. Nothing here runs a model."""

from cada_plugin.evaluation.ranking import average_ranks, rank_metrics, rank_queries
from cada_plugin.evaluation.significance import paired_bootstrap
from cada_plugin.evaluation.torchreid_ranker import torchreid_rank_metrics

__all__ = ["average_ranks", "paired_bootstrap", "rank_metrics", "rank_queries", "torchreid_rank_metrics"]
