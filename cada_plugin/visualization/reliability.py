"""The reliability diagram of a calibration: what probability was stated, and how often it was right."""

from collections.abc import Mapping
from pathlib import Path

from cada_plugin.files import replacing

_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # of Okabe and Ito
_MARKERS = "oDs^"


def draw_reliability(curves: Mapping[str, dict], title: str, path: Path) -> None:
    """Draw one curve for each entry of ``curves``, an output of :func:`cada_plugin.evaluation.calibration.reliability`
    by its name, above a histogram of the stated probabilities."""
    # imported here, as a search draws no diagram and runs where matplotlib is not installed
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="#999999", linestyle=":", label="as stated")
    for (name, curve), color, marker in zip(curves.items(), _COLORS, _MARKERS, strict=False):
        label = f"{name}: mean error {curve['error']:.3f}"
        upper.plot(curve["stated"], curve["happened"], color=color, marker=marker, label=label)
        lower.plot(curve["stated"], curve["count"], color=color, marker=marker)
    upper.set_ylabel("share that shows the person")
    upper.set_title(title, loc="left", fontsize=11)
    upper.legend(loc="lower right", frameon=False, fontsize=9)
    lower.set_yscale("log")
    lower.set_ylabel("images")
    lower.set_xlabel("stated probability")
    for axes in (upper, lower):
        axes.grid(color="#dddddd")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)
