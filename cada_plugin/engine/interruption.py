"""Ctrl-C, SIGTERM and SIGHUP as one exception that is never lost.

Python raises ``KeyboardInterrupt`` wherever the main thread happens to be. If that is inside a destructor or a callback
of C code, the exception is printed and dropped, and the run goes on. The signal is therefore remembered too, and a
Runner asks for it before every hook.
"""

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
    """The run was asked to end. ``advice`` says how to go on."""

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(number)
        self.number, self.advice = number, advice

    def __str__(self) -> str:
        by = "" if self.number == signal.SIGINT else f" by {signal.Signals(self.number).name}"
        return f"interrupted{by}" + (f": {self.advice}" if self.advice else "")


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block the three signals raise :class:`Interrupted`. A signal that the caller ignores stays ignored, as
    SIGHUP does under ``nohup``."""
    global _pending
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        global _pending
        if os.getpid() != owner:  # a worker that was forked with this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        again, _pending = _pending is not None, number
        if not again or number == signal.SIGINT:  # launchers repeat theirs; a person who repeats Ctrl-C means it
            raise Interrupted(number)

    report = sys.unraisablehook

    def report_others(lost: "sys.UnraisableHookArgs") -> None:
        if not issubclass(lost.exc_type, Interrupted):  # it is raised again by raise_if_interrupted
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


def raise_if_interrupted() -> None:
    """Raise the exception of a signal that came, and whose own exception was lost on its way."""
    if _pending is not None:
        raise Interrupted(_pending)


@contextmanager
def signals_first() -> Iterator[None]:
    """An error inside the block gives way to a signal that came with it: what ends a whole job also ends its loader
    workers and the other processes, and their loss may be noticed first."""
    try:
        yield
    except Exception:
        time.sleep(0.3)  # a signal that is on its way raises its exception here
        raise_if_interrupted()
        raise
