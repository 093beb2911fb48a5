"""Small JSON files that keep slow results between runs. They may be deleted at any time: results are recomputed."""

import contextlib
import json
import logging
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def cache_dir() -> Path | None:
    """Folder of the plugin's caches: ``$CADA_CACHE`` if set, else ``~/.cache/cada_plugin``. It need not exist yet.

    The result is None if the path needs a home folder that is unknown. Nothing is then cached, which is logged once.
    """
    folder = os.environ.get("CADA_CACHE") or "~/.cache/cada_plugin"
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        _warn_once(f"no cache: {folder} cannot be resolved ({error}). Set CADA_CACHE to a writable folder.")
        return None


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def read_cache(name: str) -> Any | None:
    """Content of the cache file ``name``; None if the file is absent or unreadable, so that the caller recomputes."""
    folder = cache_dir()
    if folder is None:
        return None
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def write_cache(name: str, content: Any) -> None:
    """Write the cache file ``name`` atomically, so that another process never reads half a file.

    A cache that cannot be written (read-only home, full disk) does not end the run: the failure is only logged.
    """
    folder = cache_dir()
    if folder is None:
        return
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=name, suffix=".tmp")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(temporary, folder / name)
    except OSError as error:
        logger.warning("cannot write the cache %s: %s. Set CADA_CACHE to a writable folder.", folder / name, error)
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
