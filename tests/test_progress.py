"""Bars on a terminal and in a log."""

import io
import sys

import pytest

from cada_plugin.progress import progress_bar, write_above_bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    for step in progress_bar(range(1000), desc="work", mininterval=0, miniters=1):
        if step == 500:
            write_above_bars("a message\n")
    return stream.getvalue()


def test_a_log_gets_few_whole_lines(monkeypatch):
    text = run(monkeypatch, io.StringIO())
    assert "\r" not in text
    first, message, last = text.splitlines()
    assert first.startswith("work:   0%|")
    assert message == "a message"
    assert last.startswith("work: 100%|")


def test_a_terminal_gets_a_bar_that_moves(monkeypatch):
    text = run(monkeypatch, Terminal())
    assert text.count("\r") > 100
    assert "a message\n" in text


def test_a_bar_that_is_to_vanish_leaves_nothing_but_its_states(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    list(progress_bar(range(3), desc="short", leave=False, delay=10))
    assert stream.getvalue() == ""
