"""Where results go is tried before the work that makes them."""

import tempfile
from pathlib import Path

from cada_plugin.errors import ConfigError


def writable_folder(folder: Path, option: str) -> None:
    """Make ``folder`` if it is missing, and see whether a file can be written there.

    Raises:
        ConfigError: it cannot; ``option`` is what the command line calls the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a path that no system has
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{option} cannot be written to {folder} ({reason}): give another folder") from error


def writable_file(path: Path, option: str) -> None:
    """The same for a file.

    Raises:
        ConfigError: it cannot be written.
    """
    writable_folder(path.parent, option)
    if path.is_dir():
        raise ConfigError(f"{option} {path} is a folder: give the name of a file")
