"""Damaged files of a benchmark: each is reported in one line, does not count as a result, and is made again."""

import json
import shutil
from pathlib import Path

import benchmark_factory as factory
import numpy as np
import pytest

from cada_plugin.benchmark import run as benchmark
from cada_plugin.benchmark.charts import draw_accuracy, draw_cost
from cada_plugin.benchmark.records import read_records
from cada_plugin.benchmark.report import collect, write_reports
from cada_plugin.errors import ConfigError
from cada_plugin.files import content_digest, writable_file, writable_folder


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def plan(out, monkeypatch):
    monkeypatch.setattr(benchmark, "machine", lambda: factory.COST["machine"])
    return factory.write_benchmark(out)


def test_what_is_whole_is_not_made_again(plan, capsys):
    assert all(factory.done(plan).values())
    benchmark._name_damage(plan)
    assert capsys.readouterr().err == ""
    results = collect(plan)
    assert results["rows"][0]["metrics"]["t2i/R1"] == {"mean": 50.0, "std": 0.0, "n": 2}
    assert results["rows"][0]["cost"] == factory.COST
    assert len(results["significance"]) == 1


def without(content: dict, key: str) -> bytes:
    return json.dumps({name: value for name, value in content.items() if name != key}).encode()


CUT = json.dumps(factory.METRICS).encode()[:40]
DAMAGE = {
    "metrics cut off": ("metrics.json", CUT, "cannot be read as JSON"),
    "metrics empty": ("metrics.json", b"{}", "metrics.json holds no results"),
    "metrics of no bytes": ("metrics.json", b"", "cannot be read as JSON"),
    "metrics of another type": ("metrics.json", b"[1]", "metrics.json holds a list"),
    "metrics with texts": ("metrics.json", b'{"t2i_global/R1": "high"}', "has no number for t2i_global/R1"),
    "metrics with a truth": ("metrics.json", b'{"t2i_global/R1": true}', "has no number for t2i_global/R1"),
    "metrics nan": ("metrics.json", b'{"t2i_global/R1": NaN}', "has an impossible t2i_global/R1"),
    "metrics beyond": ("metrics.json", b'{"t2i/R1": 101}', "has an impossible t2i/R1"),
    "metrics of no retrieval": ("metrics.json", b'{"accuracy": 1.0}', "has no metric of a retrieval"),
    "metrics not UTF-8": ("metrics.json", b"\xff\xfe\x00", "cannot be read as JSON"),
    "metrics without end": ("metrics.json", b"[" * 100_000, "cannot be read as JSON"),
    "half a character": ("metrics.json", b'{"t2i/R1": 1, "\\ud800": 2}', "cannot be read as JSON"),
    "notes empty": ("run.json", b"{}", "run.json holds no results"),
    "notes of a stopped training": ("run.json", b'{"train_seconds": 3.0}', "run.json names no checkpoint"),
    "notes with a number": ("run.json", b'{"checkpoint": 3}', "run.json has no text for checkpoint"),
    "notes of a negative time": ("run.json", b'{"train_seconds": -1}', "impossible train_seconds"),
    "failure without a log": ("failure.json", b'{"error": "x"}', "failure.json has no text for log"),
    "failure as a text": ("failure.json", b'"x"', "failure.json holds a str"),
    "queries cut off": ("queries.npz", b"PK\x03\x04", "queries.npz is not the file of arrays"),
    "queries of no bytes": ("queries.npz", b"", "queries.npz is not the file of arrays"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_of_a_run(name, plan, capsys):
    file, content, words = DAMAGE[name]
    run = plan.rows[0].runs[0]
    (run.folder / file).write_bytes(content)
    assert [label for label, finished in factory.done(plan).items() if not finished] == ["one seed 0"]
    benchmark._name_damage(plan)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"one seed 0: {file} ")
    assert words in line
    assert line.endswith("so it is done again")
    results = collect(plan)
    write_reports(plan.out, results)
    draw_accuracy(results, plan.out / "accuracy.png")
    draw_cost(results, plan.out / "cost.png")
    assert "| one | 1 of 2" in (plan.out / "results.md").read_text()
    assert results["rows"][0]["metrics"]["t2i/R1"]["n"] == 1


@pytest.mark.parametrize("file", ["run.json", "queries.npz"])
def test_metrics_alone_are_no_result(file, plan, capsys):
    (plan.rows[0].runs[0].folder / file).unlink()
    assert not factory.done(plan)["one seed 0"]
    benchmark._name_damage(plan)
    assert f"one seed 0: {file} is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"t2i/first_rank": np.zeros(3, int)},
        {"t2i/first_rank": np.full(factory.QUERIES, np.nan)},
        {"person_ids": np.zeros((factory.QUERIES, 2), int)},
        {"caption_crc32": np.array(["a"] * factory.QUERIES)},
        {"person_ids": np.array([{}] * factory.QUERIES)},
    ],
)
def test_queries_that_are_none(changes, plan):
    run = plan.rows[0].runs[0]
    factory.write_queries(run.folder / "queries.npz", **changes)
    assert not factory.done(plan)["one seed 0"]
    assert collect(plan)["rows"][0]["metrics"]["t2i/R1"]["n"] == 1


def test_seeds_that_were_asked_different_things_are_not_compared(plan):
    factory.write_queries(
        plan.rows[0].runs[0].folder / "queries.npz", caption_crc32=np.arange(7, 7 + factory.QUERIES, dtype=np.uint32)
    )
    assert collect(plan)["significance"] == []


COST_DAMAGE = {
    "cut off": b'{"machine": {',
    "no machine": without(factory.COST, "machine"),
    "no time": without(factory.COST, "query_ms"),
    "no time at all": json.dumps(factory.COST | {"query_ms": 0.0}).encode(),
    "nan": json.dumps(factory.COST | {"gflops_pair": float("nan")}).encode(),
    "a list": json.dumps(factory.COST | {"caption_tokens": [9]}).encode(),
    "half a token": json.dumps(factory.COST | {"caption_tokens": 9.5}).encode(),
}


@pytest.mark.parametrize("name", COST_DAMAGE)
def test_a_damaged_cost_is_measured_again(name, plan, capsys):
    (plan.rows[0].cost / "cost.json").write_bytes(COST_DAMAGE[name])
    assert [label for label, measured in factory.done(plan).items() if not measured] == ["cost of one"]
    benchmark._name_damage(plan)
    assert capsys.readouterr().err.startswith("cost of one: cost.json ")
    results = collect(plan)
    write_reports(plan.out, results)
    draw_cost(results, plan.out / "cost.png")
    assert results["rows"][0]["cost"] is None


def test_a_test_on_another_set_is_made_again_alone(plan):
    (plan.rows[1].cross_tests[1].folder / "metrics.json").write_text("{}")
    assert [label for label, finished in factory.done(plan).items() if not finished] == ["two seed 1 on other"]
    assert read_records(plan.rows[1].runs[1].folder).tested


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("folder", ["below/a/folder", "/proc/results", "/proc/version/results", "a\0b", "x" * 300])
def test_folders_that_cannot_be(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").write_text("a file")
    with pytest.raises(ConfigError, match="--out cannot be written to"):
        writable_folder(Path(folder), "--out")
    with pytest.raises(ConfigError, match="--json cannot be written to"):
        writable_file(Path(folder) / "x.json", "--json")


def test_files_that_are_folders(tmp_path, plan):
    with pytest.raises(ConfigError, match="is a folder: give the name of a file"):
        writable_file(tmp_path, "--json")
    (plan.out / "results.md").mkdir()
    with pytest.raises(ConfigError, match=r"--out .*results.md is a folder"):
        plan.prepare()


def test_a_run_whose_folder_is_a_file(plan):
    shutil.rmtree(plan.rows[1].runs[1].folder)
    plan.rows[1].runs[1].folder.write_text("")
    with pytest.raises(ConfigError, match=r"--out cannot be written to .*two/seed1"):
        plan.prepare()


def test_a_checkpoint_is_known_by_its_content(tmp_path):
    for folder in ("one", "same", "renamed"):
        (tmp_path / folder / "inner").mkdir(parents=True)
    files = ("one/a.bin", "one/inner/b.bin", "same/a.bin", "same/inner/b.bin", "renamed/a.bin", "renamed/inner/c.bin")
    for path in files:
        (tmp_path / path).write_bytes(b"weights")
    assert content_digest(tmp_path / "one") == content_digest(tmp_path / "same")
    assert content_digest(tmp_path / "one") != content_digest(tmp_path / "renamed")
    assert content_digest(tmp_path / "one" / "a.bin") == content_digest(tmp_path / "renamed" / "inner" / "c.bin")
    (tmp_path / "same" / "a.bin").write_bytes(b"Weights")  # as long as before
    assert content_digest(tmp_path / "one") != content_digest(tmp_path / "same")
