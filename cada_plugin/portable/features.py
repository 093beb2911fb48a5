"""What encoders and searches return. Fields are tensors, or numpy arrays from a model that runs without torch."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class ImageFeatures(NamedTuple):
    """``embed`` (B, D) l2-normalised; ``tokens`` (B, 1+N, C) for matching, None where the model does not re-rank."""

    embed: "Tensor"
    tokens: "Tensor | None"


class TextFeatures(NamedTuple):
    """``embed`` (Q, D) l2-normalised; ids and mask (Q, T), which matching needs."""

    embed: "Tensor"
    input_ids: "Tensor"
    attention_mask: "Tensor"


class Hit(NamedTuple):
    """One image that a search found.

    ``index`` is its position in the gallery, ``path`` its file (None for a picture from memory); ``rank`` starts at 1.
    ``cosine`` is the score of stage 1. ``match`` is the raw match logit of stage 2, or None if the model does not match
    or the image is beyond the shortlist. Images of the shortlist come first, ordered by match + ``cosine_weight`` *
    cosine. The others follow, ordered by cosine; their scores cannot be compared with those of the shortlist.
    """

    index: int
    path: str | None
    rank: int
    cosine: float
    match: float | None
