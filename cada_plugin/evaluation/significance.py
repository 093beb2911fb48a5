"""Would one model still beat the other on other test captions, and how large must a difference be to be seen at all?"""

import math
from statistics import NormalDist

import numpy as np

from cada_plugin.errors import ConfigError

_DRAWS_AT_ONCE = 4_000_000  # sampled indices held at once, 32 MB


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    num_samples: int = 10_000,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> dict[str, float]:
    """Mean gain of ``b`` over ``a`` on the same queries, with its p-value and confidence interval.

    Args:
        a, b: (Q,) one number per query for each of two models, such as ``ap`` of
            :func:`~cada_plugin.evaluation.rank_queries`, or ``first_rank < 1`` for R@1.
        num_samples: number of resamples.
        seed: the same seed gives the same result.
        groups: (Q,) person of each query. If given, persons are resampled instead of queries. That is right when a
            person has several captions, because these are not independent: they tend to succeed or fail together.

    Returns:
        ``difference``, the mean of b - a; ``p_value``, the one-sided share of resamples in which b does not beat a (a
        value of 0 means "below 1/num_samples"); ``low`` and ``high``, the two-sided 95% confidence interval of the
        difference; ``error``, the standard deviation of the resampled difference, which is its standard error. All but
        the p-value have the unit of ``a`` and ``b``.

    Raises:
        ValueError: shapes differ, there is no query, or a number is not finite.
        ConfigError: ``num_samples`` is below 1.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"a and b have shapes {a.shape} and {b.shape}: expected one number per query in both, (Q,)")
    if num_samples < 1:
        raise ConfigError(f"num_samples={num_samples}: use an integer from 1, 10000 for a stable second digit")
    gain = b - a
    if not np.isfinite(gain).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(gain))} of {gain.size} differences are not finite")

    totals, sizes = gain, np.ones(gain.size)
    if groups is not None:
        groups = np.asarray(groups)
        if groups.shape != gain.shape:
            raise ValueError(f"groups has shape {groups.shape}: expected one person per query, {gain.shape}")
        _, group = np.unique(groups, return_inverse=True)
        totals, sizes = np.bincount(group, weights=gain), np.bincount(group).astype(np.float64)

    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // totals.size)
    means = np.empty(num_samples)
    for start in range(0, num_samples, step):
        sampled = rng.integers(totals.size, size=(min(step, num_samples - start), totals.size))
        means[start : start + step] = totals[sampled].sum(1) / sizes[sampled].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {
        "difference": float(gain.mean()),
        "p_value": float((means <= 0).mean()),
        "low": float(low),
        "high": float(high),
        "error": float(means.std()),
    }


def smallest_detectable(
    people_error: float,
    seeds: tuple[tuple[float | None, int], tuple[float | None, int]] = ((None, 1), (None, 1)),
    level: float = 0.05,
    power: float = 0.8,
) -> float:
    """The smallest true difference of two models that a comparison like this one finds with probability ``power``.

    With e the standard error over test people, and s_a, s_b the standard deviations over n_a and n_b seeds,

        SE = sqrt(e^2 + s_a^2 / n_a + s_b^2 / n_b),   difference = (t(1 - level / 2) + t(power)) * SE,

    where t is the quantile of Student's distribution with Welch's degrees of freedom, in which e counts as known. This
    is the "minimum detectable effect" of Bloom (Evaluation Review 19(5), 1995); 2.80 * SE for many seeds. With three
    seeds it is a little too small: such a difference is then found in about 7 cases of 10. Card et al. ("With Little
    Power Comes Great Responsibility", EMNLP 2020) show how often comparisons lack that power.

    >>> round(smallest_detectable(1.0), 2)
    2.8

    Args:
        people_error: e, ``error`` of :func:`paired_bootstrap` over people.
        seeds: (s_a, n_a) and (s_b, n_b). A deviation is None if there is one seed: the noise of that training is then
            unknown and left out, so the true number is larger.
        level: probability of calling a difference real that is not, on both sides together.
        power: probability of finding a difference of this size.

    Returns:
        The difference, in the unit of ``people_error``.
    """
    parts = [(std**2 / n, n - 1) for std, n in seeds if std is not None and n > 1]
    variance = people_error**2 + sum(part for part, _ in parts)
    noise = sum(part**2 / degrees for part, degrees in parts)
    degrees = variance**2 / noise if noise else math.inf
    return (student_quantile(1 - level / 2, degrees) + student_quantile(power, degrees)) * math.sqrt(variance)


def student_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's distribution, by the expansion 26.7.5 of Abramowitz and Stegun ("Handbook of Mathematical
    Functions", 1964). At 97.5 % it is 0.8 % too small for 2 degrees of freedom, and exact to 0.1 % for 3 and more."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**k for k, term in enumerate(terms, 1))
