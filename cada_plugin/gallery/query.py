"""What is searched for, and the formulas by which several sentences and pictures become one score.

With e the normalised embeddings of sentences s, pictures p to be like, and sentences n to be unlike, stage 1 scores an
image g by

- *and* (default): mean over all s and p of e . e(g), a soft "and": an image that fits one sentence very well can make
  up for another. The mean is linear, so that one search finds the best;
- *or*: the largest e . e(g) over all s and p;
- *without*: minus ``without_weight`` times the mean over all n of e(n) . e(g). A sentence with a negation inside would
  not do: image-text models hardly read "no" and "without" (NegBench, arXiv 2501.09425).

Stage 2 combines the match logits of the sentences in the same way, and adds ``cosine_weight`` times the stage-1 score.

*Feedback* moves the stage-1 query by ``2 * mean(right) - mean(wrong)`` of the embeddings of hits that were marked,
times ``feedback_weight`` (Rocchio's formula, without training).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cada_plugin.errors import ConfigError
from cada_plugin.gallery.store import Filter


@dataclass(frozen=True)
class Query:
    """A search.

    Attributes:
        sentences: descriptions of the person.
        like: pictures of somebody who looks like the person: paths, PIL images or arrays.
        without: what the person must not have, each as a description of its own ("a hat").
        combine: ``and`` or ``or``, see the module.
        only: which rows may be found.
        topk: number of hits.
        min_score: least stage-1 score of a hit; None allows any.
        per_person: keep the best image of each person (or track); images of nobody known are all kept.
        right, wrong: ids of hits of earlier searches that show the person, and that do not.
        without_weight, feedback_weight: of the formulas in the module.
    """

    sentences: Sequence[str] = ()
    like: Sequence[object] = ()
    without: Sequence[str] = ()
    combine: str = "and"
    only: Filter = field(default_factory=Filter)
    topk: int = 10
    min_score: float | None = None
    per_person: bool = False
    right: Sequence[str] = ()
    wrong: Sequence[str] = ()
    without_weight: float = 0.5
    feedback_weight: float = 0.5

    def __post_init__(self) -> None:
        if not self.sentences and not self.like:
            raise ConfigError("a search needs a sentence, or a picture to be like: give one at least")
        if self.combine not in ("and", "or"):
            raise ConfigError(f"combine={self.combine!r}: use 'and' or 'or'")
        if self.topk < 1:
            raise ConfigError(f"topk={self.topk}: use an integer from 1")


def stage_one_vectors(
    query: Query, wanted: np.ndarray, unwanted: np.ndarray, right: np.ndarray, wrong: np.ndarray
) -> np.ndarray:
    """Vectors (V, D) whose products with an image's embedding are combined by maximum: one for *and*, one for each
    sentence and picture for *or*. Arguments are embeddings, (n, D) each, of which all but ``wanted`` may be empty."""
    vectors = wanted.mean(0, keepdims=True) if query.combine == "and" else wanted
    if len(unwanted):
        vectors = vectors - query.without_weight * unwanted.mean(0)
    if len(right):
        vectors = vectors + query.feedback_weight * 2 * right.mean(0)
    if len(wrong):
        vectors = vectors - query.feedback_weight * wrong.mean(0)
    return vectors.astype(np.float32)


def combined_logits(query: Query, wanted: np.ndarray, unwanted: np.ndarray) -> np.ndarray:
    """Match logits (K,) of one search from those of its sentences, (n, K), and of its ``without``, (m, K)."""
    logits = wanted.mean(0) if query.combine == "and" else wanted.max(0)
    return logits - query.without_weight * unwanted.mean(0) if len(unwanted) else logits
