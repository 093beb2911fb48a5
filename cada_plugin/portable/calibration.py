"""Probabilities from scores, by the slopes and offsets that :mod:`cada_plugin.evaluation.calibration` fits."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from cada_plugin.errors import ConfigError
from cada_plugin.files import write_json
from cada_plugin.portable.stages import PHRASES

_FORMAT = "cada_plugin.calibration.1"


@dataclass(frozen=True)
class Calibration:
    """Slopes and offsets that turn scores into probabilities.

    Attributes:
        fingerprint: of the model whose scores these are.
        gallery_images: G0, the number of images of the split that it was fitted on.
        cosine_weight: weight of the cosine in the final score.
        stages: (slope, offset) of each calibrated stage, ``t2i_global`` (score: the cosine) and ``t2i`` (score: match
            logit + ``cosine_weight`` * cosine); ``phrases`` where the model judges phrases (score: their log-odds).
        about: what it was fitted on, for people.
        phrase_weight: of the evidence of phrases in the match logit, see ``CADA``.
        things: (slope, offset) of the phrases about a thing, see ``Meaning.thing``; the other phrases have those of the
            stage ``phrases``.
    """

    fingerprint: str
    gallery_images: int
    cosine_weight: float
    stages: Mapping[str, tuple[float, float]]
    about: str = ""
    phrase_weight: float = 0.0
    things: Mapping[str, tuple[float, float]] = field(default_factory=dict)

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

    def phrase_probability(self, log_odds: np.ndarray, things: Sequence[str | None]) -> np.ndarray:
        """The probability (n,) that phrases about n things are true of a picture of somebody who looks similar to the
        described person, where as many phrases are true as false. Log-odds that were not calibrated are taken as they
        are."""
        common = self.stages.get(PHRASES, (1.0, 0.0))
        curves = [self.things.get(thing or "", common) for thing in things]
        slopes, offsets = np.array(curves, dtype=np.float64).reshape(-1, 2).T
        return sigmoid(slopes * np.asarray(log_odds, dtype=np.float64) + offsets)

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
            for key, curves in (("stages", content["stages"]), ("things", content.get("things", {}))):
                content[key] = {name: (float(a), float(b)) for name, (a, b) in curves.items()}
            calibration = cls(**content)
            numbers = [*calibration.stages.values(), *calibration.things.values()]
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
