"""The retrieval table that ends a run."""

from cada_plugin.tables import text_table

COLUMNS = ("R1", "R5", "R10", "mAP", "mINP")
ROWS = (
    ("t2i_global", "", "stage 1: cosine"),
    ("t2i_match", "", "shortlist by match logit alone"),
    ("t2i", "", "re-ranked: match logit + cosine"),
    ("t2i_global", "_twins", "near-twins, stage 1"),
    ("t2i", "_twins", "near-twins, re-ranked"),
)


def retrieval_table(metrics: dict[str, float], caption: str) -> str:
    """Metrics in percent as a text table; rows that were not measured are left out."""
    head = ["", *(name.replace("R", "R@") if name[1].isdigit() else name for name in COLUMNS)]
    rows = []
    for prefix, suffix, title in ROWS:
        values = [metrics.get(f"{prefix}/{column}{suffix}") for column in COLUMNS]
        if values[-1] is not None:
            rows.append([title, *("-" if value is None else f"{value:.2f}" for value in values)])
    lines = ["", caption, text_table(head, rows)]
    if "t2i/R1_gain_p" in metrics:
        gain = metrics["t2i/R1"] - metrics["t2i_global/R1"]
        lines.append(
            f"re-ranking changes R@1 by {gain:+.2f} (paired bootstrap over queries, p = {metrics['t2i/R1_gain_p']:.4f})"
        )
    return "\n".join(lines)
