"""Whether explanations are faithful: do maps point at what a phrase names, and does the score follow them?

Pure computation on maps, boxes and scores; ``examples/explain_faithfulness.py`` applies it to a model. Maps are
compared with others on the same phrases: a random map, the map of another phrase, attention without its gradient.

Shape letters: N = rows * columns patches of a map, K steps of a curve, Q phrases or captions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cada_plugin.errors import ConfigError
from cada_plugin.evaluation.significance import paired_bootstrap

ALPHA = 0.01
"""A map wins over another one below this p-value."""


def hottest_first(map: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patches (N,) of a map (rows, columns), hottest first. Equal ones come in random order, so that a map that is 0
    everywhere points nowhere in particular."""
    return np.lexsort((rng.random(map.size), -map.ravel()))


def patch_centre(patch: int, grid: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """(x, y) in pixels of the centre of a patch, of a ``grid`` (rows, columns) over a picture of ``size`` (H, W).

    >>> patch_centre(5, (8, 4), (128, 64))  # the second one of the second row
    (24.0, 24.0)
    """
    row, column = divmod(patch, grid[1])
    return (column + 0.5) * size[1] / grid[1], (row + 0.5) * size[0] / grid[0]


def centres_in(boxes: Sequence[Sequence[float]], grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """(N,) bool, whether the centre of each patch lies in one of the ``boxes`` (left, top, right, bottom; the last two
    exclusive) in pixels."""
    x, y = np.array([patch_centre(patch, grid, size) for patch in range(grid[0] * grid[1])]).T
    inside = [(left <= x) & (x < right) & (top <= y) & (y < bottom) for left, top, right, bottom in boxes]
    return np.any(inside, axis=0)


def hiding_steps(order: np.ndarray, steps: int) -> np.ndarray:
    """Which patches are hidden (K + 1, N) bool, when they go in this ``order`` in ``steps`` about equal steps: none at
    first, all at the end."""
    place = np.argsort(order)  # of each patch
    return place < np.round(np.arange(steps + 1) * len(order) / steps)[:, None]


def with_hidden(
    picture: np.ndarray, hidden: np.ndarray, grid: tuple[int, int], fill: tuple[int, int, int]
) -> np.ndarray:
    """The uint8 picture (H, W, 3) with its ``hidden`` patches (N,) bool in the colour ``fill``."""
    height, width, _ = picture.shape
    rows, columns = np.arange(height) * grid[0] // height, np.arange(width) * grid[1] // width
    covered = hidden.reshape(grid)[rows[:, None], columns]  # (H, W)
    return np.where(covered[..., None], np.array(fill, np.uint8), picture)


def area(scores: np.ndarray) -> float:
    """Area under a curve of K + 1 scores at equal steps from 0 to 1, by the trapezoid rule: its mean height."""
    scores = np.asarray(scores, np.float64)
    return float((scores[:-1] + scores[1:]).mean() / 2)


def compare(
    scores: Mapping[str, np.ndarray], higher: bool, groups: np.ndarray, ours: str = "map"
) -> dict[str, dict[str, float]]:
    """Means of each kind of map, and the paired gain of ``ours`` over each other.

    Args:
        scores: (Q,) of each kind on the same Q phrases.
        higher: whether a high score is good.
        groups: (Q,) person of each phrase. People are resampled: phrases of one person are not independent.

    Returns:
        For each kind ``mean``; and but for ``ours``, ``gain``, the mean by which ours is better, with ``low`` and
        ``high``, its 95% confidence interval, and ``p``, the one-sided p-value (0: below 1/10,000).
    """
    if ours not in scores:
        raise ConfigError(f"scores of {', '.join(scores)}: there are none of {ours!r}, which is compared with the rest")
    sign = 1 if higher else -1
    found = {}
    for name, values in scores.items():
        found[name] = {"mean": float(np.mean(values))}
        if name != ours:
            gain = paired_bootstrap(sign * np.asarray(values), sign * np.asarray(scores[ours]), groups=groups)
            found[name] |= {"gain": gain["difference"], "low": gain["low"], "high": gain["high"], "p": gain["p_value"]}
    return found


def lost(comparisons: Mapping[str, Mapping[str, Mapping[str, float]]], alpha: float = ALPHA) -> list[str]:
    """The comparisons of each measure that ours does not win at ``alpha``, as "measure: over other"."""
    return [
        f"{measure}: over {name}"
        for measure, of_kinds in comparisons.items()
        for name, figures in of_kinds.items()
        if "p" in figures and not figures["p"] < alpha
    ]


def conclusion(what: str, comparisons: Mapping[str, Mapping[str, Mapping[str, float]]], alpha: float = ALPHA) -> str:
    """What to say of explanations by these outputs of :func:`compare`: they explain only if they win everywhere."""
    failed = lost(comparisons, alpha)
    if not failed:
        return f"{what} explain: better than everything that they were compared with, by every measure (p < {alpha})."
    return f"{what} do NOT explain by these measures. Not better at p < {alpha}: {'; '.join(failed)}."
