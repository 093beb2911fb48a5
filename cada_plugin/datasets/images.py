"""Reading person images safely: one way from a file to 8-bit RGB, and one full check of many files.

Not augmentation: that is ``datasets.transforms``.
"""

import hashlib
import os
import threading
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from cada_plugin.datasets.cache import read_json, write_json
from cada_plugin.errors import ImageError

MAX_PIXELS = 64_000_000  # ours: a person crop has below 1 million; 64 million RGB pixels already take 192 MB
_CACHE_VERSION = 1  # raise when load_person_image accepts or refuses other files than before
# `catch_warnings` edits global state, so the threads of `verify_images` must not interleave inside it.
_OPEN_LOCK = threading.Lock()


def load_person_image(path: str | os.PathLike) -> Image.Image:
    """Decode an image completely into 8-bit RGB, upright (EXIF orientation applied).

    Grey, palette, CMYK, transparent and 16-bit grey images are converted; transparency is dropped, not composited;
    16-bit grey keeps its upper 8 bits. Of an animation, the first frame is used.

    Raises:
        ImageError: the file is missing, empty, truncated, not an image, or has more than ``MAX_PIXELS`` pixels. The
            size is read from the header, before anything is decoded.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115  # entered just below; here only to tell missing from damaged
    except (OSError, ValueError) as error:
        reason = "the file is missing" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error})"
        raise ImageError(f"{path}: {reason}: put the image there or correct the annotation") from error
    with file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ImageError(f"{path}: the file is empty (0 bytes): copy it again from the data set")
        image = _open_header(file, path)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(_too_large(path, f"{width} x {height} pixels"))
        try:
            image.load()
            return to_rgb(_upright(image))
        except Exception as error:  # decoders raise anything on damaged data: OSError, SyntaxError, struct.error ...
            raise ImageError(
                f"{path}: truncated or damaged ({error}): copy it again from the data set, or re-encode it"
            ) from error


def _open_header(file, path) -> Image.Image:
    try:
        with _OPEN_LOCK, warnings.catch_warnings():
            # Our own limit is the stricter one and is an error, so Pillow's warning would only say it twice.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file)
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(path, str(error))) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not an image that Pillow can read: replace it by a JPEG or PNG file") from error
    except Exception as error:
        raise ImageError(f"{path}: damaged header ({error}): copy it again from the data set") from error


def _too_large(path, got: str) -> str:
    return (
        f"{path}: too large to decode safely ({got}; allowed: {MAX_PIXELS:,} pixels): "
        "crop it to the person or scale it down"
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow as 8-bit RGB."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip everything above 255 to white
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8  # (H, W)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the orientation; the pixels are fine
        return image


def verify_images(paths: Iterable[str], progress_delay: float = 2.0) -> dict[str, str]:
    """Decode every file once and return ``{path: what is wrong with it}`` of the bad ones, in the order given.

    The result is cached under a hash of all paths, sizes and modification times, so a second call costs only the
    stats. Known bad files are always tried again: a permission may have been mended without a new time stamp.

    Args:
        progress_delay: seconds before a progress bar appears.
    """
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max_workers=min(16, (os.cpu_count() or 1) + 4)) as pool:
        name = f"images-{_fingerprint(paths, pool)}.json"
        known = _known_bad(read_json(name), set(paths))
        suspects = paths if known is None else known
        reasons = list(
            tqdm(
                pool.map(_reason, suspects),
                total=len(suspects),
                desc="checking images",
                unit="image",
                delay=progress_delay,
                disable=not suspects or os.environ.get("RANK", "0") != "0",  # one bar, not one per process
            )
        )
    bad = {path: reason for path, reason in zip(suspects, reasons, strict=True) if reason is not None}
    if known != list(bad):
        write_json(name, {"bad": list(bad)})
    return bad


def raise_for_bad_images(bad: dict[str, str], total: int) -> None:
    """Raise one ``ImageError`` that names the number of bad images and the first ten; nothing if there is none."""
    if not bad:
        return
    lines = [f"- {reason}" for reason in list(bad.values())[:10]]
    if len(bad) > 10:
        lines.append(f"- and {len(bad) - 10:,} more")
    raise ImageError(
        f"{len(bad):,} of {total:,} images cannot be used:\n"
        + "\n".join(lines)
        + "\nWhat to do: `python tools/check_data.py` lists them by folder and says where they come from. "
        "No image is skipped silently, because that would change the results."
    )


def _fingerprint(paths: Sequence[str], pool: ThreadPoolExecutor) -> str:
    def describe(path: str) -> tuple[str, int, int]:
        try:
            stat = os.stat(path)
        except (OSError, ValueError):
            return path, -1, -1
        return path, stat.st_size, stat.st_mtime_ns

    digest = hashlib.sha256(f"version {_CACHE_VERSION}".encode())
    for entry in sorted(pool.map(describe, paths)):
        digest.update(repr(entry).encode())
    return digest.hexdigest()[:32]


def _known_bad(cached, paths: set[str]) -> list[str] | None:
    """Files that were bad last time; None without a usable cache."""
    bad = cached.get("bad") if isinstance(cached, dict) else None
    if not isinstance(bad, list) or not all(isinstance(path, str) and path in paths for path in bad):
        return None
    return bad


def _reason(path: str) -> str | None:
    try:
        load_person_image(path)
    except ImageError as error:
        return str(error)
    return None
