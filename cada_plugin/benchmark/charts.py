"""Draws two charts of a benchmark: accuracy with error bars, and accuracy against cost. Colours are from Okabe and
Ito's palette, which colour-blind readers can distinguish; each stage also has its own marker."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from cada_plugin.benchmark.records import STAGES, final_stage
from cada_plugin.benchmark.report import title
from cada_plugin.files import replacing
from cada_plugin.portable.stages import FINAL, STAGE_ONE

COLORS = {STAGE_ONE: "#0072B2", FINAL: "#E69F00"}
MARKERS = {STAGE_ONE: "o", FINAL: "D"}
_BAR = 0.38  # thickness of a bar, as a fraction of the distance between two rows
_REACHES = (10, 16, 24, 34, 46, 60, 80)  # distances of a label from its point to try, in typographic points
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


def draw_accuracy(results: dict, path: Path) -> bool:
    """Bars of the R@1 of both stages, the first config on top; error bars are the standard deviation over seeds.
    False if there is nothing to draw."""
    rows = [row for row in results["rows"] if f"{final_stage(row['metrics'])}/R1" in row["metrics"]]
    if not rows:
        return False
    figure = Figure(figsize=(8, 1.7 + 0.7 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for stage in STAGES:
        bars = [(y, row["metrics"][f"{stage}/R1"]) for y, row in enumerate(rows) if f"{stage}/R1" in row["metrics"]]
        if not bars:
            continue
        shifts = {STAGE_ONE: -_BAR / 2, FINAL: _BAR / 2}
        places = [y + shifts[stage] * (final_stage(rows[y]["metrics"]) == FINAL) for y, _ in bars]
        means, errors = [score["mean"] for _, score in bars], [score["std"] or 0.0 for _, score in bars]
        axes.barh(places, means, _BAR, color=COLORS[stage], label=STAGES[stage])
        axes.errorbar(means, places, xerr=errors, fmt="none", ecolor="black", capsize=3, linewidth=1)
        for place, mean, error in zip(places, means, errors, strict=True):
            axes.annotate(f"{mean:.1f}", (mean + error, place), (6, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"R@1, %{_spread(rows)}")
    axes.grid(axis="x", color="#dddddd")
    _finish(figure, axes, f"R@1 on {title(results)}")
    _save(figure, path)
    return True


def draw_cost(results: dict, path: Path) -> bool:
    """Chart of R@1 against the latency of a query; a line joins the two stages of a model. False if there is
    nothing to draw."""
    rows = [row for row in results["rows"] if row["cost"] and f"{final_stage(row['metrics'])}/R1" in row["metrics"]]
    if not rows:
        return False
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    labels: list[tuple[str, float, float]] = []
    lines: list[list[tuple[float, float]]] = []  # what labels must not cover
    for row in rows:
        latency = {STAGE_ONE: row["cost"]["query_ms"], FINAL: row["cost"]["query_reranked_ms"]}
        stages = [stage for stage in STAGES if f"{stage}/R1" in row["metrics"] and latency[stage] is not None]
        spots = [(latency[stage], row["metrics"][f"{stage}/R1"]["mean"]) for stage in stages]
        if not spots:
            continue
        axes.plot(*zip(*spots, strict=True), color="#999999", linewidth=1, zorder=1)
        for stage, (x, y) in zip(stages, spots, strict=True):
            error = row["metrics"][f"{stage}/R1"]["std"] or 0.0
            style = {"color": COLORS[stage], "marker": MARKERS[stage], "ecolor": "black"}
            axes.errorbar(x, y, yerr=error, **style, linestyle="none", capsize=3, linewidth=1, markersize=8)
            lines.append([(x, y - error), (x, y + error)])
        lines.append(spots)
        labels.append((row["name"], *spots[-1]))
    for stage, name in STAGES.items():
        axes.plot([], [], color=COLORS[stage], marker=MARKERS[stage], linestyle="none", markersize=8, label=name)
    if not lines:
        return False
    _log_axis(axes, [x for line in lines for x, _ in line])
    axes.margins(y=0.15)
    bottom, top = axes.get_ylim()
    axes.set_ylim(
        bottom - max(0, 4 - top + bottom) / 2, top + max(0, 4 - top + bottom) / 2
    )  # at least 4 percentage points
    axes.set_xlabel("latency of one query, ms (logarithmic)")
    axes.set_ylabel(f"R@1, %{_spread(rows)}")
    axes.grid(color="#dddddd")
    _finish(figure, axes, f"R@1 against query time, {title(results)}")
    _label(figure, axes, labels, lines)
    _save(figure, path)
    return True


def _spread(rows: Sequence[dict]) -> str:
    several = any(value["std"] is not None for row in rows for value in row["metrics"].values())
    return " (mean ± standard deviation over seeds)" if several else ""


def _log_axis(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    room = max(1.6, (4 * low / high) ** 0.5)  # the axis spans at least a factor of four, so that it has ticks
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _label(
    figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, float]], lines: Sequence[list[tuple[float, float]]]
) -> None:
    """Write each name beside its point, at the nearest place that is free of other names, points and lines."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # lays out the axes; labels must not move them afterwards
    figure.set_layout_engine("none")
    inside = axes.get_window_extent()
    taken = []
    for line in lines:
        ends = axes.transData.transform([line[0], line[-1]])
        steps = int(np.abs(ends[1] - ends[0]).max() // 8) + 2
        taken += [Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in np.linspace(*ends, steps)]
    names: list[Bbox] = []
    for name, x, y in labels:
        point = axes.transData.transform((x, y))
        tries = []
        for reach, (right, up) in itertools.product(_REACHES, _SIDES):
            text = axes.annotate(
                name,
                (x, y),
                (reach * right, reach * up),
                textcoords="offset points",
                ha={1: "left", 0: "center", -1: "right"}[right],
                va={1: "bottom", 0: "center", -1: "top"}[up],
                arrowprops={"arrowstyle": "-", "color": "#777777", "linewidth": 0.7} if reach > _REACHES[0] else None,
            )
            text.update_positions(canvas.get_renderer())
            box = Text.get_window_extent(text)  # without the line that joins the label to its point
            way = np.linspace(point, (box.p0 + box.p1) / 2, 20)  # points on that line
            crossed = sum(other.count_contains(way) > 0 for other in names)
            clashes = 9 * sum(box.overlaps(other) for other in names) + 3 * sum(box.overlaps(other) for other in taken)
            clashes += crossed + 99 * (not _contains(inside, box))
            tries.append((clashes, len(tries), text, box))
            if clashes == 0:
                break
        best, *others = sorted(tries, key=lambda tried: tried[:2])
        for _, _, text, _ in others:
            text.remove()
        names.append(best[3])


def _contains(outer: Bbox, inner: Bbox) -> bool:
    return outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1


def _finish(figure: Figure, axes: Axes, heading: str) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(heading, loc="left")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower right", ncols=len(names), frameon=False)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
