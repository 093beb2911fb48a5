"""The same metrics computed by torchreid's own evaluator, for readers who trust the codebase they know.

Slower than :mod:`cada_plugin.evaluation.ranking`: torchreid sorts the whole matrix into int64 indices (8 bytes per
pair) and loops over queries.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from cada_plugin.compat import import_torchreid
from cada_plugin.evaluation.ranking import _check_ids, _check_topk, _to_numpy, rank_queries


def torchreid_rank_metrics(
    similarity: np.ndarray | Tensor,
    query_ids: Sequence[int] | np.ndarray | Tensor,
    gallery_ids: Sequence[int] | np.ndarray | Tensor,
    topk: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """R@n and mAP in percent from ``torchreid.metrics.evaluate_rank``. Torchreid has no mINP; that one is our own.

    Arguments, result and errors are those of :func:`~cada_plugin.evaluation.rank_metrics`, with two differences:
    ``similarity`` must be a whole matrix (Q, G), and images of equal score rank in no particular order.

    Raises:
        MissingExtraError: torchreid is not installed.
    """
    evaluate_rank = import_torchreid().metrics.evaluate_rank
    query_ids, gallery_ids = _check_ids(query_ids, "query_ids"), _check_ids(gallery_ids, "gallery_ids")
    _check_topk(topk, len(gallery_ids))
    similarity = _to_numpy(similarity)
    inp = rank_queries(similarity, query_ids, gallery_ids)["inp"]  # also raises on what torchreid silently skips
    cmc, mean_ap = evaluate_rank(
        -similarity,
        query_ids,
        gallery_ids,
        # Queries and gallery get different camera numbers, because torchreid drops gallery images of the query's own
        # person and camera (the Market-1501 protocol). Here the query is a caption, and no image is to be dropped, not
        # even the one that the caption was written for.
        np.zeros(len(query_ids), np.int64),
        np.ones(len(gallery_ids), np.int64),
        max_rank=max(topk),
    )
    recalls = {f"R{k}": float(cmc[k - 1] * 100) for k in topk}
    return {**recalls, "mAP": float(mean_ap * 100), "mINP": float(inp.mean() * 100)}
