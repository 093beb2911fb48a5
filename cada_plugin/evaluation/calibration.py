"""Turns the scores of a retriever into probabilities, so that a cut-off means something.

The probability that an image of score s shows the described person is estimated by logistic regression of one variable
(Platt, "Probabilistic outputs for support vector machines", 1999):

    log odds = slope * s + offset - log(G / G0)

``slope`` and ``offset`` are fitted on the shortlists of a validation split with G0 images, once for the cosine of
stage 1 and once for the final score. The last term is ours. A gallery of G images holds G / G0 times as many images of
other people at any score, while the described person has as many images as before, so the odds fall by that factor.

The probability that a single phrase is true of a picture has no such term. It is made of the log-odds of the phrase, of
how well its caption fits as a whole and of whether it tells left from right, which models hardly see. Each has a slope.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cada_plugin.errors import ConfigError
from cada_plugin.evaluation.result import RetrievalResult, stage_one_shortlist
from cada_plugin.portable.calibration import Calibration, calibration_path, sigmoid
from cada_plugin.portable.stages import FINAL, STAGE_ONE

__all__ = [
    "Calibration",
    "JudgedPhrases",
    "calibrate",
    "calibration_path",
    "fit_logistic",
    "reliability",
    "scored_pairs",
]

_FOR_STAGE_ONE = 32  # images of each query that stage 1 is calibrated on if the model has no second stage
_STEPS = 100


class JudgedPhrases(NamedTuple):
    """Phrases that a model has judged, on pictures of which it is known whether they are true."""

    features: np.ndarray
    """(n, K), see :meth:`Retriever.judge_phrases`."""
    true: np.ndarray
    """(n,) bool, as many of them true as false."""


def calibrate(
    result: RetrievalResult,
    fingerprint: str,
    about: str = "",
    phrases: JudgedPhrases | None = None,
    phrase_weight: float = 0.0,
) -> Calibration:
    """Fit slopes and offsets on the result of an evaluation.

    Args:
        phrases: as many true as false ones.
        phrase_weight: that of the model.

    Raises:
        ConfigError: a stage cannot be calibrated, because right images score no higher than wrong ones; or phrases
            cannot, because true ones are judged no higher than false ones.
    """
    stages: dict[str, tuple[float, float]] = {}
    curve: tuple[float, ...] = ()
    for stage, (scores, right) in scored_pairs(result).items():
        slope, offset = fit_logistic(scores, right)
        if not slope > 0:
            raise ConfigError(
                f"the scores of {stage} cannot be calibrated: right images do not score higher than wrong ones. Is "
                "this the checkpoint of a trained model?"
            )
        stages[stage] = slope, offset
    if phrases is not None:
        curve = _of_phrases(phrases)
    return Calibration(fingerprint, len(result.gallery_ids), result.cosine_weight, stages, about, phrase_weight, curve)


def _of_phrases(phrases: JudgedPhrases) -> tuple[float, ...]:
    """Slopes and offset. Only log-odds may have a negative slope, which is refused: a caption that fits better, or a
    phrase without a side, does not make phrases less likely, so what would is left out."""
    used = list(range(phrases.features.shape[1]))
    while True:
        *slopes, offset = fit_logistic(phrases.features[:, used], phrases.true)
        lowest = int(np.argmin(slopes[1:])) + 1 if len(slopes) > 1 else 0
        if not lowest or slopes[lowest] >= 0:
            break
        used.pop(lowest)
    judged = slopes[0]
    if not judged > 0:
        raise ConfigError(
            "single phrases cannot be calibrated: true ones are not judged higher than false ones. Is this the "
            "checkpoint of a model that was trained with loss_phrases?"
        )
    of = dict(zip(used, slopes, strict=True))
    return *(of.get(place, 0.0) for place in range(phrases.features.shape[1])), offset


def scored_pairs(result: RetrievalResult) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each stage the scores (Q*K,) of all shortlisted images, and whether each shows the query's person."""
    shortlist = result.shortlist
    if shortlist is None:
        k = min(_FOR_STAGE_ONE, len(result.gallery_ids))
        shortlist = stage_one_shortlist(result.text_embed, result.image_embed, k)
    shortlist = shortlist.cpu()
    right = result.gallery_ids[shortlist] == result.query_ids[:, None]
    found = {STAGE_ONE: _of_shortlist(result.cosine, shortlist)}
    if result.shortlist is not None:
        found[FINAL] = _of_shortlist(result.reranked, shortlist)
    return {stage: (scores.numpy().ravel(), right.numpy().ravel()) for stage, scores in found.items()}


def _of_shortlist(scores: Callable[[int, int], Tensor], shortlist: Tensor, chunk: int = 1024) -> Tensor:
    parts = [
        scores(start, min(start + chunk, len(shortlist))).cpu().gather(1, shortlist[start : start + chunk])
        for start in range(0, len(shortlist), chunk)
    ]
    return torch.cat(parts).double()


def fit_logistic(scores: np.ndarray, right: np.ndarray) -> tuple[float, ...]:
    """Slope, or slopes, and offset of the likeliest logistic curve, by Newton's method.

    Platt's targets, a little inside of 0 and 1, keep the slope finite where one score separates right from wrong.

    Args:
        scores: (n,) of one kind, or (n, K) of K kinds.
        right: (n,) bool.
    """
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        raise ConfigError("a calibration needs right and wrong images in the shortlists of the validation split")
    targets = np.where(right, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    scores = scores.reshape(len(scores), -1)
    middle, spread = scores.mean(0), scores.std(0)
    spread[spread == 0] = 1.0
    design = np.column_stack([(scores - middle) / spread, np.ones(len(scores))])  # (n, K + 1)
    weights = np.zeros(design.shape[1])
    weights[-1] = math.log(positives / negatives)
    for _ in range(_STEPS):
        p = sigmoid(design @ weights)
        gradient = design.T @ (p - targets)
        curvature = (design * (p * (1 - p))[:, None]).T @ design
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(weights)), gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    slopes = weights[:-1] / spread
    return *slopes.tolist(), float(weights[-1] - slopes @ middle)


def reliability(probabilities: np.ndarray, right: np.ndarray, bins: int = 10) -> dict[str, list[float] | float]:
    """Compares stated probabilities with what happened.

    Returns:
        ``stated`` and ``happened``, mean probability and share of right images in each bin of equal width that is not
        empty, ``count`` images in it; and ``error``, the expected calibration error: the mean over all images of the
        difference in their bin.
    """
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    filled = [one for one in range(bins) if (place == one).any()]
    stated = [float(probabilities[place == one].mean()) for one in filled]
    happened = [float(right[place == one].mean()) for one in filled]
    count = [int((place == one).sum()) for one in filled]
    error = sum(n * abs(a - b) for n, a, b in zip(count, stated, happened, strict=True)) / len(right)
    return {"stated": stated, "happened": happened, "count": count, "error": error}
