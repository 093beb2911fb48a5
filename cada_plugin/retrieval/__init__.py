"""Two-stage retrieval, from encoded captions and images to ranked lists. Evaluation and search both use it."""

import importlib
from typing import TYPE_CHECKING

from .encoded_images import EncodedImages

if TYPE_CHECKING:
    from .rerank import match_shortlists
    from .two_stage import reranks, retrieve
    from .word_maps import token_maps, word_means

__all__ = ["EncodedImages", "match_shortlists", "reranks", "retrieve", "token_maps", "word_means"]
# These need torch; EncodedImages must work without.
_BY_MODULE = {
    "match_shortlists": "rerank",
    "reranks": "two_stage",
    "retrieve": "two_stage",
    "token_maps": "word_maps",
    "word_means": "word_maps",
}


def __getattr__(name: str) -> object:
    if name not in _BY_MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_BY_MODULE[name]}"), name)
