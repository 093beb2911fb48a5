"""Typed errors of the plugin. Each message names the thing, what was expected and what to do next."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class CADAError(Exception):
    """Base of every error that the plugin raises for input it cannot use."""


class AnnotationError(CADAError, ValueError):
    """An annotation file cannot be read as the data set it should describe."""


class ImageError(CADAError, ValueError):
    """An image file is missing, damaged, not an image, or too large to decode safely."""


class CheckpointError(CADAError, ValueError):
    """A file is not a checkpoint, belongs to another architecture, or cannot be loaded safely."""


class MissingExtraError(CADAError, ImportError):
    """An optional dependency, or the data it needs, is not installed."""


class ConfigError(CADAError, ValueError):
    """A setting is impossible, or contradicts another one."""


class TrainingError(CADAError, RuntimeError):
    """A training cannot go on: its numbers are no longer finite, or its checkpoints cannot be written."""


class GalleryError(CADAError, ValueError):
    """A saved gallery is damaged or no gallery at all, or galleries and models of different kinds are put together."""


class WorkerError(CADAError, RuntimeError):
    """A process of a data loader died, as when the system has no memory left for it."""


# torch says in no other way than by the text of a RuntimeError that it was not an exception in a worker
_LOST_WORKER = re.compile(
    r"DataLoader worker \(pid.*\) (?:is killed by signal|exited unexpectedly)|unable to (?:open|allocate) shared memory"
    r"|unable to write to file </torch_"
)


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Around the import of an optional dependency: where it is missing, say what to install.

    Raises:
        MissingExtraError: it is missing.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name or error} is not installed: run `pip install 'cada_plugin[{extra}]'`"
        ) from error


@contextmanager
def explain_lost_workers(loader: str) -> Iterator[None]:
    """Turn what torch raises when a loader's worker was killed, or has no shared memory, into a :class:`WorkerError`.

    Args:
        loader: its name in the config, such as ``train_dataloader``.
    """
    try:
        yield
    except RuntimeError as error:
        if not _LOST_WORKER.search(str(error)):
            raise
        reason = str(error).splitlines()[0]
        raise WorkerError(
            f"a worker of {loader} is gone ({reason}). Mostly the memory or /dev/shm is full: lower "
            f"{loader}.num_workers or batch_size, enlarge /dev/shm (docker run --shm-size=8g), or set "
            f"{loader}.num_workers=0 (and persistent_workers=False), which needs neither and shows any other cause"
        ) from error


def first_line(error: Exception) -> str:
    """What a foreign error says, short enough to stand inside a message of ours."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0]
