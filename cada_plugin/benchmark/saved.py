"""Results of a benchmark as one file to keep and to commit, from which tables and charts are made again.

The file is the ``results.json`` of the benchmark without anything that only one folder and one user have. It names its
rows, its date, its machine and the versions of the packages, and needs neither the folder nor a certain commit.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from cada_plugin.benchmark.charts import draw_accuracy, draw_cost
from cada_plugin.benchmark.report import markdown
from cada_plugin.errors import ConfigError, first_line
from cada_plugin.files import replacing, writable_folder

FORMAT = "cada_plugin benchmark 1"
"""Marks a file of saved results, with the version of their layout."""


def portable(results: dict) -> dict:
    """The results without anything that only this folder and this user have, to be committed and for ``cada report``:
    no paths of runs, checkpoints and logs."""

    def bare(run: dict) -> dict:
        kept = ("seed", "status", "train_seconds", "test_seconds", "metrics", "partial")
        failure = run["failure"] and {"error": run["failure"]["error"]}
        return {key: run[key] for key in kept if key in run} | {"failure": failure}

    def of_row(row: dict) -> dict:
        failure = row.get("cost_failure") and {"error": row["cost_failure"]["error"]}
        own = {"cost_failure": failure} if "cost_failure" in row else {}
        own |= {"config": Path(row["config"]).name} if "config" in row else {}
        return row | {"runs": [bare(run) for run in row["runs"]]} | own

    changed = {key: [of_row(row) for row in results[key]] for key in ("rows", "references", "cross")}
    return {"format": FORMAT, **results, **changed}


def read_portable(path: Path) -> dict:
    """The results of a file that :func:`portable` was written to.

    Raises:
        ConfigError: the file cannot be read, or is another one.
    """
    advice = "give a file that `cada benchmark --save` wrote"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({first_line(error)}): {advice}") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise ConfigError(f"{path} holds no results of a benchmark ({FORMAT!r}): {advice}")
    return results


def remake(path: Path, out: Path) -> list[Path]:
    """Write the tables and charts of saved results into a folder, named after the file: ``web.json`` gives ``web.md``,
    ``web_accuracy.png`` and ``web_cost.png``. Returns what was written; a chart of nothing is not drawn.

    Raises:
        ConfigError: the file holds no saved results, or nothing can be written to the folder.
    """
    results = read_portable(path)
    writable_folder(out, "--out")
    page, charts = out / f"{path.stem}.md", [out / f"{path.stem}_{name}.png" for name in ("accuracy", "cost")]
    with _complete(path):
        text = markdown(results)
        for draw, chart in zip((draw_accuracy, draw_cost), charts, strict=True):
            if not draw(results, chart):
                chart.unlink(missing_ok=True)
    with replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return [made for made in (page, *charts) if made.exists()]


@contextlib.contextmanager
def _complete(path: Path) -> Iterator[None]:
    """Turn what fails on edited results into an error that names their file."""
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"{path} lacks a part of its results ({type(error).__name__}: {first_line(error)}): restore the file, or "
            "write it again with `cada benchmark --save`"
        ) from error
