"""Names of the ranked lists that an evaluation measures. They are the prefix of each metric: ``t2i_global/R1``."""

STAGE_ONE = "t2i_global"
"""All gallery images, ordered by their cosine with the caption. Every model has this list."""
FINAL = "t2i"
"""The final list of a model that re-ranks: the shortlist by match logit plus cosine, then the other images."""
MATCH_ALONE = "t2i_match"
"""The shortlist ordered by the match logit alone, which shows whether matching has learnt anything."""
GAIN_P_VALUE = f"{FINAL}/R1_gain_p"
"""The metric with the p-value of the gain in R@1 of ``FINAL`` over ``STAGE_ONE``."""
QUERIES = "queries"
"""The metric with the number of captions, of a slice: ``queries[binding]``."""


def sliced(metric: str, name: str) -> str:
    """The name of a metric over one slice of the queries: ``t2i/R1[binding]``."""
    return f"{metric}[{name}]"


def slice_of(metric: str) -> str:
    """The slice that a metric is over; empty if it is over all queries."""
    return metric.removesuffix("]").partition("[")[2]
