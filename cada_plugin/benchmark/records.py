"""Reads the files that tell a benchmark which runs are done. A file is either fully valid or not used at all.

A file can be cut off by a full disk, edited, or copied from somewhere else. Its content is then not used as a result:
the benchmark reports the damage in one line and repeats the run.
"""

import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cada_plugin.portable.stages import FINAL, STAGE_ONE

STAGES = {STAGE_ONE: "stage 1", FINAL: "re-ranked"}
_LARGEST = 1e15  # larger than any count, size or time of a model
_COST_NUMBERS = (
    "parameters",
    "parameters_trained",
    "gflops_image",
    "gflops_caption",
    "gallery_images_per_s",
    "query_ms",
)
_COST_OPTIONAL = ("gflops_pair", "train_images_per_s", "query_reranked_ms", "peak_memory_mb", "rerank_topk")
_COST_COUNTS = ("caption_tokens", "gallery_images")


@dataclass(frozen=True)
class Queries:
    """Q test queries and the rank of the first relevant image of each."""

    people: np.ndarray  # (Q,) person ids
    asked: np.ndarray  # (Q, 2) person id and caption checksum; equal in two files if they hold the same queries
    first_rank: np.ndarray  # (Q,) from 0, in the final list


@dataclass(frozen=True)
class Records:
    """The content of the files in a folder. A missing or damaged file gives None, or empty ``notes``.

    Attributes:
        metrics: test metrics by name.
        queries: test queries.
        notes: which checkpoint was tested, and how long training and test took.
        failure: ``error`` and ``log`` of the last attempt.
        cost: see :mod:`cada_plugin.benchmark.cost`.
        partial: metrics of short and of wrong captions, see :mod:`cada_plugin.engine.partial`.
        damage: for each file that cannot be used, its name and the reason.
    """

    metrics: dict[str, float] | None
    queries: Queries | None
    notes: dict[str, Any]
    failure: dict[str, str] | None
    cost: dict[str, Any] | None
    damage: tuple[str, ...]
    partial: dict[str, float] | None = None

    @property
    def tested(self) -> bool:
        """Whether the metrics exist and no file that belongs to them is missing or damaged."""
        return self.metrics is not None and self.queries is not None and not self.damage


def final_stage(metrics: dict) -> str:
    """The list that a model is compared by: the re-ranked one if the model has a second stage, else that of stage 1."""
    return FINAL if any(key.startswith(f"{FINAL}/") for key in metrics) else STAGE_ONE


def read_records(folder: Path, noted: bool = False) -> Records:
    """Read the files of a run, of a test on another test set, or of a cost measurement. A run is ``noted``: it needs
    ``run.json``, because otherwise nobody knows which checkpoint its results belong to."""
    damage: list[str] = []

    def read(name: str, reader: Callable[[Path], Any]) -> Any:
        path = folder / name
        if not path.is_file():
            return None
        try:
            return reader(path)
        except _Damaged as error:
            damage.append(f"{name} {error}")
            return None

    metrics = read("metrics.json", _read_metrics)
    stage = None if metrics is None else final_stage(metrics)
    queries = read("queries.npz", lambda path: _read_queries(path, stage))
    if metrics is not None and not (folder / "queries.npz").is_file():
        damage.append("queries.npz is missing")
    notes = read("run.json", _read_notes)
    if noted and metrics is not None and not any(line.startswith("run.json") for line in damage):
        if not (folder / "run.json").is_file():
            damage.append("run.json is missing")
        elif "checkpoint" not in notes:
            damage.append("run.json names no checkpoint")
    failure, cost = read("failure.json", _read_failure), read("cost.json", _read_cost)
    partial = read("partial.json", _read_partial)
    return Records(metrics, queries, notes or {}, failure, cost, tuple(damage), partial)


class _Damaged(Exception):
    """A file cannot be used; the message says why."""


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode("utf-8")  # a lone surrogate could not be written again
    except (OSError, ValueError, RecursionError) as error:
        raise _Damaged(f"cannot be read as JSON ({str(error).splitlines()[0][:100]})") from error
    if not isinstance(content, dict) or not content:
        raise _Damaged("holds no results" if content == {} else f"holds a {type(content).__name__} and no names")
    return content


def _number(content: dict, key: str, low: float = -_LARGEST, high: float = _LARGEST) -> float:
    value = content.get(key)
    if type(value) not in (int, float):
        raise _Damaged(f"has no number for {key}")
    if not (math.isfinite(value) if isinstance(value, float) else True) or not low <= value <= high:
        raise _Damaged(f"has an impossible {key}")
    return value


def _text(content: dict, key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise _Damaged(f"has no text for {key}")
    return value


def _read_metrics(path: Path) -> dict[str, float]:
    metrics = _read_json(path)
    for key in metrics:
        percent = key.partition("/")[0] in STAGES and not key.endswith("_p")
        _number(metrics, key, *((0.0, 100.0) if percent else ()))
    if not any(key.partition("/")[0] in STAGES for key in metrics):
        raise _Damaged(f"has no metric of a retrieval ({STAGE_ONE}/R1)")
    return metrics


def _read_partial(path: Path) -> dict[str, float]:
    metrics = _read_json(path)
    for key in metrics:
        _number(metrics, key, 0.0)
    return metrics


def _read_notes(path: Path) -> dict[str, Any]:
    content = _read_json(path)
    readers = {"checkpoint": _text, "digest": _text, "train_seconds": _seconds, "test_seconds": _seconds}
    notes = {key: reader(content, key) for key, reader in readers.items() if key in content}
    if not notes:
        raise _Damaged(f"has none of {', '.join(readers)}")
    return notes


def _seconds(content: dict, key: str) -> float:
    return _number(content, key, 0.0)


def _count(content: dict, key: str) -> int:
    if type(content.get(key)) is not int or content[key] < 0:
        raise _Damaged(f"has no count for {key}")
    return content[key]


def _read_failure(path: Path) -> dict[str, str]:
    content = _read_json(path)
    return {key: _text(content, key) for key in ("error", "log")}


def _read_cost(path: Path) -> dict[str, Any]:
    content = _read_json(path)
    if not isinstance(content.get("machine"), dict):
        raise _Damaged("does not say on which machine it was measured")
    cost = {"machine": content["machine"], "peak_memory_of": _text(content, "peak_memory_of")}
    cost |= {key: _count(content, key) for key in _COST_COUNTS}
    cost |= {key: _number(content, key, 0.0) for key in _COST_NUMBERS}
    for key in _COST_OPTIONAL:
        cost[key] = None if content.get(key) is None else _number(content, key, 0.0)
    for key in ("query_ms", "query_reranked_ms"):
        if cost[key] is not None and cost[key] < 1e-6:  # 0 has no place on a logarithmic axis
            raise _Damaged(f"has an impossible {key}")
    return cost


def _read_queries(path: Path, stage: str | None) -> Queries:
    """``stage`` is None if the metrics cannot be read. The run is then repeated, so this only checks the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise _Damaged("is compressed, which ours never is")  # a compressed file could unpack to any size
            if archive.testzip() is not None:
                raise _Damaged("is damaged")
        with np.load(path, allow_pickle=False) as file:
            ranks = file[f"{stage or STAGE_ONE}/first_rank"]
            people, captions = file["person_ids"], file["caption_crc32"]
    except KeyError as error:
        raise _Damaged(f"lacks {error.args[0]}") from error
    except _Damaged:
        raise
    except Exception as error:  # a damaged zip file can raise anything
        raise _Damaged(f"is not the file of arrays that it should be ({type(error).__name__})") from error
    for name, array in (("first_rank", ranks), ("person_ids", people), ("caption_crc32", captions)):
        if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) != len(people) or not len(array):
            raise _Damaged(f"has no row of whole numbers for {name}, one for each query")
    return Queries(people, np.stack([people, captions], 1), ranks)
