"""From embeddings to ranked images, in the one way that evaluation and search share."""

from .encoded_images import EncodedImages
from .rerank import match_shortlists
from .two_stage import reranks, retrieve

__all__ = ["EncodedImages", "match_shortlists", "reranks", "retrieve"]
