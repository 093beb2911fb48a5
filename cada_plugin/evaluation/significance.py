"""Paired bootstrap over queries: would one model still beat the other on a different sample of test captions?"""

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
        difference. All but the p-value have the unit of ``a`` and ``b``.

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
    }
