"""The same rows as a table for a terminal and for a page."""

import pytest

from cada_plugin.tables import markdown_table, text_table, three_digits

HEAD, ROWS = ["split", "ids", "images"], [["train", "3", "1,200"], ["a long name", "12", "-"]]


def test_a_table_for_a_terminal_has_aligned_columns():
    assert text_table(HEAD, ROWS).splitlines() == [
        "split        ids  images",
        "train          3   1,200",
        "a long name   12       -",
    ]


def test_a_table_in_markdown():
    lines = ["| split | ids | images |", "| --- | ---: | ---: |", "| train | 3 | 1,200 |", "| a long name | 12 | - |"]
    assert markdown_table(HEAD, ROWS).splitlines() == lines


@pytest.mark.parametrize(
    ("value", "shown"), [(0.012345, "0.0123"), (12.345, "12.3"), (-123.6, "-124"), (98765.4, "98,765"), (None, "")]
)
def test_numbers_have_three_digits_or_all_before_the_point(value, shown):
    assert three_digits(value) == shown
    assert three_digits(value, "unknown") == (shown or "unknown")
