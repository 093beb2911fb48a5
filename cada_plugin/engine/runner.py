"""MMEngine's Runner with a calm console: the full environment and config go to the log file only."""

import logging
import sys

from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from tqdm import tqdm

# Records for the file alone: long dumps, and one-line metrics that the retrieval table shows better.
_FILE_ONLY = (
    "\n----",
    "Config:",
    "Hooks will be executed",
    "Epoch(val)",
    "Epoch(test)",
    "Exp name:",
    "Checkpoints will be",
)


class _AboveTheBar:
    """A stream for log handlers that keeps a progress bar on the last line of the terminal."""

    def write(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr, end="")

    def flush(self) -> None:
        sys.stderr.flush()


@RUNNERS.register_module()
class CalmRunner(Runner):
    """A Runner whose console says what a person acts on. Everything else stands in the log file of the work dir."""

    def build_logger(self, *args: object, **kwargs: object) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: not str(record.msg).startswith(_FILE_ONLY))
                handler.setStream(_AboveTheBar())
        return logger
