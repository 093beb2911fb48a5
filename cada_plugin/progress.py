"""Progress bars: a moving bar on a terminal, and a line every half minute in a log file."""

import sys
from typing import TextIO

from tqdm import tqdm

_LOG_INTERVAL = 30.0  # seconds between the lines in a log file


class _Lines:
    """A stream that writes each state of a bar as a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None)

    def write(self, text: str) -> None:
        if state := text.strip("\r\n "):
            self._stream.write(f"{state}\n")

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(iterable: object = None, **options: object) -> tqdm:
    """``tqdm(iterable, **options)``, except that a log file gets at most one line every half minute.

    A bar redraws its line several times a second. In a file or a pipe every redraw stays, and the log would drown.
    """
    if not sys.stderr.isatty():
        options |= {"file": _Lines(sys.stderr), "mininterval": _LOG_INTERVAL, "maxinterval": _LOG_INTERVAL, "ncols": 80}
    return tqdm(iterable, **options)


def write_above_bars(text: str) -> None:
    """Write to standard error without breaking the bar that may stand on the last line of the terminal."""
    if sys.stderr.isatty():
        tqdm.write(text, file=sys.stderr, end="")
    else:
        sys.stderr.write(text)
