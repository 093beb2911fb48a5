"""The retrieval table that ends a run."""

from cada_plugin.portable.stages import FINAL, GAIN_P_VALUE, MATCH_ALONE, QUERIES, STAGE_ONE, slice_of, sliced
from cada_plugin.tables import text_table

COLUMNS = ("R1", "R5", "R10", "mAP", "mINP")
ROWS = (
    (STAGE_ONE, "stage 1: cosine"),
    (MATCH_ALONE, "shortlist by match logit alone"),
    (FINAL, "re-ranked: match logit + cosine"),
)
SLICE_COLUMNS = ((STAGE_ONE, "stage 1"), (MATCH_ALONE, "match alone"), (FINAL, "re-ranked"))


def retrieval_table(metrics: dict[str, float], caption: str) -> str:
    """Metrics in percent as a text table, with a row for every stage that was measured, and a table of its slices."""
    head = ["", *(name.replace("R", "R@") if name[1].isdigit() else name for name in COLUMNS)]
    rows = []
    for stage, title in ROWS:
        values = [metrics.get(f"{stage}/{column}") for column in COLUMNS]
        if values[-1] is not None:
            rows.append([title, *("-" if value is None else f"{value:.2f}" for value in values)])
    lines = ["", caption, text_table(head, rows)]
    if GAIN_P_VALUE in metrics:
        gain = metrics[f"{FINAL}/R1"] - metrics[f"{STAGE_ONE}/R1"]
        lines.append(
            f"re-ranking changes R@1 by {gain:+.2f} (paired bootstrap over people, p = {metrics[GAIN_P_VALUE]:.4f})"
        )
    if any(slice_of(name) for name in metrics):
        lines += ["", slice_table(metrics)]
    return "\n".join(lines)


def slice_table(metrics: dict[str, float]) -> str:
    """R@1 and mAP in percent of each slice and list as a text table, with all queries in the first row."""
    stages = [(stage, title) for stage, title in SLICE_COLUMNS if f"{stage}/mAP" in metrics]
    head = ["slice", "captions", *(f"{title} {what}" for _, title in stages for what in ("R@1", "mAP"))]
    rows = []
    for name in ["", *dict.fromkeys(slice_of(key) for key in metrics if slice_of(key))]:
        keys = [f"{stage}/{what}" for stage, _ in stages for what in ("R1", "mAP")]
        values = [metrics.get(sliced(key, name) if name else key) for key in keys]
        count = f"{metrics[sliced(QUERIES, name)]:,.0f}" if name else ""
        rows.append([name or "all", count, *("-" if value is None else f"{value:.2f}" for value in values)])
    return text_table(head, rows)
