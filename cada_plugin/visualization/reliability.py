"""The reliability diagram of a calibration: what probability was stated, and how often it was right."""

from collections.abc import Mapping
from pathlib import Path

from cada_plugin.files import replacing

_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")  # Okabe and Ito
_MARKERS = "oDs^vP"


def draw_reliability(curves: Mapping[str, dict], title: str, path: Path) -> None:
    """Draw one curve for each entry of ``curves``, an output of :func:`cada_plugin.evaluation.calibration.reliability`
    by its name, above a histogram of the stated probabilities. There are at most six: three stages of two splits."""
    # imported here, as a search draws no diagram and runs where matplotlib is not installed
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="#999999", linestyle=":", label="as stated")
    for place, (name, curve) in enumerate(curves.items()):
        color, marker = _COLORS[place], _MARKERS[place]
        label = f"{name}: mean error {curve['error']:.3f}"
        upper.plot(curve["stated"], curve["happened"], color=color, marker=marker, label=label)
        lower.plot(curve["stated"], curve["count"], color=color, marker=marker)
    upper.set_ylabel("share that is right")
    upper.set_title(title, loc="left", fontsize=11)
    upper.legend(loc="lower right", frameon=False, fontsize=9)
    lower.set_yscale("log")
    lower.set_ylabel("how many")
    lower.set_xlabel("stated probability")
    for axes in (upper, lower):
        axes.grid(color="#dddddd")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)
