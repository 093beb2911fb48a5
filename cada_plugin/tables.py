"""Tables as text: with aligned columns for a terminal, or in Markdown for a page."""

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown: the first column is aligned to the left and the others, which hold numbers, to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table for a terminal: every column is as wide as its widest cell, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for first, *numbers in (head, *rows):
        cells = [first.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def three_digits(value: float | None, unknown: str = "") -> str:
    """A number with three significant digits, or with all digits before the point if there are more; ``unknown`` for
    None."""
    if value is None:
        return unknown
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
