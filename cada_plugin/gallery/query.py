"""What is searched for, and the formulas by which several sentences and pictures become one score.

Stage 1 scores an image g by products with its embedding e(g). All embeddings are l2-normalised.

- *and* (default): the sentences are joined into one caption c, and the score is e(c) . e(g). If the model would cut
  that caption, the mean of e(s) over the sentences s takes the place of e(c). Pictures p to be like join the mean: the
  score is then (e(c) + sum of e(p)) . e(g) / (1 + number of p).
- *or*: the largest e(s) . e(g) or e(p) . e(g) over all sentences and pictures.
- *without*: ``without_weight`` times the mean of e(n) . e(g) over the sentences n is subtracted. A negation inside a
  sentence would not do: image-text models hardly read "no" and "without" (NegBench, arXiv 2501.09425).
- *feedback*: hits that were marked are left out. If some were marked right, ``feedback_weight`` times
  2 * mean of e(right) - mean of e(wrong) is added to the query (Rocchio's formula, without training).
- *hubness*: ``hubness_weight`` times the hubness of the image is subtracted, see :mod:`cada_plugin.portable.hubness`.

Stage 2 adds ``cosine_weight`` times this score to the match logit of the joined caption; to the mean of the sentences'
logits if the caption would be cut; or, for *or*, to the largest of them. After feedback with a right hit there is no
stage 2: an image of the person says more than the sentence does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cada_plugin.errors import ConfigError
from cada_plugin.gallery.store import Filter, refuse_one_text


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
        min_score: least ``score`` of a hit, a probability; it needs a calibrated model and a query of sentences alone.
        min_cosine: least stage-1 score of a hit.
        per_person: keep the best image of each person (or track); images without a known person are all kept.
        right, wrong: ids of hits of earlier searches that show the person, and that do not.
        rerank: False leaves stage 2 out, which is faster: hits come in the order of stage 1.
        without_weight, feedback_weight, hubness_weight: of the formulas in the module.
    """

    sentences: Sequence[str] = ()
    like: Sequence[object] = ()
    without: Sequence[str] = ()
    combine: str = "and"
    only: Filter = field(default_factory=Filter)
    topk: int = 10
    min_score: float | None = None
    min_cosine: float | None = None
    per_person: bool = False
    right: Sequence[str] = ()
    wrong: Sequence[str] = ()
    rerank: bool = True
    without_weight: float = 0.5
    feedback_weight: float = 0.5
    hubness_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in ("sentences", "like", "without", "right", "wrong"):
            refuse_one_text(name, getattr(self, name))
        if not self.sentences and not self.like:
            raise ConfigError("a search needs a sentence, or a picture to be like: give one at least")
        if self.combine not in ("and", "or"):
            raise ConfigError(f"combine={self.combine!r}: use 'and' or 'or'")
        if self.topk < 1:
            raise ConfigError(f"topk={self.topk}: use an integer from 1")
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score={self.min_score}: use a probability from 0 to 1")

    @property
    def of_sentences_alone(self) -> bool:
        """Whether scores are those that a calibration was fitted on."""
        return bool(self.sentences) and not (self.like or self.without or self.right or self.hubness_weight)


def joined(sentences: Sequence[str]) -> str:
    """Several sentences as one caption."""
    return " ".join(f"{sentence.strip().rstrip('.')}." for sentence in sentences)


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


def combined_logits(query: Query, logits: np.ndarray) -> np.ndarray:
    """Match logits (K,) of one search from those of its captions, (n, K)."""
    return logits.mean(0) if query.combine == "and" else logits.max(0)
