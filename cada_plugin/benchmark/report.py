"""Collects the results of a benchmark from the files of its runs: JSON with everything, CSV, and a page in Markdown.

The *standard deviation* is over seeds and shows training noise (n - 1 in the denominator; none for one seed). The
interval of a *difference* is from a paired bootstrap over test people and shows how much another choice of test people
would change the difference. It does not include training noise: a difference can be significant in one of the two
respects and not in the other, so read both. The *smallest detectable difference* joins them, see
:func:`~cada_plugin.evaluation.smallest_detectable`.
"""

import csv
import itertools
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from cada_plugin.benchmark.abilities import mean_text, partial_tables, slices_table
from cada_plugin.benchmark.machine import machine, versions
from cada_plugin.benchmark.oracles import read_oracles
from cada_plugin.benchmark.plan import CrossTest, Plan, Row, Run, set_name
from cada_plugin.benchmark.records import STAGES, Queries, final_stage, read_records
from cada_plugin.evaluation import paired_bootstrap, smallest_detectable
from cada_plugin.files import replacing, write_json
from cada_plugin.portable.stages import STAGE_ONE
from cada_plugin.tables import markdown_table, three_digits

METRICS = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "mAP": "mAP", "mINP": "mINP"}
COSTS = {  # of cost.json: heading and factor
    "parameters": ("parameters, M", 1e-6),
    "parameters_trained": ("of these trained, M", 1e-6),
    "gflops_image": ("GFLOPs per image", 1),
    "gflops_caption": ("GFLOPs per caption", 1),
    "gflops_pair": ("GFLOPs per re-ranked pair", 1),
    "train_images_per_s": ("training, images/s", 1),
    "gallery_images_per_s": ("gallery, images/s", 1),
    "query_ms": ("query, ms", 1),
    "query_reranked_ms": ("query re-ranked, ms", 1),
    "peak_memory_mb": ("peak memory, MB", 1),
}


def summary(folder: Path) -> str:
    """One line with the main results of a job, read from its folder."""
    records = read_records(folder)
    if records.cost is not None:
        latency = records.cost["query_reranked_ms"] or records.cost["query_ms"]
        return f"{records.cost['parameters'] / 1e6:.2f} M parameters, {latency:.1f} ms a query"
    metrics = records.metrics or {}
    scores = [f"{name} R@1 {metrics[f'{s}/R1']:.2f}" for s, name in STAGES.items() if f"{s}/R1" in metrics]
    return ", ".join(scores) or "tested"


def collect(plan: Plan) -> dict:
    """All results so far, ready for JSON."""
    rows = [_row(row) for row in plan.rows]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": plan.command,
        "machine": machine(),
        "versions": versions(),
        "rows": rows,
        "references": _references(plan),
        "significance": _significance(plan, rows),
        "cross": [_cross(plan, row, target) for target in plan.cross for row in plan.rows],
    }


def _row(row: Row) -> dict:
    runs, cost = [_outcome(run) for run in row.runs], read_records(row.cost)
    return {
        "name": row.name,
        "config": row.source,
        "test_set": set_name(row.test_set),
        "runs": runs,
        "metrics": _aggregate(runs),
        "partial": _aggregate(runs, "partial"),
        "cost": cost.cost,
        "cost_failure": cost.failure,
    }


def _references(plan: Plan) -> list[dict]:
    """Rows that nothing was trained for: the weights that trainings start from, and oracles on procedural people."""
    references = []
    for row in plan.rows:
        if row.start is not None:
            run = _outcome(row.start)
            known = {"metrics": _aggregate([run]), "partial": _aggregate([run], "partial")}
            references.append({"name": row.start.row, "test_set": set_name(row.test_set), "runs": [run], **known})
    sets = [row.test_set for row in plan.rows]
    for entry in read_oracles(plan.out):
        for name, metrics in entry["metrics"].items() if entry["test_set"] in sets else ():
            known = {"metrics": _aggregate([{"metrics": metrics}]), "partial": {}}
            references.append({"name": name, "test_set": set_name(entry["test_set"]), "runs": [], **known})
    return references


def _outcome(made: Run | CrossTest) -> dict:
    """The result of one run or cross test. Its ``status`` is finished, failed or missing."""
    run = made.run if isinstance(made, CrossTest) else made
    records = made.records()
    status = "finished" if records.tested else "failed" if records.failure is not None else "missing"
    return {
        "seed": run.seed,
        "folder": str(made.folder),
        "status": status,
        **records.notes,
        "metrics": records.metrics if records.tested else None,
        "partial": records.partial if records.tested else None,
        "failure": records.failure,
    }


def _aggregate(runs: list[dict], which: str = "metrics") -> dict[str, dict]:
    """Mean and standard deviation of each metric over the finished runs. P-values are left out: a mean p-value has no
    meaning. ``which`` is ``metrics`` or ``partial``."""
    finished = [run[which] for run in runs if run[which] is not None]
    keys = dict.fromkeys(key for metrics in finished for key in metrics if not key.endswith("_p"))
    result = {}
    for key in keys:
        values = [metrics[key] for metrics in finished if key in metrics]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        result[key] = {"mean": float(np.mean(values)), "std": std, "n": len(values)}
    return result


def _cross(plan: Plan, row: Row, target: str) -> dict:
    tests = [test for test in row.cross_tests if test.target == target]
    runs = [_outcome(made) for made in tests or row.runs]  # the row's own test set was tested already
    return {"name": row.name, "test_set": target, "own": not tests, "runs": runs, "metrics": _aggregate(runs)}


def _significance(plan: Plan, rows: list[dict]) -> list[dict]:
    """For every pair of rows tested on the same queries, the gain of ``b`` over ``a`` in R@1, in percentage points, and
    the smallest true gain that would be ``detectable``."""
    hits = {row.name: _hits(row) for row in plan.rows}
    deviations = {row["name"]: _deviation(row["metrics"]) for row in rows}
    pairs = []
    for a, b in itertools.combinations([name for name, found in hits.items() if found is not None], 2):
        (hits_a, queries), (hits_b, others) = hits[a], hits[b]
        if np.array_equal(queries.asked, others.asked):
            gain = paired_bootstrap(100 * hits_a, 100 * hits_b, groups=queries.people)
            detectable = smallest_detectable(gain["error"], (deviations[a], deviations[b]))
            pair = {"a": a, "b": b, "metric": "R1", **gain, "detectable": detectable}
            pairs.append({**pair, "queries": len(queries.people)})
    return pairs


def _deviation(metrics: dict[str, dict]) -> tuple[float | None, int]:
    """Standard deviation of the final R@1 over seeds, None for one seed, and their number."""
    score = metrics.get(f"{final_stage(metrics)}/R1", {"std": None, "n": 1})
    return score["std"], score["n"]


def _hits(row: Row) -> tuple[np.ndarray, Queries] | None:
    """For each query the share (Q,) of seeds that rank a relevant image first, and the queries. None if the seeds were
    tested on different queries, which happens if files of two test sets were copied together."""
    found = [records.queries for run in row.runs if (records := run.records()).tested]
    if not found or not all(np.array_equal(queries.asked, found[0].asked) for queries in found):
        return None
    return np.mean([queries.first_rank == 0 for queries in found], 0), found[0]


# ---------------------------------------------------------------- files


def write_reports(out: Path, results: dict) -> None:
    """Write ``results.json``, ``results.csv`` and ``results.md``."""
    write_json(out / "results.json", results)
    with replacing(out / "results.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        _write_csv(file, results["rows"])
    with replacing(out / "results.md") as temporary:
        temporary.write_text(markdown(results), encoding="utf-8")


def _write_csv(file: object, rows: list[dict]) -> None:
    metrics = list(dict.fromkeys(key for row in rows for key in row["metrics"]))
    scores = [f"{key} {what}" for key in metrics for what in ("mean", "std")]
    writer = csv.DictWriter(file, ["name", "config", "test_set", "seeds", "failed", *scores, *COSTS], restval="")
    writer.writeheader()
    for row in rows:
        known = {f"{key} {what}": value[what] for key, value in row["metrics"].items() for what in ("mean", "std")}
        status = [run["status"] for run in row["runs"]]
        counts = {"seeds": status.count("finished"), "failed": status.count("failed")}
        costs = {key: (row["cost"] or {}).get(key) for key in COSTS}
        writer.writerow({key: row[key] for key in ("name", "config", "test_set")} | counts | known | costs)


def markdown(results: dict) -> str:
    """The Markdown page: accuracy, cost, other test sets, failures, machine and versions."""
    rows, references = results["rows"], results.get("references", [])
    parts = [f"# {title(results)}", _accuracy(results)]
    parts += [table for make in (slices_table, partial_tables) if (table := make([*rows, *references])) is not None]
    if any(row["cost"] for row in rows):
        parts.append(_costs(rows))
    if results["cross"]:
        parts.append(_cross_table(results))
    failures = [(f"{row['name']}{_seed(run)}", run["failure"]) for row in [*rows, *references] for run in row["runs"]]
    failures += [
        (f"{cell['name']}{_seed(run)} on {cell['test_set']}", run["failure"])
        for cell in results["cross"]
        for run in cell["runs"]
        if not cell["own"]
    ]
    failures += [(f"cost of {row['name']}", row["cost_failure"]) for row in rows]
    lines = [
        f"- {what}: {failure['error']}" + (f" (see `{failure['log']}`)" if "log" in failure else "")
        for what, failure in failures
        if failure
    ]
    if lines:
        parts.append("## Failed\n\nTried again when the same command is started again.\n\n" + "\n".join(lines))
    where = results["machine"]
    parts.append(
        f"{results['date']}, {where['gpu'] or 'no GPU'}, {where['cpu']}, {where['cores']} cores, "
        f"{where['threads']} threads; "
        + ", ".join(f"{name} {number}" for name, number in results["versions"].items())
        + f".\n\n`{results['command']}`"
    )
    return "\n\n".join(parts) + "\n"


def title(results: dict) -> str:
    """The title of the page: test set and seeds."""
    sets = list(dict.fromkeys(row["test_set"] for row in results["rows"]))
    seeds = sorted({run["seed"] for row in results["rows"] for run in row["runs"] if run["seed"] is not None})
    on = sets[0] if len(sets) == 1 else "several test sets"
    if not seeds:
        return f"{on}, given checkpoints"
    return f"{on}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _accuracy(results: dict) -> str:
    rows = results["rows"]
    first = rows[0]["name"]
    stages = [s for s in STAGES if any(f"{s}/{m}" in row["metrics"] for row in rows for m in METRICS)] or [STAGE_ONE]
    several = len({row["test_set"] for row in rows}) > 1
    head = ["model", *(["test set"] if several else []), "seeds"]
    head += [f"{STAGES[s]} {name}" if i == 0 else name for s in stages for i, name in enumerate(METRICS.values())]
    against = {pair["b"]: pair for pair in results["significance"] if pair["a"] == first}
    compared = len(rows) > 1
    lines = []
    references = results.get("references", [])
    for row in [*rows, *references]:
        seeds = "" if row in references else _seeds(row["runs"])
        cells = [row["name"], *([row["test_set"]] if several else []), seeds]
        cells += [mean_text(row["metrics"].get(f"{stage}/{metric}")) for stage in stages for metric in METRICS]
        lines.append(cells + ([_difference(against.get(row["name"]))] if compared else []))
    text = ["## Accuracy", "", markdown_table(head + ([f"R@1 against {first}"] if compared else []), lines), ""]
    text.append("In percent, mean ± standard deviation over seeds. Stage 1 ranks by the cosine of the embeddings.")
    if compared:
        text.append(
            "Against the first row: difference of the final R@1 (re-ranked where there is a second stage), of means "
            "over seeds, with its 95 % interval by paired bootstrap over the people of the test queries; * where 0 is "
            "outside. The interval covers the choice of test people and not that of seeds: compare the difference with "
            "the standard deviations as well."
        )
        text += _detectable(against)
    if references:
        text.append(
            "Rows without a number of seeds were not trained here: start weights as they are, and oracles, which are "
            "the ceilings of all models."
        )
    return "\n".join(text)


def _detectable(against: dict[str, dict]) -> list[str]:
    """One line with the smallest detectable difference of each row to the first."""
    known = [(name, pair["detectable"]) for name, pair in against.items() if pair.get("detectable") is not None]
    if not known:
        return []
    values = ", ".join(f"{name} {value:.1f}" for name, value in known)
    return [
        f"Smallest true difference to the first row that this benchmark would detect (4 times out of 5, at a level of "
        f"5 %, from the deviations over seeds and over test people), in points: {values}. What is smaller may be real, "
        "but needs more seeds or more test people. With one seed the noise of training is unknown and left out."
    ]


def _costs(rows: list[dict]) -> str:
    costs = [row["cost"] for row in rows if row["cost"]]
    shown = {key: spec for key, spec in COSTS.items() if any(cost[key] is not None for cost in costs)}
    lines = [
        [row["name"], *(_scaled((row["cost"] or {}).get(key), factor) for key, (_, factor) in shown.items())]
        for row in rows
    ]
    galleries = _list({f"{cost['gallery_images']:,}" for cost in costs})
    shortlists = _list({str(cost["rerank_topk"]) for cost in costs if cost["rerank_topk"]})
    matched = f"; re-ranked: the best {shortlists} matched" if shortlists else ""
    tokens = _list({str(cost["caption_tokens"]) for cost in costs})
    memory = _list({cost["peak_memory_of"] for cost in costs})
    head = ["model", *(name for name, _ in shown.values())]
    return "\n".join(
        [
            "## Cost",
            "",
            markdown_table(head, lines),
            "",
            f"GFLOPs: 2 FLOP for each multiply-add of matrix products and convolutions; a caption of {tokens} tokens. "
            "Training: forward, backward, optimiser. Gallery: encoding. Query: one caption, tokenised, encoded and "
            f"compared with a gallery of {galleries} images{matched}. "
            f"Memory: of {memory}, in training and search.",
        ]
    )


def _cross_table(results: dict) -> str:
    targets = list(dict.fromkeys(cell["test_set"] for cell in results["cross"]))
    cells = {(cell["name"], cell["test_set"]): cell for cell in results["cross"]}
    lines = []
    for row in results["rows"]:
        entries = [cells[row["name"], target] for target in targets]
        lines.append([row["name"], *(_score(e["metrics"]) + (" (own)" if e["own"] else "") for e in entries)])
    return "\n".join(
        [
            "## On other test sets",
            "",
            markdown_table(["model", *targets], lines),
            "",
            "R@1 / mAP of the final list in percent, mean ± standard deviation over seeds, without further training.",
        ]
    )


def _score(metrics: dict) -> str:
    stage = final_stage(metrics)
    return " / ".join(mean_text(metrics.get(f"{stage}/{metric}")) for metric in ("R1", "mAP")) if metrics else "-"


def _seeds(runs: list[dict]) -> str:
    finished = sum(run["status"] == "finished" for run in runs)
    if finished == len(runs):
        return str(finished)
    failed = sum(run["status"] == "failed" for run in runs)
    return f"{finished} of {len(runs)}" + (f", {failed} failed" if failed else "")


def _seed(run: dict) -> str:
    return "" if run["seed"] is None else f" seed {run['seed']}"


def _difference(pair: dict | None) -> str:
    if pair is None:
        return ""
    mark = " *" if pair["low"] > 0 or pair["high"] < 0 else ""
    return f"{pair['difference']:+.2f} [{pair['low']:+.2f}, {pair['high']:+.2f}]{mark}"


def _scaled(value: float | None, factor: float) -> str:
    return three_digits(None if value is None else value * factor)


def _list(values: set[str]) -> str:
    return " or ".join(sorted(values))
