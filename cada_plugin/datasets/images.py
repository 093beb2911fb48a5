"""Checks many image files completely. Reading one of them is in :mod:`cada_plugin.portable.pictures`.

Augmentation is in ``datasets.transforms``.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cada_plugin.datasets.cache import read_cache, write_cache
from cada_plugin.errors import ImageError
from cada_plugin.portable.pictures import MAX_PIXELS, load_person_image, opened
from cada_plugin.progress import progress_bar

MAX_PIXELS_PER_THREAD = 4_000_000
"""Larger images are checked one at a time, because several at once could fill the memory."""
_CACHE_VERSION = 2  # increase it when load_person_image accepts or refuses other files than before


def verify_images(paths: Iterable[str], progress_delay: float = 2.0) -> dict[str, str]:
    """Decode every file once and return ``{path: what is wrong with it}`` for the bad ones, in the order given.

    The result is cached under a hash of all paths, sizes and modification times, so a second call only calls ``stat``
    on each file. Known bad files are always tried again, because permissions can be corrected without a new time stamp.

    Args:
        progress_delay: seconds before a progress bar appears.
    """
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max_workers=min(16, (os.cpu_count() or 1) + 4)) as pool:
        name = f"images-{_fingerprint(paths, pool)}.json"
        known = _known_bad(read_cache(name), set(paths))
        suspects = paths if known is None else known
        found = progress_bar(
            pool.map(_reason_unless_large, suspects),
            total=len(suspects),
            desc="checking images",
            unit="image",
            delay=progress_delay,
            disable=not suspects or os.environ.get("RANK", "0") != "0",  # one bar, not one per process
        )
        # Large images are checked here and not in the threads, even under a lock: each thread would keep the memory of
        # its largest image.
        reasons = [_reason(p) if reason is _LATER else reason for p, reason in zip(suspects, found, strict=True)]
    bad = {path: reason for path, reason in zip(suspects, reasons, strict=True) if reason is not None}
    if known != list(bad):
        write_cache(name, {"bad": list(bad)})
    return bad


def _fingerprint(paths: Sequence[str], pool: ThreadPoolExecutor) -> str:
    def describe(path: str) -> tuple[str, int, int]:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return path, -1, -1
        return path, status.st_size, status.st_mtime_ns

    digest = hashlib.sha256(f"version {_CACHE_VERSION}".encode())
    for entry in sorted(pool.map(describe, paths)):
        digest.update(repr(entry).encode())
    return digest.hexdigest()[:32]


def _known_bad(cached, paths: set[str]) -> list[str] | None:
    """Files that were bad at the last check; None if there is no usable cache."""
    bad = cached.get("bad") if isinstance(cached, dict) else None
    if not isinstance(bad, list) or not all(isinstance(path, str) and path in paths for path in bad):
        return None
    return bad


_LATER = "an image that is too large to be checked beside others"


def _reason_unless_large(path: str) -> str | None:
    try:
        with opened(path) as image:
            width, height = image.size
    except ImageError as error:
        return str(error)
    return _LATER if MAX_PIXELS_PER_THREAD < width * height <= MAX_PIXELS else _reason(path)


def _reason(path: str) -> str | None:
    try:
        load_person_image(path)
    except ImageError as error:
        return str(error)
    return None
