"""What a benchmark shows of procedural people (slices, short and wrong captions, oracles, start weights), how small a
difference it can detect, and results that are saved and shown again."""

import dataclasses
import json
import shutil
from pathlib import Path

import benchmark_factory as factory
import numpy as np
import pytest
import runner_factory

from cada_plugin.benchmark import run as benchmark
from cada_plugin.benchmark.oracles import READER, VIEWER, oracle_metrics, read_oracles, write_oracles
from cada_plugin.benchmark.plan import Plan, Request, Run, make_plan
from cada_plugin.benchmark.report import collect, markdown, write_reports
from cada_plugin.benchmark.saved import portable
from cada_plugin.benchmark.variants import Variant
from cada_plugin.cli import main
from cada_plugin.datasets.procedural import build_procedural
from cada_plugin.datasets.procedural.oracle import Oracle
from cada_plugin.evaluation import rank_metrics
from cada_plugin.evaluation.significance import smallest_detectable, student_quantile

TEST_SET = {"type": "ProceduralPEDES", "split": "test", "build": {"world": "camera"}}
SLICES = {"queries[side]": 40.0, "t2i_global/R1[side]": 20.0, "t2i/R1[side]": 30.0, "t2i/mAP[side]": 35.0}
PARTIAL = {
    "queries[1 phrase]": 9.0,
    "images[1 phrase]": 12.5,
    "P10_at_best[1 phrase]": 90.0,
    "t2i_global/mAP[1 phrase]": 41.0,
    "t2i_global/P10[1 phrase]": 42.0,
    "t2i/mAP[1 phrase]": 43.0,
    "t2i/P10[1 phrase]": 44.0,
    **{f"t2i/{key}[true caption]": value for key, value in {"R1": 70.0, "mean_rank": 3.0}.items()},
    **{f"t2i/{key}[wrong phrase]": value for key, value in {"R1": 60.0, "mean_rank": 250.0}.items()},
    "t2i/moved_down[wrong phrase]": 31.0,
    "t2i/moved_up[wrong phrase]": 5.0,
}


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    """A finished benchmark of procedural people: the first row has slices, partial results and start weights."""
    monkeypatch.setattr(benchmark, "machine", lambda: factory.COST["machine"])
    plan = factory.write_benchmark(tmp_path / "out")
    first, *others = plan.rows
    for shift, run in enumerate(first.runs):
        changed = {key: value + 2 * shift * (not key.startswith("queries")) for key, value in SLICES.items()}
        (run.folder / "metrics.json").write_text(json.dumps(factory.METRICS | changed))
        (run.folder / "partial.json").write_text(json.dumps({k: v + shift for k, v in PARTIAL.items()}))
    start = Run("one, start weights", first.runs[0].config, first.folder / "start", None, Path("weights"), partial=True)
    shutil.copytree(first.runs[0].folder, start.folder)
    (start.folder / "metrics.json").write_text(json.dumps({**factory.METRICS, "t2i/R1": 11.0}))
    rows = (dataclasses.replace(first, start=start, test_set=TEST_SET), *others)
    oracles = [{"test_set": TEST_SET, "metrics": {name: {"t2i_global/R1": 99.0} for name in (READER, VIEWER)}}]
    (plan.out / "oracles.json").write_text(json.dumps(oracles))
    return dataclasses.replace(plan, rows=rows)


def cells(page: str, section: str, *begin: str) -> list[str]:
    """The cells of the row of a section's table that begins with these."""
    lines = page.split(f"## {section}\n")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    (row,) = (row for row in rows if tuple(row[: len(begin)]) == begin)
    return row


def test_the_page_shows_means_over_seeds_of_slices_and_of_short_and_wrong_captions(plan):
    page = markdown(collect(plan))
    assert cells(page, "Slices", "slice")[1:4] == ["captions", "one", "two"]
    assert cells(page, "Slices", "side")[1:4] == ["40", "31.00 ± 1.41", ""]
    assert cells(page, "Slices", "all")[2:5] == ["50.00 ± 0.00", "50.00 ± 0.00", "11.00"]
    assert cells(page, "Short sentences", "one", "stage 1")[2:] == ["41.50 ± 0.71", "42.50 ± 0.71"]
    assert cells(page, "Short sentences", "one", "re-ranked")[2:] == ["43.50 ± 0.71", "44.50 ± 0.71"]
    shown = ["70.50 ± 0.71", "3.50 ± 0.71", "60.50 ± 0.71", "250.50 ± 0.71", "31.50 ± 0.71", "5.50 ± 0.71"]
    assert cells(page, "Sentences with a mistake", "one", "re-ranked")[2:] == shown
    assert "1 phrase: 13.0 right pictures on average, P@10 at best 90.5" in page


def test_references_stand_below_the_models_and_are_no_rows(plan):
    results = collect(plan)
    page = markdown(results)
    names = ["one, start weights", READER, VIEWER]
    assert [row["name"] for row in results["references"]] == names
    assert [row["name"] for row in results["rows"]] == ["one", "two"]
    assert cells(page, "Accuracy", "one, start weights")[2] == ""
    assert "11.00" in cells(page, "Accuracy", "one, start weights")
    assert "99.00" in cells(page, "Accuracy", VIEWER)
    (plan.rows[0].start.folder / "metrics.json").unlink()
    (plan.rows[0].start.folder / "failure.json").write_text(json.dumps(factory.FAILURE))
    assert "- one, start weights: out of memory" in markdown(collect(plan))


def test_a_damaged_partial_result_is_made_again(plan, capsys):
    run = plan.rows[0].runs[1]
    (run.folder / "partial.json").write_text('{"t2i/mAP[1 phrase]": NaN}')
    assert not factory.done(plan)["one seed 1"]
    benchmark._name_damage(plan)
    assert capsys.readouterr().err.startswith("one seed 1: partial.json has an impossible t2i/mAP[1 phrase]")


def test_without_slices_the_page_is_as_before(tmp_path):
    page = markdown(collect(factory.write_benchmark(tmp_path / "out")))
    assert not any(f"## {section}" in page for section in ("Slices", "Short sentences", "Sentences with a mistake"))
    assert "oracle" not in page


# ---------------------------------------------------------------- oracles


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("oracles") / "people"
    build = {"world": "camera", "seed": 6, "identities": {"train": 10, "test": 25}, "images_per_identity": 2}
    build_procedural(folder, **build)
    records = json.loads((folder / "reid_raw.json").read_text())
    for record in records[-30:]:  # dark pictures, so that the viewer misses something among so few people
        record["regions"] = {part: region | {"visible": False} for part, region in record["regions"].items()}
        record["seen_absent"] = []
    (folder / "reid_raw.json").write_text(json.dumps(records))
    return {"type": "ProceduralPEDES", "data_root": str(folder), "build": build, "split": "test", "test_mode": True}


def test_oracles_are_ranked_like_a_model(world):
    records = json.loads((Path(world["data_root"]) / "reid_raw.json").read_text())
    test, train = ([r for r in records if r["split"] == split] for split in ("test", "train"))
    found = oracle_metrics(world)
    for name, oracle in ((READER, Oracle(test)), (VIEWER, Oracle(test, True, train))):
        ids = oracle.query_ids, oracle.gallery_ids
        scores = oracle.scores(0, len(oracle.query_ids))
        for key, value in rank_metrics(scores, *ids).items():
            assert found[name][f"t2i_global/{key}"] == pytest.approx(value)
        rows = [k for k, names in enumerate(s for r in test for s in r["slices"]) if "twins" in names]
        of_twins = rank_metrics(scores[rows], ids[0][rows], ids[1], (1,))
        assert found[name]["t2i_global/R1[twins]"] == pytest.approx(of_twins["R1"])
        assert found[name]["queries[twins]"] == len(rows)
    assert found[VIEWER]["t2i_global/mAP"] < found[READER]["t2i_global/mAP"]
    first = oracle_metrics(world | {"captions_per_image": 1})
    assert first[READER]["queries[names upper]"] < found[READER]["queries[names upper]"]


def test_oracles_are_computed_once(world, tmp_path):
    write_oracles(tmp_path, [world, {"type": "CUHKPEDES"}, world])
    (entry,) = read_oracles(tmp_path)
    assert entry == {"test_set": world, "metrics": oracle_metrics(world)}
    written = (tmp_path / "oracles.json").stat().st_mtime_ns
    write_oracles(tmp_path, [world])
    assert (tmp_path / "oracles.json").stat().st_mtime_ns == written
    for damage in ("", "[3]", "{}", '[{"test_set": {}}]'):
        (tmp_path / "oracles.json").write_text(damage)
        assert read_oracles(tmp_path) == []
    write_oracles(tmp_path, [world])
    assert read_oracles(tmp_path) == [entry]


def test_other_data_sets_have_no_oracles(tmp_path):
    write_oracles(tmp_path, [{"type": "CUHKPEDES", "split": "test"}])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the plan and its runs


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plans")
    runner_factory.write_world(folder)
    (folder / "weights.pth").write_text("")
    for name, weights in (("started", "weights.pth"), ("nowhere", "missing.pth")):
        init = f"model = dict(init_cfg=dict(type='Pretrained', checkpoint='{folder / weights}'))"
        (folder / f"{name}.py").write_text(f"_base_ = ['world.py']\n{init}\n")
    return folder


def test_start_weights_are_tested_once_for_each_config_that_has_them(configs, tmp_path):
    names = ("started", "nowhere")
    variant = Variant("started/k2", {"test_cfg.rerank_topk": 2})
    request = Request([str(configs / f"{n}.py") for n in names], str(tmp_path), seeds=(0, 1), vary=[variant])
    rows = {row.name: row for row in make_plan(request).rows}
    assert {name for name, row in rows.items() if row.start} == {"started"}
    start = rows["started"].start
    assert (start.given, start.folder) == (configs / "weights.pth", tmp_path / "started" / "start")
    assert start.label == "started, start weights"
    assert all(run.partial for row in rows.values() for run in row.runs)  # they are procedural people


def test_a_run_of_a_drawn_world_is_tested_on_partial_captions(configs, tmp_path):
    request = Request([str(configs / "started.py")], str(tmp_path))
    plan = make_plan(request)
    plan.prepare()
    calls = []

    def call(command: list, log: Path) -> None:
        calls.append([str(part) for part in command])
        (log.parent / "metrics.json").write_text(json.dumps(factory.METRICS))
        factory.write_queries(log.parent / "queries.npz")

    start = plan.rows[0].start
    benchmark._train_and_test(start).work(call)
    (command,) = calls
    assert command[3:6] == ["test", str(start.config), str(configs / "weights.pth")]
    assert command[command.index("--partial") + 1] == str(start.folder / "partial.json")
    assert start.records().tested


# ---------------------------------------------------------------- the smallest detectable difference


def test_it_is_2_8_standard_errors_for_known_deviations():
    assert smallest_detectable(0.5) == pytest.approx(0.5 * 2.8016, rel=1e-4)
    assert smallest_detectable(0.3, ((0.4, 10**6), (0.0, 10**6))) == pytest.approx(0.3 * 2.8016, rel=1e-3)
    assert smallest_detectable(0.3, ((None, 1), (None, 1))) == smallest_detectable(0.3)
    few, many = (smallest_detectable(0.0, ((1.0, n), (1.0, n))) for n in (3, 30))
    assert few > np.sqrt(10) * many  # fewer seeds tell less of the deviation, too


def test_a_difference_of_that_size_is_found_four_times_out_of_five():
    """Simulated comparisons of six seeds each, tested by Welch's test."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    std, people, n, trials = 1.0, 0.3, 6, 8_000
    difference = smallest_detectable(people, ((std, n), (std, n)))
    a = rng.normal(0, std, (trials, n))
    b = rng.normal(difference, std, (trials, n)) + rng.normal(0, people, (trials, 1))
    parts = [sample.var(1, ddof=1) / n for sample in (a, b)]
    variance = people**2 + sum(parts)
    degrees = variance**2 / sum(part**2 / (n - 1) for part in parts)
    found = np.abs(b.mean(1) - a.mean(1)) > stats.t.ppf(0.975, degrees) * np.sqrt(variance)
    assert abs(found.mean() - 0.8) < 0.03


@pytest.mark.parametrize(("degrees", "tolerance"), [(2, 1e-2), (3, 2e-3), (5, 1e-3), (40, 1e-4), (float("inf"), 1e-6)])
def test_quantiles_are_students(degrees, tolerance):
    stats = pytest.importorskip("scipy.stats")
    for probability in (0.8, 0.9, 0.975):
        assert student_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=tolerance)


def test_the_page_states_it_for_each_row(plan):
    results = collect(plan)
    (pair,) = results["significance"]
    scores = [row["metrics"]["t2i/R1"] for row in results["rows"]]
    assert pair["detectable"] == smallest_detectable(pair["error"], tuple((s["std"], s["n"]) for s in scores))
    assert f"in points: two {pair['detectable']:.1f}." in markdown(results)


# ---------------------------------------------------------------- saved results


def test_saved_results_make_the_same_page_and_hold_no_paths(plan, tmp_path, capsys):
    plan = dataclasses.replace(plan, command="cada benchmark one --out bench")
    (plan.rows[1].runs[0].folder / "metrics.json").unlink()
    failure = {"error": "out of memory", "log": str(plan.out / "train.log")}
    (plan.rows[1].runs[0].folder / "failure.json").write_text(json.dumps(failure))
    results = collect(plan)
    write_reports(plan.out, results)
    saved = tmp_path / "docs" / "camera.json"
    saved.parent.mkdir()
    saved.write_text(json.dumps(portable(results)))
    assert str(tmp_path) not in saved.read_text()
    shutil.rmtree(plan.out / "one")  # the file is enough
    assert main(["report", str(saved), "--out", str(tmp_path / "made")]) == 0
    made = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert made == ["camera.md", "camera_accuracy.png", "camera_cost.png"]
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "made" / n) for n in (made[0], "camera_accuracy.png", "camera_cost.png")
    ]

    page = (plan.out / "results.md").read_text().replace(f" (see `{plan.out / 'train.log'}`)", "")
    assert (tmp_path / "made" / "camera.md").read_text() == page
    assert "\n\n`cada benchmark one --out bench`" in page


def test_results_that_lack_a_part_leave_the_charts_that_are_there(plan, tmp_path, capsys):
    results = portable(collect(plan))
    for row in results["rows"]:
        row["cost"] = {"query_ms": 1.0}
    (tmp_path / "x.json").write_text(json.dumps(results))
    (tmp_path / "x_cost.png").write_text("drawn before")
    assert main(["report", str(tmp_path / "x.json"), "--out", str(tmp_path)]) == 2
    assert "lacks a part of its results" in capsys.readouterr().err
    assert (tmp_path / "x_cost.png").read_text() == "drawn before"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "holds no results of a benchmark"),
        ('{"rows": []}', "holds no results of a benchmark"),
        ("{", "cannot be read as JSON"),
        (json.dumps({"format": "cada_plugin benchmark 1", "rows": [{}]}), "lacks a part of its results"),
    ],
)
def test_other_files_are_no_saved_results(content, words, tmp_path, capsys):
    (tmp_path / "x.json").write_text(content)
    assert main(["report", str(tmp_path / "x.json")]) == 2
    assert words in capsys.readouterr().err
