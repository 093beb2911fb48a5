"""The ceilings on procedural people: what readers that make no mistake reach on their test set, without any training.

The reader understands every claim of a caption and knows all attributes of everybody: it misses only what captions do
not say. The viewer sees perfectly, but only what the pictures show. Both are ranked like a model, see
:mod:`cada_plugin.datasets.procedural.oracle`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from cada_plugin.datasets.procedural.oracle import Oracle
from cada_plugin.datasets.procedural.partial import is_procedural, procedural_records
from cada_plugin.evaluation import mean_metrics, rank_queries
from cada_plugin.evaluation.metric import slice_metrics
from cada_plugin.evaluation.result import slice_masks
from cada_plugin.files import write_json
from cada_plugin.portable.stages import STAGE_ONE
from cada_plugin.registry import DATASETS, build_part

READER, VIEWER = "oracle: reads captions perfectly", "oracle: sees only what is visible"


def oracle_metrics(test_set: dict) -> dict[str, dict[str, float]]:
    """Metrics of both oracles on a test set (the config of its data set), by their names. They are those of stage 1, as
    there is nothing to re-rank.

    Raises:
        AnnotationError: the data set is not one of procedural people.
    """
    dataset = build_part(DATASETS, test_set | {"pipeline": [], "lazy_init": True})
    records, _ = procedural_records(dataset)
    count = dataset.captions_per_image
    records = [record | {"claims": record["claims"][:count]} for record in records]
    slices = slice_masks([tuple(names) for record in records for names in record.get("slices", [])[:count]])
    population = procedural_records(dataset, "train")[0] or None
    found = {}
    for name, oracle in ((READER, Oracle(records)), (VIEWER, Oracle(records, True, population))):
        ranks = rank_queries(oracle.scores, oracle.query_ids, oracle.gallery_ids)
        whole = {f"{STAGE_ONE}/{key}": value for key, value in mean_metrics(ranks).items()}
        found[name] = whole | slice_metrics({STAGE_ONE: ranks}, slices)
    return found


def write_oracles(out: Path, test_sets: Sequence[dict]) -> None:
    """Write the metrics of the oracles on all test sets of procedural people into ``oracles.json`` of the folder of a
    benchmark. Those that stand there are not computed again."""
    wanted = [test_set for k, test_set in enumerate(test_sets) if test_set not in test_sets[:k]]
    known = [entry for entry in read_oracles(out) if entry["test_set"] in wanted]
    new = [s for s in wanted if is_procedural(s) and s not in [entry["test_set"] for entry in known]]
    if new:
        known += [{"test_set": test_set, "metrics": oracle_metrics(test_set)} for test_set in new]
        write_json(out / "oracles.json", known)


def read_oracles(out: Path) -> list[dict]:
    """The entries ``test_set`` and ``metrics`` of ``oracles.json``; empty if there is no such file, or a damaged one,
    because they are quickly computed again."""
    try:
        entries = json.loads((out / "oracles.json").read_text(encoding="utf-8"))
        whole = isinstance(entries, list) and all(
            isinstance(entry["test_set"], dict) and all(isinstance(entry["metrics"][n], dict) for n in (READER, VIEWER))
            for entry in entries
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return entries if whole else []
