"""Text-to-image retrieval metrics of both stages in one MMEngine metric."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric
from torch import Tensor

from cada_plugin.compat import import_torchreid
from cada_plugin.errors import ConfigError
from cada_plugin.evaluation.ranking import mean_metrics, rank_queries
from cada_plugin.evaluation.result import RetrievalResult
from cada_plugin.evaluation.significance import paired_bootstrap
from cada_plugin.evaluation.torchreid_ranker import torchreid_rank_metrics
from cada_plugin.portable.stages import FINAL, GAIN_P_VALUE, MATCH_ALONE, QUERIES, STAGE_ONE, sliced
from cada_plugin.registry import METRICS


@METRICS.register_module()
class TextToImageRetrieval(BaseMetric):
    """R@n, mAP and mINP in percent, for each ranked list of a model.

    Every model has ``t2i_global/R1`` (stage 1). A model that re-ranks also has ``t2i/R1`` for the final list and
    ``t2i_match/R1`` for the shortlist ordered by the match logit alone. ``t2i/R1_gain_p`` is the p-value of the R@1
    that re-ranking gains, from a paired bootstrap over the people of the queries.

    If the annotation gives *slices* of the captions, ``t2i/R1[binding]`` and ``t2i/mAP[binding]`` are over the queries
    of the slice ``binding``, for each slice and list, and ``queries[binding]`` is their number.

    The input is the one :class:`RetrievalResult` of a retrieval loop, which is the same in all processes. The first
    process alone computes the metrics and keeps two attributes: ``result``, that input, and ``ranks``, the output of
    :func:`rank_queries` for each stage (``t2i_global``, ``t2i``, ``t2i_match``).

    Args:
        topk: the n of R@n.
        ranker: ``builtin`` or ``torchreid`` (its ``evaluate_rank``; slower, same numbers).
    """

    default_prefix = ""

    def __init__(self, topk: Sequence[int] = (1, 5, 10), ranker: str = "builtin") -> None:
        super().__init__()
        if ranker not in ("builtin", "torchreid"):
            raise ConfigError(f"ranker={ranker!r}: use 'builtin' or 'torchreid'")
        if ranker == "torchreid":
            import_torchreid()  # a missing package should raise now and not after the first epoch
        self.topk, self.ranker = tuple(topk), ranker
        self.result: RetrievalResult | None = None
        self.ranks: dict[str, dict[str, np.ndarray]] = {}

    def evaluate(self, size: int) -> dict[str, float]:
        """Metrics of the processed result. MMEngine's own method would needlessly gather it from all processes."""
        metrics = [self.compute_metrics(self.results) if is_main_process() else None]
        broadcast_object_list(metrics)
        self.results.clear()
        return metrics[0]

    def process(self, data_batch: dict | None, data_samples: Sequence[RetrievalResult]) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[RetrievalResult]) -> dict[str, float]:
        (self.result,) = results
        stages = {STAGE_ONE: self.result.cosine}
        if self.result.shortlist is not None:
            stages |= {FINAL: self.result.reranked, MATCH_ALONE: self.result.match_only}
        ids = self.result.query_ids, self.result.gallery_ids
        self.ranks = {stage: rank_queries(scores, *ids) for stage, scores in stages.items()}
        metrics = {
            f"{stage}/{name}": value
            for stage, scores in stages.items()
            for name, value in self._average(scores, self.ranks[stage]).items()
        }
        if FINAL in stages and 1 in self.topk:
            metrics[GAIN_P_VALUE] = self._gain_p_value()
        return metrics if self.ranker == "torchreid" else metrics | slice_metrics(self.ranks, self.result.slices)

    def _average(self, scores: Callable, ranks: dict[str, np.ndarray]) -> dict[str, float]:
        if self.ranker == "torchreid":
            result, G = self.result, len(self.result.gallery_ids)
            rows = torch.cat([scores(i, i + 1024).cpu() for i in range(0, len(result.query_ids), 1024)])
            beyond = {f"R{k}": 100.0 for k in self.topk if k > G}  # torchreid does not accept k > G
            known = [k for k in self.topk if k <= G] or [1]
            return torchreid_rank_metrics(rows, result.query_ids, result.gallery_ids, known) | beyond
        return mean_metrics(ranks, self.topk)

    def _gain_p_value(self) -> float:
        hits = [self.ranks[stage]["first_rank"] == 0 for stage in (STAGE_ONE, FINAL)]
        # captions of one person succeed and fail together, so people are resampled and not captions
        return paired_bootstrap(*(h.astype(float) for h in hits), groups=self.result.query_ids.numpy())["p_value"]


def slice_metrics(ranks: dict[str, dict[str, np.ndarray]], slices: dict[str, Tensor]) -> dict[str, float]:
    """R@1 and mAP in percent of each slice and list, and the number of captions of each slice.

    Args:
        ranks: for each list the output of :func:`rank_queries`.
        slices: for each slice the mask (Q,) of its captions, at least one of which is True.
    """
    metrics = {sliced(QUERIES, name): float(mask.sum()) for name, mask in slices.items()}
    for stage, per_query in ranks.items():
        for name, mask in slices.items():
            of_slice = mean_metrics({key: value[mask.numpy()] for key, value in per_query.items()}, (1,))
            metrics |= {sliced(f"{stage}/{key}", name): of_slice[key] for key in ("R1", "mAP")}
    return metrics
