"""Tests a model on short sentences and on sentences with a mistake, on the test split of procedural people.

The names of the metrics follow those of the test: ``t2i_global/mAP[1 phrase]`` is over captions cut to one phrase, in
stage 1, and ``t2i/R1[wrong phrase]`` is R@1 of the person of whom a caption with one wrong phrase is otherwise true, in
the final list. ``t2i/R1[true caption]`` is of the same captions without the mistake. See
:mod:`cada_plugin.datasets.procedural.partial` for how the captions are made.
"""

from dataclasses import dataclass

import numpy as np
import torch
from mmengine.runner import Runner

from cada_plugin.checkpoints.load import bare_model
from cada_plugin.datasets.procedural.partial import (
    COUNTS,
    CutCaption,
    WrongCaption,
    cut_captions,
    procedural_records,
    relevance,
    wrong_captions,
)
from cada_plugin.engine.encoded_items import encode_captions
from cada_plugin.engine.loops import RetrievalTestLoop
from cada_plugin.errors import ConfigError
from cada_plugin.evaluation import TwoStageScores, rank_queries
from cada_plugin.evaluation.partial import best_precision, rank_change, rank_relevant
from cada_plugin.portable.stages import FINAL, QUERIES, STAGE_ONE, sliced
from cada_plugin.tables import text_table

TRUE, WRONG = "true caption", "wrong phrase"


@dataclass(frozen=True)
class Asked:
    """The captions of a test: cut ones for each number of phrases, wrong ones, and the records of the split."""

    records: list[dict]
    cut: dict[int, list[CutCaption]]
    wrong: list[WrongCaption]


def phrases(count: int) -> str:
    """The name of the captions cut to ``count`` phrases."""
    return f"{count} phrase{'s' if count > 1 else ''}"


def captions_of(runner: Runner) -> Asked:
    """The captions to ask, made from the annotation of the runner's test split.

    Raises:
        ConfigError: the test is not the plugin's own.
        AnnotationError: the test set is not one of procedural people.
    """
    if not isinstance(runner.test_loop, RetrievalTestLoop):
        raise ConfigError("--partial needs test_cfg=dict(type='RetrievalTestLoop')")
    records, world = procedural_records(runner.test_loop.dataloader.dataset)
    return Asked(records, cut_captions(records), wrong_captions(records, world))


@torch.no_grad()
def evaluate_partial(runner: Runner, asked: Asked) -> dict[str, float]:
    """Metrics of cut and of wrong captions, after a test whose loop kept the encoded split.

    For each number of phrases and list: ``mAP``, and ``P10``, the share of right pictures among the first ten, both in
    percent. ``queries[1 phrase]`` is the number of captions, ``images[1 phrase]`` how many pictures are right on
    average, and ``P10_at_best[1 phrase]`` the largest ``P10`` that is possible. For captions with one wrong phrase and
    for the same captions without it: ``R1`` in percent and ``mean_rank``, from 1, of the person described.
    ``moved_down`` and ``moved_up`` compare the two, see :func:`~cada_plugin.evaluation.partial.rank_change`.
    """
    loop = runner.test_loop
    model = bare_model(runner)
    device = next(model.parameters()).device

    def ranked(captions: list[str]) -> dict[str, object]:
        with torch.autocast(device.type, torch.bfloat16, enabled=loop.amp):
            scores = loop.rank(model, encode_captions(model, captions), loop.encoded)
        return _lists(scores)

    metrics: dict[str, float] = {}
    for count, cut in asked.cut.items():
        right = relevance(asked.records, [caption.claims for caption in cut])
        name = phrases(count)
        metrics[sliced(QUERIES, name)] = float(len(cut))
        metrics[sliced("images", name)] = float(right.sum(1).mean())
        metrics[sliced("P10_at_best", name)] = 100 * best_precision(right)
        for stage, scores in ranked([caption.text for caption in cut]).items():
            found = rank_relevant(scores, right)
            metrics[sliced(f"{stage}/mAP", name)] = 100 * float(found["ap"].mean())
            metrics[sliced(f"{stage}/P10", name)] = 100 * float(found["precision"].mean())
    people = [caption.person for caption in asked.wrong]
    gallery = [record["id"] for record in asked.records]
    ranks: dict[str, dict[str, np.ndarray]] = {}
    for name, captions in ((TRUE, [c.true for c in asked.wrong]), (WRONG, [c.text for c in asked.wrong])):
        metrics[sliced(QUERIES, name)] = float(len(captions))
        for stage, scores in ranked(captions).items():
            rank = rank_queries(scores, people, gallery)["first_rank"]
            ranks.setdefault(stage, {})[name] = rank
            metrics[sliced(f"{stage}/R1", name)] = 100 * float((rank == 0).mean())
            metrics[sliced(f"{stage}/mean_rank", name)] = float(rank.mean()) + 1
    for stage, of_stage in ranks.items():
        for key, value in rank_change(of_stage[TRUE], of_stage[WRONG]).items():
            metrics[sliced(f"{stage}/{key}", WRONG)] = value
    return metrics


def _lists(scores: TwoStageScores) -> dict[str, object]:
    final = {} if scores.shortlist is None else {FINAL: scores.reranked}
    return {STAGE_ONE: scores.cosine, **final}


def partial_tables(metrics: dict[str, float]) -> str:
    """The metrics as two tables for a terminal."""
    stages = [(s, title) for s, title in ((STAGE_ONE, "stage 1"), (FINAL, "re-ranked")) if _has(metrics, s)]
    head = ["captions cut to", "captions", "right pictures", "P@10 at best"]
    head += [f"{title} {what}" for _, title in stages for what in ("mAP", "P@10")]
    rows = []
    for name in map(phrases, COUNTS):
        counts = [f"{metrics[sliced(QUERIES, name)]:,.0f}", f"{metrics[sliced('images', name)]:,.1f}"]
        cells = [metrics[sliced("P10_at_best", name)]]
        cells += [metrics[sliced(f"{stage}/{what}", name)] for stage, _ in stages for what in ("mAP", "P10")]
        rows.append([name, *counts, *(f"{value:.2f}" for value in cells)])
    cut = text_table(head, rows)
    head = ["", "captions", *(f"{title} {what}" for _, title in stages for what in ("R@1", "mean rank"))]
    rows = []
    for name in (TRUE, WRONG):
        row = [name, f"{metrics[sliced(QUERIES, name)]:,.0f}"]
        for stage, _ in stages:
            row.append(f"{metrics[sliced(f'{stage}/R1', name)]:.2f}")
            row.append(f"{metrics[sliced(f'{stage}/mean_rank', name)]:.1f}")
        rows.append(row)
    moved = [
        f"{title}: with a wrong phrase {metrics[sliced(f'{stage}/moved_down', WRONG)]:.1f} % of the people described "
        f"move down and {metrics[sliced(f'{stage}/moved_up', WRONG)]:.1f} % up"
        for stage, title in stages
    ]
    return "\n".join(["", cut, "", text_table(head, rows), *moved])


def _has(metrics: dict[str, float], stage: str) -> bool:
    return sliced(f"{stage}/mAP", phrases(COUNTS[0])) in metrics
