"""Tables of what models can do beyond their mean: slices of the captions, short sentences, sentences with a mistake.

The rows of results that they take are those of :mod:`cada_plugin.benchmark.report`: ``metrics`` and ``partial`` hold
the mean and standard deviation over seeds by the name of the metric.
"""

from cada_plugin.benchmark.records import STAGES, final_stage
from cada_plugin.portable.stages import QUERIES, slice_of, sliced
from cada_plugin.tables import markdown_table


def mean_text(value: dict | None) -> str:
    """``12.34 ± 0.56``, without the deviation of a single seed, and nothing for None."""
    if value is None:
        return ""
    return f"{value['mean']:.2f}" + ("" if value["std"] is None else f" ± {value['std']:.2f}")


def slices_table(rows: list[dict]) -> str | None:
    """R@1 of the final list in each slice, a column for each row of results; None if none has slices."""
    names = list(dict.fromkeys(slice_of(key) for row in rows for key in row["metrics"] if slice_of(key)))
    if not names:
        return None
    rows = [row for row in rows if row["metrics"]]
    lines = []
    for name in ["", *names]:
        counts = [row["metrics"].get(sliced(QUERIES, name)) for row in rows if name]
        count = next((f"{one['mean']:,.0f}" for one in counts if one is not None), "")
        keys = [f"{final_stage(row['metrics'])}/R1" for row in rows]
        cells = [
            mean_text(row["metrics"].get(sliced(key, name) if name else key))
            for row, key in zip(rows, keys, strict=True)
        ]
        lines.append([name or "all", count, *cells])
    return "\n".join(
        [
            "## Slices",
            "",
            markdown_table(["slice", "captions", *(row["name"] for row in rows)], lines),
            "",
            "R@1 of the final list in percent, mean ± standard deviation over seeds, over the captions of each slice. "
            "`results.json` has stage 1 and mAP as well.",
        ]
    )


def partial_tables(rows: list[dict]) -> str | None:
    """Short captions and captions with a mistake: a line for each row and list; None if none was tested on them."""
    tested = [
        (row, stage, title)
        for row in rows
        if row.get("partial")
        for stage, title in STAGES.items()
        if any(key.startswith(f"{stage}/") for key in row["partial"])
    ]
    if not tested:
        return None
    names = list(dict.fromkeys(slice_of(key) for row, _, _ in tested for key in row["partial"]))
    counts = [name for name in names if any(sliced("images", name) in row["partial"] for row, _, _ in tested)]
    head = ["model", "list", *(f"{name}: {what}" for name in counts for what in ("mAP", "P@10"))]
    lines = [
        [row["name"], title, *(_cell(row, f"{stage}/{what}", name) for name in counts for what in ("mAP", "P10"))]
        for row, stage, title in tested
    ]
    first = tested[0][0]["partial"]
    facts = [
        f"{name}: {first[sliced('images', name)]['mean']:.1f} right pictures on average, P@10 at best "
        f"{first[sliced('P10_at_best', name)]['mean']:.1f}"
        for name in counts
        if sliced("images", name) in first and sliced("P10_at_best", name) in first
    ]
    others = [name for name in names if name not in counts]
    mistakes = ["model", "list", *(f"{name}: {what}" for name in others for what in ("R@1", "mean rank"))]
    moved = [name for name in others if any(_cell(row, f"{stage}/moved_down", name) for row, stage, _ in tested)]
    wrong = [
        [
            row["name"],
            title,
            *(_cell(row, f"{stage}/{what}", name) for name in others for what in ("R1", "mean_rank")),
            *(_cell(row, f"{stage}/{what}", name) for name in moved for what in ("moved_down", "moved_up")),
        ]
        for row, stage, title in tested
    ]
    mistakes += [f"moved {way}, %" for _ in moved for way in ("down", "up")]
    return "\n".join(
        [
            "## Short sentences",
            "",
            markdown_table(head, lines),
            "",
            "Captions cut to some of their phrases, in percent. Everybody of whom all that they say is true is a right "
            f"answer. {'; '.join(facts)}.",
            "",
            "## Sentences with a mistake",
            "",
            markdown_table(mistakes, wrong),
            "",
            "Rank of the person described, with the caption as it is and with one word replaced that is then false. "
            "Moved: share of these people who rank lower, or higher, with the mistake.",
        ]
    )


def _cell(row: dict, key: str, name: str) -> str:
    return mean_text(row["partial"].get(sliced(key, name)))
