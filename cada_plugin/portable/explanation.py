"""Why a caption fits a picture: what explanations hold. Works without torch."""

from dataclasses import dataclass

import numpy as np

from cada_plugin.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Phrase:
    """One attribute phrase of a caption, such as "red coat".

    Attributes:
        text: its words.
        start, stop: its place [start, stop) in ``words`` of the explanation.
        change: the match logit of the caption without the phrase, minus that of the whole caption. A negative number
            speaks for the picture: without the phrase the picture fits less. None if the caption has no other word.
        map: (rows, columns) the mean of the maps of its words; None without PyTorch.
        probability: that the phrase is true of the picture, where as many phrases are true as false; None where the
            model did not learn to judge phrases (``CADA(loss_phrases=...)``), and without PyTorch.
    """

    text: str
    start: int
    stop: int
    change: float | None
    map: np.ndarray | None
    probability: float | None = None

    @property
    def verdict(self) -> str | None:
        """``yes`` from a probability of two thirds, ``no`` up to one third, ``unsure`` between; None without one."""
        if self.probability is None:
            return None
        return "yes" if self.probability >= 2 / 3 else "no" if self.probability <= 1 / 3 else "unsure"


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a caption fits a picture, or does not.

    Attributes:
        caption: as it was given.
        words: of the cleaned caption, as many as the model reads.
        match: the match logit of the whole caption.
        probability: that the picture shows the described person, where the retriever is calibrated; else None.
        phrases: attribute phrases, in the order of the caption.
        word_maps: (words, rows, columns), from 0 on: how much of the match logit each word owes to each part of the
            picture as the model sees it, row 0 at the top. None without PyTorch.
        layer: the layer of the cross-attention that the maps are of, from 0; None without PyTorch.
    """

    caption: str
    words: tuple[str, ...]
    match: float
    probability: float | None
    phrases: tuple[Phrase, ...]
    word_maps: np.ndarray | None
    layer: int | None


def patch_grid(patches: int, size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) in which N patches cover an image of ``size`` (H, W), if patches are about square.

    >>> patch_grid(192, (384, 128))
    (24, 8)

    Raises:
        ConfigError: no grid of so many patches has about the shape of the image.
    """
    height, width = size
    rows = min(
        (rows for rows in range(1, patches + 1) if patches % rows == 0),
        key=lambda rows: abs(np.log(rows * rows * width / (patches * height))),
    )
    if not 0.5 < rows * rows * width / (patches * height) < 2:
        raise ConfigError(
            f"{patches} image tokens are no grid over an image of {height} x {width} pixels (H x W), so they cannot be "
            "drawn as a map: maps need an image encoder whose tokens are a class token and the patches row by row"
        )
    return rows, patches // rows
