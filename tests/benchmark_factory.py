"""The configs of a benchmark, or the folder of a finished one without running it (two configs, two seeds, one cross
test, costs); and waiting until a running one has left its folder."""

import contextlib
import json
import time
from pathlib import Path

import numpy as np
from runner_factory import write_run

from cada_plugin.benchmark.jobs import sole_user
from cada_plugin.benchmark.plan import CrossTest, Plan, Row, Run
from cada_plugin.benchmark.run import _is_finished, _is_measured
from cada_plugin.errors import ConfigError

QUERIES = 12
METRICS = {"t2i_global/R1": 25.0, "t2i_global/mAP": 30.0, "t2i/R1": 50.0, "t2i/mAP": 40.0, "t2i/R1_gain_p": 0.1}
NOTES = {"checkpoint": "epoch_1.pth", "train_seconds": 3.0, "test_seconds": 1.0}
FAILURE = {"error": "out of memory", "log": "train.log"}
COST = {
    "machine": {"cpu": "a", "cores": 1, "threads": 1, "gpu": None},
    "parameters": 10,
    "parameters_trained": 10,
    "gflops_image": 0.1,
    "gflops_caption": 0.1,
    "gflops_pair": 0.1,
    "caption_tokens": 9,
    "gallery_images_per_s": 10.0,
    "query_ms": 1.0,
    "query_reranked_ms": 2.0,
    "gallery_images": 9,
    "rerank_topk": 4,
    "train_images_per_s": None,
    "peak_memory_mb": 100.0,
    "peak_memory_of": "process",
}
FILES = {"metrics.json": METRICS, "run.json": NOTES, "failure.json": FAILURE, "cost.json": COST}


def write_benchmark(out: Path) -> Plan:
    """Write all result files of a benchmark without failures. Tests then damage files in ``one/seed0``."""
    rows = []
    for name in ("one", "two"):
        runs = tuple(Run(name, out / name / f"{name}.py", out / name / f"seed{seed}", seed) for seed in (0, 1))
        cross = tuple(
            CrossTest(run, "other", out / name / "cross_other.py", run.folder / "cross_other") for run in runs
        )
        rows.append(Row(name, f"{name}.py", out / name, {"type": "CUHKPEDES", "split": "test"}, runs, cross))
        for folder in (*(run.folder for run in runs), *(test.folder for test in cross)):
            folder.mkdir(parents=True)
            write_queries(folder / "queries.npz")
            (folder / "metrics.json").write_text(json.dumps(METRICS))
        for run in runs:
            (run.folder / "run.json").write_text(json.dumps(NOTES))
        (out / name / "cost").mkdir()
        (out / name / "cost" / "cost.json").write_text(json.dumps(COST))
    return Plan(out, tuple(rows), {"other": {"type": "RSTPReid"}}, {})


def write_queries(path: Path, **changes: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "person_ids": np.arange(QUERIES) // 2,
        "caption_crc32": np.arange(QUERIES, dtype=np.uint32),
        "t2i_global/first_rank": rng.integers(0, 3, QUERIES),
        "t2i/first_rank": rng.integers(0, 3, QUERIES),
    }
    np.savez(path, **arrays | changes)


def done(plan: Plan) -> dict[str, bool]:
    """By label, whether each run, cross test and cost counts as done, so that it would not be repeated."""
    made = [made for row in plan.rows for made in (*row.runs, *row.cross_tests)]
    return {one.label: _is_finished(one) for one in made} | {
        f"cost of {row.name}": _is_measured(row) for row in plan.rows
    }


def wait_until_free(out: Path) -> None:
    """Wait until a killed process has released the folder."""
    deadline = time.monotonic() + 20
    while not is_free(out):
        assert time.monotonic() < deadline, "a child is left"
        time.sleep(0.1)


def is_free(out: Path) -> bool:
    with contextlib.suppress(ConfigError), sole_user(out):
        return True
    return False


def write_configs(folder: Path) -> Path:
    """Four configs: ``tiny``, ``stage1`` without a second stage, ``broken``, and ``other`` with another test set."""
    base = f"_base_ = ['{write_run(folder)}']\n"
    no_matching = "model = dict(text_decoder=None, loss_atp=None, loss_ara=None)\n"
    best = "default_hooks = dict(checkpoint=dict(save_best='t2i_global/R1'))\n"
    (folder / "stage1.py").write_text(base + no_matching + best)
    (folder / "broken.py").write_text(base + no_matching + best + "optim_wrapper = dict(optimizer=dict(lr='fast'))\n")
    (folder / "other.py").write_text(base + "test_dataloader = dict(dataset=dict(split='val'))\n")
    return folder
