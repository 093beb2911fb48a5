"""Typed errors of the plugin. Each message says what is wrong, what was expected and what to do next."""

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
    """A file is damaged or not a gallery, or galleries and models that do not belong together are combined."""


class WorkerError(CADAError, RuntimeError):
    """A worker process of a data loader died, for example because the system ran out of memory."""


# torch raises a RuntimeError for a worker that died, as for many other failures; only the message tells them apart
_LOST_WORKER = re.compile(
    r"DataLoader worker \(pid.*\) (?:is killed by signal|exited unexpectedly)|unable to (?:open|allocate) shared memory"
    r"|unable to write to file </torch_"
)


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """A block that imports an optional dependency. If it is missing, the error says which extra to install.

    Raises:
        MissingExtraError: the dependency is missing.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name or error} is not installed: run `pip install 'cada_plugin[{extra}]'`"
        ) from error


@contextmanager
def needs_torch() -> Iterator[None]:
    """A block that imports what needs PyTorch, in an environment that may have been made for ONNX graphs alone.

    Raises:
        MissingExtraError: a dependency of the plugin is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name or error} is not installed: without PyTorch and MMEngine only folders of ONNX graphs are "
            "opened, indexed with and searched with (load_retriever(FOLDER, backend='onnx')). For everything else run "
            "`pip install cada_plugin`"
        ) from error


@contextmanager
def explain_lost_workers(loader: str) -> Iterator[None]:
    """Turn torch's error for a loader worker that was killed or got no shared memory into a :class:`WorkerError`.

    Args:
        loader: name of the loader in the config, such as ``train_dataloader``.

    Raises:
        WorkerError: a worker is gone. The message says what to change.
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
    """The first line of a foreign error's message, to quote it in a message of ours."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0]
