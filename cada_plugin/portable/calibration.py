"""Probabilities from scores, by the slopes and offsets that :mod:`cada_plugin.evaluation.calibration` fits."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from cada_plugin.errors import ConfigError
from cada_plugin.files import write_json

_FORMAT = "cada_plugin.calibration.1"


@dataclass(frozen=True)
class Calibration:
    """Slopes and offsets that turn scores into probabilities.

    Attributes:
        fingerprint: of the model whose scores these are.
        gallery_images: G0, the number of images of the split that it was fitted on.
        cosine_weight: weight of the cosine in the final score.
        stages: (slope, offset) of each calibrated stage, ``t2i_global`` (score: the cosine) and ``t2i`` (score: match
            logit + ``cosine_weight`` * cosine).
        about: what it was fitted on, for people.
        phrase_weight: of the evidence of phrases in the match logit, see ``CADA``.
        phrase_curve: slopes and offset of the log-odds of single phrases, see :meth:`phrase_probability`. Empty where
            phrases were not calibrated.
    """

    fingerprint: str
    gallery_images: int
    cosine_weight: float
    stages: Mapping[str, tuple[float, float]]
    about: str = ""
    phrase_weight: float = 0.0
    phrase_curve: tuple[float, ...] = ()

    def probability(self, stage: str, scores: np.ndarray, gallery_images: int) -> np.ndarray:
        """The probability that images show the described person.

        Args:
            stage: the stage that the scores are of.
            scores: any shape.
            gallery_images: G, the number of images that were searched.
        """
        slope, offset = self.stages[stage]
        prior = math.log(max(gallery_images, 1) / self.gallery_images)
        return sigmoid(slope * np.asarray(scores, dtype=np.float64) + offset - prior)

    def phrase_probability(self, features: np.ndarray) -> np.ndarray:
        """The probability (n,) that phrases are true of a picture of somebody who looks similar to the described
        person, where as many phrases are true as false.

        Args:
            features: (n, K), see ``Retriever.judge_phrases``. If phrases were not calibrated, the first, their
                log-odds, is taken as it is.

        Raises:
            ConfigError: another version of the plugin made the calibration, from other features.
        """
        if not self.phrase_curve:
            return sigmoid(features[:, 0])
        *slopes, offset = self.phrase_curve
        if len(slopes) != features.shape[1]:
            raise ConfigError(
                f"the calibration has {len(slopes)} slopes for what is known of a phrase, and this version knows "
                f"{features.shape[1]} things of it: make it again with `cada calibrate`"
            )
        return sigmoid(features @ slopes + offset)

    def save(self, path: Path) -> None:
        write_json(path, {"format": _FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read a file that :meth:`save` wrote.

        Raises:
            ConfigError: the file cannot be read or holds something else.
        """
        advice = "make it again with `cada calibrate`, or remove it"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise ValueError("it has another format")
            content["stages"] = {stage: (float(a), float(b)) for stage, (a, b) in content["stages"].items()}
            content["phrase_curve"] = tuple(float(n) for n in content.get("phrase_curve", ()))
            calibration = cls(**content)
            numbers = [*chain.from_iterable(calibration.stages.values()), *calibration.phrase_curve]
            if len(calibration.phrase_curve) == 1:
                raise ValueError("phrases have no slope")
            if not np.isfinite(numbers).all() or calibration.gallery_images < 1:
                raise ValueError("its numbers are impossible")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path} is no calibration that this version reads ({error}): {advice}") from error
        return calibration


def calibration_path(checkpoint: Path) -> Path:
    """Where the calibration of a checkpoint is kept: ``model.pth`` has ``model.calibration.json`` beside it."""
    return checkpoint.with_name(f"{checkpoint.stem}.calibration.json")


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))
