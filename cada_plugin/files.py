"""Files that appear complete or not at all, and folders that only one process at a time may write to."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cada_plugin.errors import ConfigError

SHIPPED = "cada_plugin://"
"""Begins the address of a file that comes with the plugin, wherever that is installed."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty temporary file beside ``path``. It replaces ``path`` if the block ends without an error, and is deleted
    if not."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)  # safetensors puts a file in its place that nobody else may read
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, which becomes ``path`` if the block ends without an error and is deleted if
    not.

    Raises:
        ConfigError: there is something at ``path`` already, or nothing can be written there.
    """
    path = path.expanduser().absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} is there already: give a new folder, nothing is overwritten")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): give another folder") from error
    try:
        yield unfinished
        os.replace(unfinished, path)  # also over an empty folder
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def content_digest(path: Path) -> str:
    """A digest of the content of a file, or of all files of a folder with their names in it.

    Raises:
        OSError: something cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(f"{file.relative_to(path)} {file.stat().st_size} ".encode())
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as an indented JSON file; missing folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def writable_folder(folder: Path, option: str) -> None:
    """Create ``folder`` if it is missing, and check that a file can be written there.

    Args:
        option: name of the command-line option that gave the folder, for the error.

    Raises:
        ConfigError: no file can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: an impossible path, such as one with a NUL
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{option} cannot be written to {folder} ({reason}): give another folder") from error


def writable_file(path: Path, option: str) -> None:
    """Check that a file can be written, as :func:`writable_folder` does for a folder.

    Raises:
        ConfigError: it cannot be written.
    """
    writable_folder(path.parent, option)
    if path.is_dir():
        raise ConfigError(f"{option} {path} is a folder: give the name of a file")


_OTHER_WORK_DIR = (
    "two runs in one folder would overwrite each other's checkpoints and read each other's. Wait for it, end it, or "
    "give this run another --work-dir"
)


@contextlib.contextmanager
def only_writer(folder: Path, work: str, advice: str = _OTHER_WORK_DIR) -> Iterator[None]:
    """Lock ``folder`` for this process until the block ends.

    The operating system releases the lock when the process ends, however it ends, so that a crash blocks nobody. Child
    processes do not inherit the lock.

    Args:
        folder: created if it is missing.
        work: what this process does there, such as "training". A second process shows it in its error.
        advice: the end of that error: why two must not work there, and what to do.

    Raises:
        ConfigError: another process holds the lock, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # O_NOFOLLOW, because a link could lead to any file; O_NONBLOCK, because opening a pipe could wait for ever
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(folder / ".lock", flags, 0o644)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileExistsError(errno.EEXIST, ".lock is no ordinary file: remove it")
        file = os.fdopen(descriptor, "r+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written to: {error.strerror}: choose another folder") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            raise ConfigError(f"{folder} is in use by {owner}: {advice}") from None
        except OSError:  # a network file system without locks
            pass
        file.seek(0)
        file.truncate()
        file.write(
            f"a {work} (process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M})\n"
        )
        file.flush()
        yield
