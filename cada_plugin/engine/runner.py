"""MMEngine's Runner with a calm console, and with checkpoints and errors that do not let a user down."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.logging import MMLogger, print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from tqdm import tqdm

from cada_plugin.compat import HARMLESS_RECORDS
from cada_plugin.errors import CADAError, ConfigError
from cada_plugin.registry import OPTIMIZERS

# Records for the file alone: long dumps, and one-line metrics that the retrieval table shows better.
_FILE_ONLY = (
    "\n----",
    "Config:",
    "Hooks will be executed",
    "Epoch(val)",
    "Epoch(test)",
    "Exp name:",
    "Checkpoints will be",
    "Traceback",
    *HARMLESS_RECORDS,
)


@contextmanager
def config_errors() -> Iterator[None]:
    """What goes wrong while parts are built from a config is the config's error; the traceback goes to the log file."""
    try:
        yield
    except CADAError:
        raise
    except (AssertionError, AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        print_log(traceback.format_exc(), logger="current")
        raise ConfigError(f"the config cannot be built: {first_line(error)} (the log file says where)") from error


def first_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0]


class _AboveTheBar:
    """A stream for log handlers that keeps a progress bar on the last line of the terminal."""

    def write(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr, end="")

    def flush(self) -> None:
        sys.stderr.flush()


@RUNNERS.register_module()
class CalmRunner(Runner):
    """A Runner whose console says what a person acts on; everything else stands in the log file of the work dir.

    Its checkpoints appear whole or not at all, whenever the process is killed; resuming runs nothing that a checkpoint
    holds, and takes the data in the order of the checkpoint's seed.
    """

    def build_logger(self, *args: object, **kwargs: object) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: not str(record.msg).startswith(_FILE_ONLY))
                handler.setStream(_AboveTheBar())
        return logger

    def build_optim_wrapper(self, optim_wrapper: object) -> object:
        kind = optim_wrapper.get("optimizer", {}).get("type") if isinstance(optim_wrapper, dict) else None
        if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:  # MMEngine: "None is not a callable object"
            raise ConfigError(f"{kind} is not in the optimizer registry: write it as torch.optim does, such as AdamW")
        return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: object) -> object:
        with config_errors():
            return super().build_param_scheduler(scheduler)

    def save_checkpoint(self, out_dir: str, filename: str, *args: object, **kwargs: object) -> None:
        if "://" in str(out_dir):  # a remote store: nothing to rename
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        unfinished = f".{filename}.unfinished"
        super().save_checkpoint(out_dir, unfinished, *args, **kwargs)
        if is_main_process():
            os.replace(Path(out_dir) / unfinished, Path(out_dir) / filename)

    def load_checkpoint(self, *args: object, **kwargs: object) -> dict:
        checkpoint = super().load_checkpoint(*args, **kwargs)
        if "meta" in checkpoint:
            checkpoint["meta"].pop("config", None)  # of old MMEngine versions; ``resume`` would execute it as Python
        return checkpoint

    def resume(self, *args: object, **kwargs: object) -> None:
        super().resume(*args, **kwargs)
        sampler = self.train_dataloader.sampler
        if hasattr(sampler, "seed"):  # it was built before the checkpoint's seed was known
            sampler.seed = self.seed
