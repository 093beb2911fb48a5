"""From embeddings to ranked images, in the one way that evaluation and search share."""

from .rerank import match_shortlists
from .two_stage import reranks, retrieve

__all__ = ["match_shortlists", "reranks", "retrieve"]
