"""Metrics of sentences that many people fit, and of sentences with a mistake: pure functions of scores.

A searcher often knows one or two things ("a red coat"), and then every person of whom they are true is a right answer.
So relevance is a mask over the images here, and not one person for each query as in :mod:`.ranking`.

Shapes: Q queries, G gallery images.
"""

import numpy as np

from cada_plugin.evaluation.ranking import Similarity, _blocks

AT = 10
"""The n of precision at n: as many pictures as a page of results shows."""


def rank_relevant(similarity: Similarity, relevant: np.ndarray) -> dict[str, np.ndarray]:
    """Average precision, and precision among the first ten images, of queries with many relevant images.

    Images of equal score rank in gallery order, as in :func:`~cada_plugin.evaluation.rank_queries`. If the gallery has
    fewer than ten images, the others count as wrong.

    >>> scores = np.array([[0.9, 0.5, 0.1]])
    >>> rank_relevant(scores, np.array([[True, False, True]]))["ap"]
    array([0.83333333])

    Args:
        similarity: (Q, G), or in chunks, as for :func:`~cada_plugin.evaluation.rank_queries`.
        relevant: (Q, G) bool, True where an image is a right answer.

    Returns:
        ``ap`` (Q,), and ``precision`` (Q,), both fractions.

    Raises:
        ValueError: shapes do not fit, a similarity is NaN, or a query has no relevant image.
    """
    relevant = np.asarray(relevant)
    if relevant.ndim != 2 or relevant.dtype != bool or relevant.size == 0:
        raise ValueError(f"relevant is {relevant.dtype} of shape {relevant.shape}: expected bool (queries, images)")
    counts = relevant.sum(1)
    if not counts.all():
        raise ValueError(
            f"query {int((counts == 0).argmax())} has no relevant image, so its precision is not defined: leave it out"
        )
    num_queries, num_images = relevant.shape
    result = {"ap": np.empty(num_queries), "precision": np.empty(num_queries)}
    for start, block in _blocks(similarity, num_queries, num_images, 512):
        rows = slice(start, start + len(block))
        order = np.argsort(-block, axis=1, kind="stable")  # (n, G)
        right = np.take_along_axis(relevant[rows], order, axis=1)
        precision = right.cumsum(1) / np.arange(1, num_images + 1)
        result["ap"][rows] = (precision * right).sum(1) / counts[rows]
        result["precision"][rows] = right[:, :AT].sum(1) / AT
    return result


def best_precision(relevant: np.ndarray) -> float:
    """Mean over the queries of the largest possible precision among the first ten images, a fraction. It is below 1 if
    fewer than ten images are relevant; ``relevant`` is (Q, G) bool."""
    return float(np.minimum(relevant.sum(1), AT).mean() / AT)


def rank_change(true: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """What a mistake in a caption does to the rank of the person it is otherwise true of.

    >>> rank_change(np.array([0, 0, 3]), np.array([0, 4, 1]))["moved_down"]
    33.33333333333333

    Args:
        true: (Q,) rank of the person's best image for each true caption, from 0; ``first_rank`` of
            :func:`~cada_plugin.evaluation.rank_queries`.
        wrong: (Q,) the same for the caption with the mistake.

    Returns:
        ``moved_down`` and ``moved_up``, the shares in percent of captions whose person ranks lower or higher with the
        mistake.

    Raises:
        ValueError: shapes differ, or there is no caption.
    """
    true, wrong = np.asarray(true), np.asarray(wrong)
    if true.ndim != 1 or true.shape != wrong.shape or true.size == 0:
        raise ValueError(
            f"ranks have shapes {true.shape} and {wrong.shape}: expected one for each caption in both, (Q,)"
        )
    return {
        "moved_down": float((wrong > true).mean() * 100),
        "moved_up": float((wrong < true).mean() * 100),
    }
