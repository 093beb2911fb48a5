"""Two-stage retrieval, from encoded captions and images to ranked lists. Evaluation and search both use it."""

from .encoded_images import EncodedImages
from .rerank import match_shortlists
from .two_stage import reranks, retrieve

__all__ = ["EncodedImages", "match_shortlists", "reranks", "retrieve"]
