"""Run a command: errors become one message, signals end it. Needs no torch, so that a search runs without."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable

from cada_plugin.errors import CADAError
from cada_plugin.portable.interruption import Interrupted, interruptible, signals_first
from cada_plugin.progress import write_above_bars


def run_command(command: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    """Run a command and return its exit status. For an error that the user can act on, this prints one message instead
    of a traceback and returns 2."""
    if importlib.util.find_spec("mmengine"):
        from cada_plugin.compat import quiet_dependencies

        quiet_dependencies()
    try:
        with interruptible(), signals_first():
            status = command(args)
    except (CADAError, KeyboardInterrupt) as error:
        # the signal reaches every process of a job, but one message is enough
        if not isinstance(error, KeyboardInterrupt) or os.environ.get("RANK", "0") == "0":
            write_above_bars(f"error: {_message(error)}\n")
        return 2
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return status or 0


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return str(error) if isinstance(error, Interrupted) else "interrupted"
    # for an error in a loader's worker, torch puts the worker's traceback before the message
    return str(error).split(f"{type(error).__module__}.{type(error).__qualname__}: ")[-1].strip()
