"""``cada benchmark``: every run is done once, a failure does not stop the others, and the tables agree with the files.

The benchmark runs in this process. To save the time of imports, its subprocesses are forked from a warm interpreter;
one test uses real ones.
"""

import csv
import functools
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import runner_factory as factory
import torch
from benchmark_factory import wait_until_free, write_configs
from mmengine.config import Config, config
from PIL import Image

from cada_plugin.benchmark import cost, jobs, plan
from cada_plugin.benchmark import run as benchmark
from cada_plugin.benchmark.variants import Variant
from cada_plugin.cli import main
from cada_plugin.engine import RankedGalleryHook
from cada_plugin.evaluation import paired_bootstrap
from cada_plugin.registry import MODELS

SEEDS = (0, 1)
ONE_EPOCH = ("--cfg-options", "train_cfg.max_epochs=1")


# ---------------------------------------------------------------- the tool with children from a warm interpreter


class Forked:
    """The part of ``subprocess.Popen`` that the benchmark uses."""

    def __init__(self, command: list[str], *, stdout: object, env: dict[str, str], **_: object) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["cada_plugin.cli.common", "cada_plugin.benchmark.run", "cada_plugin.models", "matplotlib.pyplot"]
        )
        self._process = context.Process(
            target=_child, args=(command[1:], Path(stdout.name).resolve(), env, os.getcwd())
        )
        self._process.start()
        self.pid = self._process.pid

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        return self._process.exitcode


def _child(arguments: list[str], log: Path, environment: dict[str, str], folder: str) -> None:
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), descriptor)
    os.chdir(folder)
    os.environ.update(environment)
    # most of a short run is MMEngine laying out its config, and our picture
    config.FormatCode = lambda text, **_: (text, True)
    RankedGalleryHook.after_test_epoch = lambda *_, **__: None
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    cost._SECONDS = 0  # numbers are not looked at
    sys.exit(main(arguments[2:]))  # after "-m cada_plugin"


def run(folder: Path, *arguments: object) -> int:
    """``cada benchmark ARGUMENTS`` in ``folder``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for key, value in factory.environment(folder).items():
            patch.setenv(key, value)
        patch.setattr(jobs, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": Forked}))
        return main(["benchmark", *(str(argument) for argument in arguments)])


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_configs(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="module")
def first(folder) -> SimpleNamespace:
    """Two seeds of three configs, of which one fails; do not write to ``out``."""
    write, growth = benchmark.write_reports, []

    def count_and_write(out: Path, results: dict) -> None:
        growth.append([run["status"] for row in results["rows"] for run in row["runs"]])
        write(out, results)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "write_reports", count_and_write)
        status = run(folder, "tiny.py", "stage1.py", "broken.py", "--seeds", *SEEDS, "--out", "out", *ONE_EPOCH)
    out = folder / "out"
    page, results = (out / "results.md").read_text(), read(out / "results.json")
    rows = {row["name"]: row for row in results["rows"]}
    return SimpleNamespace(status=status, out=out, results=results, rows=rows, page=page, growth=growth)


def cells(page: str, section: str, name: str) -> list[str]:
    """The cells of the row ``name`` in a section's table, and its heading for ``model``."""
    lines = page.split(f"## {section}")[1].split("##")[0].splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


# ---------------------------------------------------------------- what a benchmark leaves behind


@pytest.mark.slow
def test_a_failure_is_reported_and_the_others_go_on(first):
    assert first.status == 1
    status = {name: [run["status"] for run in row["runs"]] for name, row in first.rows.items()}
    assert status == {"tiny": ["finished"] * 2, "stage1": ["finished"] * 2, "broken": ["failed"] * 2}
    log = "out/broken/seed1/train.log"
    (line,) = (line for line in first.page.splitlines() if line.startswith("- broken seed 1: "))
    assert "'fast'" in line
    assert f"see `{log}`" in line
    assert "'fast'" in (first.out.parent / log).read_text()
    assert cells(first.page, "Accuracy", "broken")[1:3] == ["0 of 2, 2 failed", ""]
    assert first.rows["broken"]["metrics"] == {}


@pytest.mark.slow
def test_the_page_grows_with_every_run(first):
    finished = [statuses.count("finished") for statuses in first.growth[:6]]
    assert finished == [1, 2, 3, 4, 4, 4]
    assert [statuses.count("missing") for statuses in first.growth[:6]] == [5, 4, 3, 2, 1, 0]


@pytest.mark.slow
def test_means_and_deviations_are_those_of_the_runs(first):
    with (first.out / "results.csv").open() as file:
        lines = {line["name"]: line for line in csv.DictReader(file)}
    columns = {"t2i_global/R1": 2, "t2i_global/mAP": 5, "t2i/mINP": 11}
    for name, key in (("tiny", "t2i_global/mAP"), ("tiny", "t2i/mINP"), ("stage1", "t2i_global/R1")):
        values = [read(first.out / name / f"seed{seed}" / "metrics.json")[key] for seed in SEEDS]
        mean, std = sum(values) / 2, abs(values[0] - values[1]) / math.sqrt(2)
        assert first.rows[name]["metrics"][key] == pytest.approx({"mean": mean, "std": std, "n": 2})
        assert float(lines[name][f"{key} mean"]) == pytest.approx(mean)
        assert float(lines[name][f"{key} std"]) == pytest.approx(std)
        assert cells(first.page, "Accuracy", name)[columns[key]] == f"{mean:.2f} ± {std:.2f}"
    assert std > 0 or first.rows["tiny"]["metrics"]["t2i_global/mAP"]["std"] > 0
    heading = cells(first.page, "Accuracy", "model")
    assert [heading[2], heading[5], heading[7], heading[11]] == ["stage 1 R@1", "mAP", "re-ranked R@1", "mINP"]
    assert not [key for key in first.rows["tiny"]["metrics"] if key.endswith("_p")]  # a mean of p-values is no p-value


@pytest.mark.slow
def test_what_has_no_second_stage_is_empty_and_not_zero(first):
    assert cells(first.page, "Accuracy", "stage1")[7:12] == [""] * 5
    costs = dict(zip(cells(first.page, "Cost", "model"), cells(first.page, "Cost", "stage1"), strict=True))
    assert [key for key, value in costs.items() if value == ""] == ["GFLOPs per re-ranked pair", "query re-ranked, ms"]
    assert not [key for key in first.rows["stage1"]["metrics"] if not key.startswith(("t2i_global/", "queries["))]


@pytest.mark.slow
def test_the_queries_of_a_run_average_to_its_metrics(first):
    for stage in ("t2i_global", "t2i", "t2i_match"):
        metrics = read(first.out / "tiny" / "seed0" / "metrics.json")
        queries = np.load(first.out / "tiny" / "seed0" / "queries.npz")
        assert 100 * (queries[f"{stage}/first_rank"] < 5).mean() == pytest.approx(metrics[f"{stage}/R5"])
        assert 100 * queries[f"{stage}/ap"].mean() == pytest.approx(metrics[f"{stage}/mAP"])
        assert 100 * queries[f"{stage}/inp"].mean() == pytest.approx(metrics[f"{stage}/mINP"])
    assert len(queries["person_ids"]) == 18
    assert len(set(queries["person_ids"].tolist())) == 3
    assert len(set(queries["caption_crc32"].tolist())) > 10


@pytest.mark.slow
def test_queries_without_our_metric(first, folder):
    text = "test_evaluator = dict(_delete_=True, type='mmengine.DumpResults', out_file_path='results.pkl')"
    (folder / "dump.py").write_text(f"_base_ = ['{folder / 'tiny.py'}']\n{text}\n")
    checkpoint = first.out / "tiny" / "seed0" / "epoch_1.pth"
    outcome = factory.tool("test", "dump.py", checkpoint, "--queries", "queries.npz", cwd=folder)
    assert outcome.status == 2
    assert "error: --queries needs test_evaluator=dict(type='TextToImageRetrieval')" in outcome.stderr


@pytest.mark.slow
def test_differences_are_bootstrapped_over_people_and_averaged_over_seeds(first):
    def hits(name: str, stage: str) -> np.ndarray:
        files = [np.load(first.out / name / f"seed{seed}" / "queries.npz") for seed in SEEDS]
        return 100.0 * sum(file[f"{stage}/first_rank"] == 0 for file in files) / 2

    people = np.load(first.out / "tiny" / "seed0" / "queries.npz")["person_ids"]
    expected = paired_bootstrap(hits("tiny", "t2i"), hits("stage1", "t2i_global"), groups=people)
    (pair,) = first.results["significance"]
    assert (pair["a"], pair["b"], pair["queries"]) == ("tiny", "stage1", len(people))
    assert {key: pair[key] for key in expected} == expected
    tiny, stage1 = first.rows["tiny"]["metrics"]["t2i/R1"], first.rows["stage1"]["metrics"]["t2i_global/R1"]
    assert pair["difference"] == pytest.approx(stage1["mean"] - tiny["mean"])
    shown = f"{pair['difference']:+.2f} [{pair['low']:+.2f}, {pair['high']:+.2f}]"
    assert cells(first.page, "Accuracy", "stage1")[-1].removesuffix(" *") == shown


@pytest.mark.slow
def test_results_say_where_they_come_from(first):
    assert {"torch", "timm", "transformers", "mmengine", "cada_plugin"} <= first.results["versions"].keys()
    assert first.results["machine"].keys() == {"cpu", "cores", "threads", "gpu"}
    one = first.rows["tiny"]["runs"][0]
    assert min(one["train_seconds"], one["test_seconds"]) > 0
    # the best epoch in validation, as train.py itself would have tested it
    assert one["checkpoint"] == "best_t2i_R1_epoch_1.pth"
    assert "best_t2i_R1_epoch_1.pth" in (first.out / "tiny" / "seed0" / "test.log").read_text()
    assert len(factory.metrics(first.out / "tiny" / "seed0")) == 2  # one validation, one test: it is not tested twice
    for name in ("accuracy.png", "cost.png"):
        assert min(Image.open(first.out / name).size) > 300


@pytest.mark.slow
def test_costs_are_measured_once_per_config(first):
    tiny, stage1 = first.rows["tiny"]["cost"], first.rows["stage1"]["cost"]
    model = MODELS.build(Config.fromfile(first.out.parent / "tiny.py").model)
    assert tiny["parameters"] == sum(p.numel() for p in model.parameters())
    assert stage1["parameters_trained"] < stage1["parameters"] < tiny["parameters"]
    assert (tiny["gallery_images"], tiny["rerank_topk"]) == (9, factory.TOPK)
    times = ("train_images_per_s", "gallery_images_per_s", "query_ms", "query_reranked_ms", "peak_memory_mb")
    assert min(tiny[key] for key in times) > 0
    assert not (first.out / "broken" / "cost").exists()  # what cannot be trained


# ---------------------------------------------------------------- again


def times_of(out: Path, *names: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for name in names for path in sorted(out.glob(f"{name}/*/*.*"))}


@pytest.mark.slow
def test_a_second_start_makes_only_what_failed(first, folder, capfd):
    shutil.copytree(first.out, folder / "again")
    before = times_of(folder / "again", "tiny", "stage1")
    broken = (folder / "broken.py").read_text()
    (folder / "broken.py").write_text(broken.replace("'fast'", "1e-3"))  # nothing was made with the old one
    capfd.readouterr()
    arguments = ("tiny.py", "stage1.py", "broken.py", "--seeds", *SEEDS, "--out", "again", "--jobs", 2, *ONE_EPOCH)
    assert run(folder, *arguments) == 0
    assert len(before) > 10
    assert times_of(folder / "again", "tiny", "stage1") == before
    shown = capfd.readouterr().err
    assert {line[:20] for line in shown.splitlines() if line.startswith("[")} == {
        "[1/2] broken seed 0:",
        "[2/2] broken seed 1:",
        "[1/1] cost of broken",
    } or "[1/2] broken seed 1:" in shown
    results = read(folder / "again" / "results.json")
    assert [run["status"] for row in results["rows"] for run in row["runs"]] == ["finished"] * 6
    assert {(pair["a"], pair["b"]) for pair in results["significance"]} == {
        ("tiny", "stage1"),
        ("tiny", "broken"),
        ("stage1", "broken"),
    }
    assert "## Failed" not in (folder / "again" / "results.md").read_text()


@pytest.mark.slow
def test_damaged_results_are_named_and_made_again(first, folder, capfd):
    shutil.copytree(first.out, folder / "damaged")
    metrics = folder / "damaged" / "tiny" / "seed0" / "metrics.json"
    metrics.write_text("{}")
    queries = folder / "damaged" / "stage1" / "seed1" / "queries.npz"
    queries.write_bytes(queries.read_bytes()[:100])
    notes = folder / "damaged" / "stage1" / "seed0" / "run.json"
    notes.write_bytes(b"\xff")
    measured = folder / "damaged" / "stage1" / "cost" / "cost.json"
    measured.write_text('{"parameters":')
    before = times_of(folder / "damaged", "tiny")
    capfd.readouterr()
    arguments = ("tiny.py", "stage1.py", "--seeds", *SEEDS, "--out", "damaged", *ONE_EPOCH)
    assert run(folder, *arguments) == 0
    shown = capfd.readouterr().err
    named = [line.partition(":")[0] for line in shown.splitlines() if line.endswith("so it is done again")]
    assert named == ["tiny seed 0", "stage1 seed 0", "stage1 seed 1", "cost of stage1"]
    assert "Traceback" not in shown
    for path in (metrics, queries, notes):
        whole = first.out / path.relative_to(folder / "damaged")
        if path == metrics:
            assert read(path) == read(whole)
        elif path == queries:
            assert np.array_equal(np.load(path)["t2i_global/first_rank"], np.load(whole)["t2i_global/first_rank"])
        else:
            assert read(path)["checkpoint"] == read(whole)["checkpoint"]
    assert read(measured)["parameters"] == read(first.out / "stage1" / "cost" / "cost.json")["parameters"]
    untouched = [path for path in before if "seed1" in path.parts]
    assert {path: path.stat().st_mtime_ns for path in untouched} == {path: before[path] for path in untouched}


@pytest.mark.slow
def test_a_test_whose_metrics_are_none_is_a_failure(first, folder, tmp_path):
    """What a diverged model gives is no result, and is tried again."""

    def diverged(command: list, log: Path) -> None:
        shutil.copy(first.out / "tiny" / "seed0" / "queries.npz", tmp_path / "queries.npz")
        (tmp_path / "metrics.json").write_text('{"t2i/R1": NaN}')

    with pytest.raises(jobs.JobError, match=r"left no results: metrics.json has an impossible t2i/R1"):
        benchmark._test(diverged, tmp_path / "x.py", tmp_path / "x.pth", tmp_path, [])


@pytest.mark.slow
def test_results_of_another_config_are_not_mixed(first, folder, capfd):
    before = times_of(first.out, "*")
    options = ("--cfg-options", "train_cfg.max_epochs=2")
    assert run(folder, "tiny.py", "--seeds", *SEEDS, "--out", "out", *options) == 2
    message = capfd.readouterr().err
    for words in ("error: ", "out/tiny holds results", "train_cfg.max_epochs is 1 there and 2 now", "another --out"):
        assert words in message
    assert times_of(first.out, "*") == before


def interrupt_when(path: Path) -> None:
    """Ctrl-C as soon as a file is there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

    def watch() -> None:
        while not path.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.slow
def test_an_interrupted_benchmark_ends_its_runs_and_is_resumed(first, folder):
    """The children are real ones here: own interpreters, ended by a signal."""
    arguments = ("tiny.py", "--out", "stopped", "--cfg-options", "train_cfg.max_epochs=40")
    work_dir = folder / "stopped" / "tiny" / "seed0"
    interrupt = functools.partial(interrupt_when, work_dir / "epoch_1.pth")
    outcome = factory.tool("benchmark", *arguments, cwd=folder, prepare=interrupt)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert "error: interrupted" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    wait_until_free(folder / "stopped")  # every child held the lock: none is left
    epochs = sorted(int(path.stem.removeprefix("epoch_")) for path in work_dir.glob("epoch_*.pth"))
    assert epochs[-1] < 40
    assert not (work_dir / "failure.json").exists()
    seconds = read(work_dir / "run.json")["train_seconds"]
    # the same command, but for fewer epochs to wait for
    snapshot = folder / "stopped" / "tiny" / "tiny.py"
    snapshot.write_text(snapshot.read_text().replace("max_epochs=40", f"max_epochs={epochs[-1] + 1}"))
    arguments = (*arguments[:-1], f"train_cfg.max_epochs={epochs[-1] + 1}")
    shutil.copytree(first.out / "tiny" / "cost", folder / "stopped" / "tiny" / "cost")  # not again
    assert run(folder, *arguments) == 0
    assert f"resumed epoch: {epochs[-1]}" in (work_dir / "train.log").read_text()
    (resumed,) = read(folder / "stopped" / "results.json")["rows"][0]["runs"]
    assert resumed["status"] == "finished"
    assert resumed["train_seconds"] > seconds > 0


# ---------------------------------------------------------------- given checkpoints, other test sets


@pytest.mark.slow
def test_given_checkpoints_and_other_test_sets(first, folder, capfd):
    checkpoints = [
        first.out / name / "seed0" / row["runs"][0]["checkpoint"] for name, row in list(first.rows.items())[:2]
    ]
    arguments = (
        "tiny.py",
        "stage1.py",
        "--test-only",
        *checkpoints,
        "--cross",
        "other.py",
        "tiny.py",
        "--out",
        "given",
    )
    for name in ("tiny", "stage1"):
        shutil.copytree(first.out / name / "cost", folder / "given" / name / "cost")  # not again
    assert run(folder, *arguments) == 0
    results = read(folder / "given" / "results.json")
    for row in results["rows"]:
        assert row["runs"][0]["metrics"] == read(first.out / row["name"] / "seed0" / "metrics.json")
        assert row["metrics"]["t2i_global/mAP"]["std"] is None
    assert not list((folder / "given").glob("*/*/epoch_*.pth"))
    # the same by hand
    out = folder / "by_hand.json"
    split = ("--cfg-options", "test_dataloader.dataset.split=val")
    factory.tool("test", "tiny.py", checkpoints[0], "--out", out, "--work-dir", folder / "hand", *split, cwd=folder)
    cross = {(cell["name"], cell["test_set"]): cell for cell in results["cross"]}
    assert cross["tiny", "other"]["runs"][0]["metrics"] == read(out)
    assert cross["tiny", "tiny"]["own"]
    assert cross["tiny", "tiny"]["metrics"] == results["rows"][0]["metrics"]
    assert not (folder / "given" / "tiny" / "given" / "cross_tiny").exists()
    page = (folder / "given" / "results.md").read_text()
    other = read(out)
    assert cells(page, "On other test sets", "model") == ["model", "other", "tiny"]
    assert cells(page, "On other test sets", "tiny")[1] == f"{other['t2i/R1']:.2f} / {other['t2i/mAP']:.2f}"
    # the same checkpoint under another name, and another in the place of the first
    capfd.readouterr()
    tested = (folder / "given" / "tiny" / "given" / "metrics.json").stat().st_mtime_ns
    shutil.copy(checkpoints[0], folder / "moved.pth")
    assert run(folder, "tiny.py", "--test-only", "moved.pth", "--out", "given") == 0
    assert (folder / "given" / "tiny" / "given" / "metrics.json").stat().st_mtime_ns == tested
    assert run(folder, "tiny.py", "--test-only", checkpoints[1], "--out", "given") == 2
    assert f"given/tiny/given holds results of {checkpoints[0].resolve()}" in capfd.readouterr().err


# ---------------------------------------------------------------- variants

GRID = """
no_ara:  # without ARA
  model.text_decoder: null
  model.loss_ara: null
"""


@pytest.fixture(scope="module")
def varied(first, folder) -> SimpleNamespace:
    """Benchmark of a trained config and of variants of its test and training. Do not write to ``out``."""
    (folder / "grid.yml").write_text(GRID)
    shutil.copytree(first.out / "tiny", folder / "varied" / "tiny")
    arguments = ("tiny.py", "--vary", "k2: test_cfg.rerank_topk=2", "grid.yml", "--cross", "other.py", *ONE_EPOCH)
    assert run(folder, *arguments, "--out", "varied") == 0
    out = folder / "varied"
    return SimpleNamespace(
        out=out, arguments=arguments, results=read(out / "results.json"), page=(out / "results.md").read_text()
    )


@pytest.mark.slow
def test_a_variant_is_a_row_after_its_config(varied):
    rows = {row["name"]: row for row in varied.results["rows"]}
    assert list(rows) == ["tiny", "tiny-k2", "tiny-no_ara"]
    assert {run["status"] for row in rows.values() for run in row["runs"]} == {"finished"}
    against = [(pair["a"], pair["b"]) for pair in varied.results["significance"] if pair["a"] == "tiny"]
    assert against == [("tiny", "tiny-k2"), ("tiny", "tiny-no_ara")]
    assert cells(varied.page, "Accuracy", "model")[-1] == "R@1 against tiny"
    made_with = Config.fromfile(varied.out / "tiny-no_ara" / "tiny-no_ara.py")
    assert (made_with.model.text_decoder, made_with.model.loss_ara) == (None, None)
    assert rows["tiny-no_ara"]["cost"]["parameters"] < rows["tiny"]["cost"]["parameters"]
    assert [row["cost"]["rerank_topk"] for row in rows.values()] == [factory.TOPK, 2, factory.TOPK]


@pytest.mark.slow
def test_a_variant_of_the_test_alone_is_not_trained_again(varied, folder):
    work_dirs = {name: varied.out / name / "seed0" for name in ("tiny", "tiny-k2", "tiny-no_ara")}
    assert (work_dirs["tiny-no_ara"] / "train.log").is_file()
    assert not (work_dirs["tiny-k2"] / "train.log").exists()
    assert not list(work_dirs["tiny-k2"].rglob("*.pth"))
    notes = read(work_dirs["tiny-k2"] / "run.json")
    checkpoint = work_dirs["tiny"] / read(work_dirs["tiny"] / "run.json")["checkpoint"]
    assert notes["checkpoint"] == f"../../tiny/seed0/{checkpoint.name}"
    assert notes.keys() == {"checkpoint", "test_seconds"}
    # the same by hand
    out, options = folder / "k2.json", ("--cfg-options", "test_cfg.rerank_topk=2", "randomness.seed=0")
    factory.tool("test", "tiny.py", checkpoint, "--out", out, "--work-dir", folder / "k2", *options, cwd=folder)
    assert read(work_dirs["tiny-k2"] / "metrics.json") == read(out)
    other = read(work_dirs["tiny-k2"] / "cross_other" / "metrics.json")
    assert other["t2i/R1"] == pytest.approx(read(work_dirs["tiny"] / "cross_other" / "metrics.json")["t2i/R1"], abs=50)
    assert other != read(out)


@pytest.mark.slow
def test_variants_are_resumed_and_changed_ones_are_refused(varied, folder, capfd):
    before = times_of(varied.out, "*")
    assert run(folder, *varied.arguments, "--out", "varied") == 0
    assert times_of(varied.out, "*") == before
    changed = [word.replace("topk=2", "topk=3") if isinstance(word, str) else word for word in varied.arguments]
    capfd.readouterr()
    assert run(folder, *changed, "--out", "varied") == 2
    message = capfd.readouterr().err
    assert "varied/tiny-k2 holds results of another tiny-k2.py: test_cfg.rerank_topk is 2 there and 3 now" in message
    assert times_of(varied.out, "*") == before


@pytest.mark.slow
def test_a_variant_waits_for_the_training_of_its_config(folder):
    """The variant is tested only if that training has succeeded; its failure is reported once."""
    options = ("--cfg-options", "optim_wrapper.optimizer.lr=fast")
    assert run(folder, "tiny.py", "--vary", "k2: test_cfg.rerank_topk=2", "--out", "waiting", *options) == 1
    rows = read(folder / "waiting" / "results.json")["rows"]
    assert [run["status"] for row in rows for run in row["runs"]] == ["failed", "missing"]


@pytest.mark.slow
def test_variants_of_given_checkpoints(first, folder):
    shutil.copytree(first.out / "tiny" / "cost", folder / "given_varied" / "tiny" / "cost")  # not again
    shutil.copytree(first.out / "tiny" / "cost", folder / "given_varied" / "tiny-k2" / "cost")
    checkpoint = first.out / "tiny" / "seed0" / "epoch_1.pth"
    arguments = ("--vary", "k2: test_cfg.rerank_topk=2", "--test-only", checkpoint, "--out", "given_varied")
    assert run(folder, "tiny.py", *arguments) == 0
    rows = read(folder / "given_varied" / "results.json")["rows"]
    assert [row["runs"][0]["checkpoint"] for row in rows] == [str(checkpoint)] * 2
    one, two = (row["runs"][0]["metrics"] for row in rows)
    assert one["t2i_global/R1"] == two["t2i_global/R1"]
    assert one != two


@pytest.mark.slow
def test_variants_train_again_only_where_nobody_has_trained_the_same(folder):
    variants = [
        Variant("k2", {"test_cfg.rerank_topk": 2}),
        Variant("val", {"val_cfg.rerank_topk": 2}),
        Variant("short", {"train_cfg.max_epochs": 1}),
        Variant("short_k2", {"train_cfg.max_epochs": 1, "test_cfg.rerank_topk": 2}),
    ]
    made = plan.make_plan(plan.Request([str(folder / "tiny.py")], str(folder / "no"), [0, 1], vary=variants))
    trained_as = {row.name: [run.trained_as and run.trained_as.label for run in row.runs] for row in made.rows}
    assert trained_as == {
        "tiny": [None, None],
        "tiny-k2": ["tiny seed 0", "tiny seed 1"],
        "tiny-val": [None, None],
        "tiny-short": [None, None],
        "tiny-short_k2": ["tiny-short seed 0", "tiny-short seed 1"],
    }
