"""Measures how cost grows with the size of the work, and draws the curves. Models are of size ``tiny``, because
BLIP-base sizes would take hours on two cores."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from mmengine.optim import build_optim_wrapper
from torch.nn.parallel import DistributedDataParallel

from cada_plugin.benchmark.speed.inputs import CONFIGS, build_model, caption_words, training_batch
from cada_plugin.benchmark.speed.measure import Work, fresh_processes, interleave, peak_memory
from cada_plugin.benchmark.speed.whole import evaluate
from cada_plugin.benchmark.speed.work import rank, rerank, train
from cada_plugin.engine.config import read_config
from cada_plugin.files import replacing

# The plain path and torchreid are measured up to the size *_COMPARED only; beyond, they would take most of the time.
SHORTLISTS = (4, 8, 16, 32, 64)
RERANK_K, RERANK_GALLERIES, RERANK_COMPARED = 32, (32, 64, 128, 256), 128
METRIC_GALLERIES, METRIC_COMPARED = (1_000, 3_000, 10_000, 30_000, 100_000), 3_000
CAPTION_WORDS = (8, 16, 24, 32, 40, 48)
BATCH_SIZES = (4, 8, 16, 32)
PROCESSES = (1, 2)
EVALUATIONS, EVALUATION_K = (1_000, 3_000, 10_000), 4
_METRIC_QUERIES, _MEMORY_QUERIES = 1_000, (1_000, 4_000)
_BATCH, _STEPS = 16, 10  # of each process; the batch size is also that of the curve over caption length

_STYLES = {
    "ours": {"color": "#0072B2", "marker": "o"},
    "reference": {"color": "#E69F00", "marker": "D"},
    "torchreid": {"color": "#CC79A7", "marker": "s"},
    "whole matrix": {"color": "#777777", "linestyle": "--"},
    "in proportion": {"color": "#777777", "linestyle": "--"},
    "index": {"color": "#0072B2", "marker": "o"},
    "exact": {"color": "#E69F00", "marker": "D"},
    "written": {"color": "#0072B2", "marker": "o"},
    "indexed": {"color": "#E69F00", "marker": "D"},
    "256 more": {"color": "#CC79A7", "marker": "s"},
    "disk": {"color": "#0072B2", "marker": "o"},
    "peak memory of building": {"color": "#E69F00", "marker": "D"},
}
_LIGHTER = {"#0072B2": "#56B4E9", "#E69F00": "#F0C05A"}  # colours of the second line of one name in a panel


def measure_curves(device: str, rounds: int) -> list[dict]:
    """Panels, each with ``title``, axis labels ``x`` and ``y``, and ``series`` (by name, the points ``x`` and
    ``y``)."""
    common = {"size": "tiny", "device": device, "amp": None}

    def matching(k: int, queries: int, gallery: int) -> Callable[[], Work]:
        against = "reference" if gallery <= RERANK_COMPARED else "none"
        return partial(rerank, k=k, queries=queries, gallery=gallery, images=gallery, against=against, **common)

    def training(batch_size: int, words: int | None = None) -> Callable[[], Work]:
        return partial(train, batch_size=batch_size, grouping="tokens", against="reference", words=words, **common)

    def metrics(gallery: int) -> Callable[[], Work]:
        sides = ("ours", "torchreid") if gallery <= METRIC_COMPARED else ("ours",)
        return partial(rank, _METRIC_QUERIES, gallery, sides, device)

    images = max(SHORTLISTS)
    return [
        _times(
            "re-ranking against k",
            f"k ({images} images, {images // 2} captions)",
            {n: matching(n, images // 2, images) for n in SHORTLISTS},
            rounds,
        ),
        _times(
            "re-ranking against gallery size",
            f"images, and as many captions (k = {RERANK_K})",
            {n: matching(RERANK_K, n, n) for n in RERANK_GALLERIES},
            rounds,
        ),
        _times(
            "metrics: time against gallery size",
            f"images ({_METRIC_QUERIES:,} captions)",
            {n: metrics(n) for n in METRIC_GALLERIES},
            rounds,
        ),
        _memory(device),
        _times(
            "training step against caption length",
            f"words of every caption (batch {_BATCH})",
            {n: training(_BATCH, n) for n in CAPTION_WORDS},
            rounds,
            logarithmic=False,
        ),
        _times(
            "training step against batch size",
            "images (captions of 23.5 words on average)",
            {n: training(n) for n in BATCH_SIZES},
            rounds,
        ),
        _processes(rounds),
        _evaluations(device),
    ]


def _times(title: str, x: str, works: dict[int, Callable[[], Work]], rounds: int, logarithmic: bool = True) -> dict:
    series: dict[str, dict] = {}
    for value, build in works.items():
        work = build()
        times = interleave({name: side.action for name, side in work.sides.items()}, rounds, work.device)
        for name, seconds in times.items():
            points = series.setdefault(name, {"x": [], "y": [], "rounds": []})
            points["x"].append(value)
            points["y"].append(statistics.median(seconds))
            points["rounds"].append(seconds)
    return {"title": title, "x": x, "y": "seconds", "logarithmic": logarithmic, "series": series}


def _memory(device: str) -> dict:
    """Memory of the metrics. Ours does not depend on the number of captions; that of a whole matrix would."""

    def series(side: str, queries: int, galleries: Iterable[int]) -> dict:
        galleries = list(galleries)
        used = [peak_memory(partial(rank, queries, n, (side,), device), side) for n in galleries]
        return {"x": galleries, "y": [None if peak is None else peak / 2**20 for peak in used]}

    few, many = _MEMORY_QUERIES
    compared = [n for n in METRIC_GALLERIES if n <= METRIC_COMPARED]
    return {
        "title": "metrics: memory against gallery size",
        "x": "images",
        "y": "peak MB beyond embeddings",
        "logarithmic": True,
        "series": {
            f"ours, {few:,} captions": series("ours", few, METRIC_GALLERIES),
            f"ours, {many:,} captions": series("ours", many, METRIC_GALLERIES),
            f"torchreid, {few:,} captions": series("torchreid", few, compared),
            f"whole matrix, {many:,} captions": {
                "x": list(METRIC_GALLERIES),
                "y": [4 * many * n / 2**20 for n in METRIC_GALLERIES],
            },
        },
    }


def _processes(rounds: int) -> dict:
    rates = {number: [_train_together(number) for _ in range(rounds)] for number in PROCESSES}
    medians = [statistics.median(rates[number]) for number in PROCESSES]
    return {
        "title": "training on several processes",
        "x": f"processes (each 1 thread, batch {_BATCH})",
        "y": "images/s of all",
        "logarithmic": False,
        "series": {
            "ours": {"x": list(PROCESSES), "y": medians, "rounds": list(rates.values())},
            "in proportion": {"x": list(PROCESSES), "y": [n / PROCESSES[0] * medians[0] for n in PROCESSES]},
        },
    }


def _train_together(number: int) -> float:
    """Images per second that ``number`` processes train together, on the CPU."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(number, fresh_processes()) as pool:
        job = partial(_train_as, world_size=number, meeting=f"{folder}/meeting", batch_size=_BATCH, steps=_STEPS)
        return sum(pool.map(job, range(number)))


def _train_as(rank: int, world_size: int, meeting: str, batch_size: int, steps: int) -> float:
    """Images per second that this process trains."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world_size)
    model = build_model("tiny").train()
    inputs, samples = training_batch(model, caption_words(batch_size))
    optimizer = build_optim_wrapper(model, read_config(CONFIGS["tiny"]).optim_wrapper)
    wrapped = DistributedDataParallel(model) if world_size > 1 else model

    def train_for(number: int) -> None:
        for _ in range(number):
            optimizer.update_params(sum(wrapped(inputs, samples, mode="loss").values()))
        torch.distributed.barrier()

    train_for(2)
    begin = time.perf_counter()
    train_for(steps)
    seconds = time.perf_counter() - begin
    torch.distributed.destroy_process_group()
    return steps * batch_size / seconds


def _evaluations(device: str) -> dict:
    """Host memory of whole evaluations, each measured in a fresh process."""
    used = []
    for size in EVALUATIONS:
        with ProcessPoolExecutor(1, fresh_processes()) as pool:
            found = pool.submit(evaluate, "tiny", size, size, EVALUATION_K, device, None).result()
        used.append(found["peak_memory_mb"]["host"])
    sizes = list(EVALUATIONS)
    return {
        "title": "two-stage evaluation: memory",
        "x": f"images, and as many captions (k = {EVALUATION_K})",
        "y": "peak MB beyond weights and images",
        "logarithmic": True,
        "series": {
            "ours": {"x": sizes, "y": used},
            "whole matrix": {"x": sizes, "y": [4 * size**2 / 2**20 for size in sizes]},
        },
    }


def draw_curves(panels: Sequence[dict], heading: str, path: Path) -> None:
    """Draw all panels into one PNG."""
    rows = -(-len(panels) // 4)
    figure = Figure(figsize=(15, 3.75 * rows), layout="constrained")
    grid = list(figure.subplots(rows, 4).flat)
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _decades(panel: dict) -> float:
    """The number of decades that the values of a panel span."""
    values = [y for points in panel["series"].values() for y in points["y"] if y]
    return math.log10(max(values) / min(values))


def _short(value: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if value % size == 0:
            return f"{value // size}{letter}"
    return str(value)


def _draw(axes: Axes, panel: dict) -> None:
    seen = set()
    for name, points in panel["series"].items():
        style = dict(_STYLES[name.partition(",")[0]])
        if style["color"] in seen:
            style |= {"color": _LIGHTER[style["color"]], "linestyle": ":", "markersize": 3}
        seen.add(style["color"])
        axes.plot(points["x"], points["y"], label=name, **{"markersize": 6, **style})
    values = sorted({x for points in panel["series"].values() for x in points["x"]})
    room = 0.12 * len(panel["series"])  # for the legend
    if panel["logarithmic"]:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if _decades(panel) < 2 else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_formatter("")
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, top * (top / bottom) ** room)
    elif "notes" not in panel:
        axes.margins(x=0.2)
        axes.set_ylim(0, axes.get_ylim()[1] * (1 + room))
    if "notes" in panel:  # measured on both axes: a note at each point says by what setting
        (points,) = panel["series"].values()
        for x, y, note in zip(points["x"], points["y"], panel["notes"], strict=True):
            axes.annotate(note, (x, y), (6, -9), textcoords="offset points", fontsize=8)
        axes.margins(x=0.15)
    else:
        axes.set_xticks(values, [_short(value) for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(panel["x"])
    axes.set_ylabel(panel["y"])
    axes.set_title(panel["title"], loc="left", fontsize=11)
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False, fontsize=9)
