"""Turn Ctrl-C, SIGTERM and SIGHUP into one exception that is never lost.

Python raises ``KeyboardInterrupt`` wherever the main thread happens to be. If that is inside a destructor or a callback
of C code, the exception is printed and dropped, and the run goes on. The signal is therefore also remembered, and a
Runner checks for it before every hook. Where the main thread is giving work to a loader worker, the signal is only
remembered: an exception there can leave the lock of the queue taken, and then the run would never end, because to shut
the worker down something has to be put into the same queue.
"""

import multiprocessing.queues
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_pending: int | None = None


class Interrupted(KeyboardInterrupt):
    """A signal ended the run. ``advice`` says how to go on."""

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(number)
        self.number, self.advice = number, advice

    def __str__(self) -> str:
        by = "" if self.number == signal.SIGINT else f" by {signal.Signals(self.number).name}"
        return f"interrupted{by}" + (f": {self.advice}" if self.advice else "")


@contextmanager
def interruptible() -> Iterator[None]:
    """Make the three signals raise :class:`Interrupted` inside the block. A signal that was ignored before stays
    ignored, such as SIGHUP under ``nohup``."""
    global _pending
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        global _pending
        if os.getpid() != owner:  # this is a worker that inherited the handler by fork
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        again, _pending = _pending is not None, number
        if _is_putting(frame):
            return
        if not again or number == signal.SIGINT:  # launchers repeat their signals; only a repeated Ctrl-C counts
            raise Interrupted(number)

    report = sys.unraisablehook

    def report_others(lost: "sys.UnraisableHookArgs") -> None:
        if not issubclass(lost.exc_type, Interrupted):  # raise_if_interrupted will raise it again
            report(lost)

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    _pending, sys.unraisablehook = None, report_others
    try:
        yield
    finally:
        _pending, sys.unraisablehook = None, report
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_putting(frame: FrameType | None) -> bool:
    """Whether the main thread is putting something into a queue to another process."""
    while frame is not None:
        if frame.f_code.co_name == "put" and frame.f_code.co_filename == multiprocessing.queues.__file__:
            return True
        frame = frame.f_back
    return False


def raise_if_interrupted() -> None:
    """Raise :class:`Interrupted` if a signal came whose own exception was lost."""
    if _pending is not None:
        raise Interrupted(_pending)


@contextmanager
def signals_first() -> Iterator[None]:
    """If an error in the block comes with a signal, raise the signal's exception instead. A signal that ends a whole
    job also ends its loader workers and other processes, and the loss of those may be noticed first."""
    try:
        yield
    except Exception:
        time.sleep(0.3)  # a signal that is on its way raises its exception here
        raise_if_interrupted()
        raise
