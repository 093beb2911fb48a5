"""Executes a plan: first trainings with their tests, then tests on other test sets, then cost measurements."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine.config import Config

from cada_plugin.benchmark.charts import draw_accuracy, draw_cost
from cada_plugin.benchmark.jobs import Job, JobError, run_all, sole_user
from cada_plugin.benchmark.machine import machine
from cada_plugin.benchmark.oracles import write_oracles
from cada_plugin.benchmark.plan import CrossTest, Plan, Request, Row, Run, checkpoint_note, make_plan
from cada_plugin.benchmark.records import read_records
from cada_plugin.benchmark.report import collect, summary, write_reports
from cada_plugin.benchmark.saved import portable
from cada_plugin.engine.resume import last_checkpoint
from cada_plugin.files import writable_file, writable_folder, write_json

Call = Callable[[Sequence[object], Path], None]


COMMAND = (sys.executable, "-m", "cada_plugin")


def benchmark(request: Request) -> int:
    """Run everything in the request that is not done yet; returns the number of failures."""
    plan = make_plan(request)
    writable_folder(plan.out, "--out")
    if request.save:
        writable_file(Path(request.save), "--save")
    failed = []

    def ended(job: Job, error: JobError | None) -> str:
        if error is not None:
            failed.append(job)
            write_json(job.folder / "failure.json", {"error": str(error), "log": str(error.log)})
        write_reports(plan.out, collect(plan))  # after every job, so that a stopped benchmark shows its results so far
        return f"{job.label} FAILED: {error} (see {error.log})" if error else f"{job.label}: {summary(job.folder)}"

    with sole_user(plan.out) as lock:
        plan.prepare()
        _name_damage(plan)
        runs = [run for row in plan.rows for run in row.runs]
        variants = [run for run in runs if run.trained_as]
        jobs = [_train_and_test(run) for run in runs if not run.trained_as and not _is_finished(run)]
        run_all(jobs, request.jobs, lock, "runs", ended)
        starts = [row.start for row in plan.rows if row.start is not None]
        jobs = [_train_and_test(run) for run in starts if not _is_finished(run)]
        run_all(jobs, request.jobs, lock, "start weights", ended)
        jobs = [_train_and_test(run) for run in variants if _is_finished(run.trained_as) and not _is_finished(run)]
        run_all(jobs, request.jobs, lock, "variants that need no training", ended)
        crosses = [cross for row in plan.rows for cross in row.cross_tests if _is_finished(cross.run)]
        jobs = [_cross_test(cross) for cross in crosses if not _is_finished(cross)]
        run_all(jobs, request.jobs, lock, "other test sets", ended)
        rows = [row for row in plan.rows if any(_is_finished(run) for run in row.runs)]
        jobs = [_cost(row) for row in rows if not _is_measured(row)]
        run_all(jobs, 1, lock, "costs", ended)  # one at a time, so that measurements do not disturb each other
        write_oracles(plan.out, [row.test_set for row in rows])
        results = collect(plan)
        write_reports(plan.out, results)
        draw_accuracy(results, plan.out / "accuracy.png")
        draw_cost(results, plan.out / "cost.png")
        if request.save:
            write_json(Path(request.save), portable(results))
    print((plan.out / "results.md").read_text(encoding="utf-8"))
    print(f"written: {plan.out}/results.md, .json, .csv, accuracy.png, cost.png", file=sys.stderr)
    return len(failed)


def _name_damage(plan: Plan) -> None:
    """Print one line for each run whose files cannot be used."""
    made = [made for row in plan.rows for made in (*row.runs, *row.cross_tests)]
    made += [row.start for row in plan.rows if row.start is not None]
    found = [(one.label, one.folder, one.records()) for one in made]
    found += [(f"cost of {row.name}", row.cost, read_records(row.cost)) for row in plan.rows]
    for label, folder, records in found:
        if records.damage:
            print(f"{label}: {'; '.join(records.damage)} (in {folder}), so it is done again", file=sys.stderr)


def _is_finished(made: Run | CrossTest) -> bool:
    return made.records().tested


def _is_measured(row: Row) -> bool:
    """Whether the cost was measured on this machine: timings of two machines in one table would not compare models."""
    return (read_records(row.cost).cost or {}).get("machine") == machine()


def _train_and_test(run: Run) -> Job:
    note = run.folder / "run.json"
    options = [] if run.seed is None else [f"randomness.seed={run.seed}"]

    def work(call: Call) -> None:
        (run.folder / "failure.json").unlink(missing_ok=True)
        state = run.records().notes
        if run.given is not None:
            state = checkpoint_note(run.given)
        elif run.trained_as is not None:
            trained = run.trained_as.folder / run.trained_as.records().notes["checkpoint"]
            state = {"checkpoint": os.path.relpath(trained, run.folder)}  # both may be moved
        elif not os.path.isfile(run.folder / state.get("checkpoint", "")):
            # Training skips its own test; the command below tests all checkpoints alike, trained here or given.
            untested = [f"test_{part}=None" for part in ("dataloader", "cfg", "evaluator")]
            command = [*COMMAND, "train", run.config, "--work-dir", run.folder, "--resume", "auto"]
            begin = time.monotonic()
            try:
                call([*command, "--cfg-options", *options, *untested], run.folder / "train.log")
            finally:  # the time of an interrupted training counts as well
                state["train_seconds"] = state.get("train_seconds", 0.0) + time.monotonic() - begin
                write_json(note, state)
            state["checkpoint"] = _chosen_checkpoint(run).name  # relative: the folder may be moved
        write_json(note, state)
        begin = time.monotonic()
        _test(call, run.config, run.folder / state["checkpoint"], run.folder, options, run.partial)
        write_json(note, state | {"test_seconds": time.monotonic() - begin})

    return Job(run.label, run.folder, work)


def _chosen_checkpoint(run: Run) -> Path:
    """The checkpoint of the best epoch on the validation split, by the first metric of ``save_best``; else the last
    one. As in ``cada train``."""
    hooks = Config.fromfile(run.config).get("default_hooks") or {}
    by = (hooks.get("checkpoint") or {}).get("save_best")
    metric = by[0].replace("/", "_") + "_" if isinstance(by, list | tuple) else ""
    best = list(run.folder.glob(f"best_{metric}*.pth"))
    chosen = best[0] if len(best) == 1 else last_checkpoint(run.folder)
    if chosen is None:
        raise JobError("the training left no checkpoint", run.folder / "train.log")
    return chosen


def _cross_test(cross: CrossTest) -> Job:
    def work(call: Call) -> None:
        (cross.folder / "failure.json").unlink(missing_ok=True)
        checkpoint = cross.run.records().notes["checkpoint"]
        _test(call, cross.config, cross.run.folder / checkpoint, cross.folder, [])

    return Job(cross.label, cross.folder, work)


def _test(
    call: Call, config: Path, checkpoint: Path, folder: Path, options: Sequence[str], partial: bool = False
) -> None:
    out = ["--out", folder / "metrics.json", "--queries", folder / "queries.npz"]
    out += ["--partial", folder / "partial.json"] if partial else []
    command = [*COMMAND, "test", config, checkpoint, "--work-dir", folder, *out]
    call([*command, "--cfg-options", *options] if options else command, folder / "test.log")
    records = read_records(folder)
    if not records.tested:
        what = "; ".join(records.damage) or "no metrics.json"
        raise JobError(f"the test left no results: {what}", folder / "test.log")


def _cost(row: Row) -> Job:
    def work(call: Call) -> None:
        for outdated in ("failure.json", "cost.json"):
            (row.cost / outdated).unlink(missing_ok=True)
        command = [*COMMAND, "cost", row.runs[0].config, "--work-dir", row.cost]
        call([*command, "--out", row.cost / "cost.json"], row.cost / "cost.log")
        records = read_records(row.cost)
        if records.cost is None:
            raise JobError(f"no cost was measured: {'; '.join(records.damage)}", row.cost / "cost.log")

    return Job(f"cost of {row.name}", row.cost, work)
