"""Reads person images safely: converts a file or a Pillow image to 8-bit RGB. Needs Pillow and numpy only."""

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cada_plugin.errors import ImageError

MAX_PIXELS = 64_000_000
"""Limit for one image. A person crop has fewer than 1 million pixels. Pillow needs 4 bytes per pixel, and as much again
for each conversion."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
"""Accepted formats, recognised by content and not by file name; JPEG includes MPO. Pillow's other formats are left out
because they start programs (EPS: ghostscript) or are read by code that few people use."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""Endings of file names that :func:`find_images` takes for images, in lower or upper case."""
# `catch_warnings` edits global state, so the threads of `verify_images` must not interleave inside it.
_OPEN_LOCK = threading.Lock()
_BITS_PER_SAMPLE = 258  # a tag of TIFF
_ORIENTATION = 0x0112  # a tag of EXIF
_NEVER_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)  # neither exists on Windows


def load_person_image(path: str | os.PathLike) -> Image.Image:
    """Decode an image file completely and convert it with :func:`to_person_image`. An animation gives its first frame.

    Raises:
        ImageError: the file is missing, not a regular file, empty, truncated, not in one of ``FORMATS``, has more than
            ``MAX_PIXELS`` pixels (read from the header, before anything is decoded), or has pixels of a type that
            cannot be converted to 8-bit RGB.
    """
    with opened(path) as image:
        return to_person_image(image, path)


def decode_person_image(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As :func:`load_person_image`, of the bytes of a file.

    Args:
        name: what error messages call the image.
        max_pixels: limit for this image, at most ``MAX_PIXELS``.
    """
    if not content:
        raise ImageError(f"{name}: the file is empty (0 bytes): choose another picture")
    with _open_header(io.BytesIO(content), name) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"{name}: {width} x {height} pixels are too many (allowed: {max_pixels:,}): crop it to the person or "
                "scale it down"
            )
        return to_person_image(image, name)


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    """The image with only its header read. Raises ImageError."""
    try:
        # Opening a pipe or device must not block. A check before opening is not enough: the file may change meanwhile.
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NEVER_WAIT))  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = "the file is missing" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error})"
        raise ImageError(f"{path}: {reason}: put the image there or correct the annotation") from error
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(
                f"{path}: not a regular file but a pipe or device: put the image there or remove the entry"
            )
        if status.st_size == 0:
            raise ImageError(f"{path}: the file is empty (0 bytes): copy it again from the data set")
        yield _open_header(file, path)


def to_person_image(image: Image.Image, name: object = "the image") -> Image.Image:
    """Convert a Pillow image, decoded or not, to 8-bit RGB and apply its EXIF orientation.

    Grey, palette, CMYK, transparent and 16-bit grey images are converted. Transparency is dropped, not composited;
    16-bit grey keeps its upper 8 bits. Images with 12 or 32 bits per pixel or with floating-point pixels are refused,
    because the file does not say which value is white.

    Args:
        name: what error messages call the image.

    Raises:
        ImageError: the image has no pixels or more than ``MAX_PIXELS``, is truncated or damaged, or cannot be
            converted to 8-bit RGB.
    """
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(_too_large(name, f"{width} x {height} pixels"))
    try:
        image.load()
        _refuse_unknown_range(image, name)
        return _to_rgb(_upright(image))
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything on damaged data: OSError, SyntaxError, struct.error ...
        raise ImageError(
            f"{name}: truncated or damaged ({error}): copy it again from the data set, or re-encode it"
        ) from error


def _open_header(file: BinaryIO, path: str | os.PathLike) -> Image.Image:
    try:
        with _OPEN_LOCK, warnings.catch_warnings():
            # Our own limit is stricter and raises an error, so Pillow's warning would be redundant.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(path, str(error))) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: not an image in a format that is read ({', '.join(FORMATS)}): replace it by a JPEG or PNG file"
        ) from error
    except Exception as error:
        raise ImageError(f"{path}: damaged header ({error}): copy it again from the data set") from error


def _too_large(name: object, got: str) -> str:
    return (
        f"{name}: empty, or too large to decode safely ({got}; allowed: 1 to {MAX_PIXELS:,} pixels): "
        "crop it to the person or scale it down"
    )


def _refuse_unknown_range(image: Image.Image, name: object) -> None:
    """Raise for 12-bit, 32-bit and floating-point images, which Pillow would turn black or white: it reads 12 bits as
    16 and clips the others."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    sixteen_bits = image.mode.startswith("I;16") and bits == 16
    # Pillow also stores 16-bit grey in mode "I" (for PNG only some versions do)
    sixteen_bits |= image.mode == "I" and image.format in ("PNG", "PPM")
    if image.mode.startswith(("I", "F")) and not sixteen_bits:
        raise ImageError(
            f"{name}: grey of mode {image.mode} in which no value is known to be white: save it with 8 bits per channel"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip everything above 255 to white
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8  # (H, W)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        lies = image.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if lies else image  # exif_transpose copies even an upright image
    except Exception:  # damaged EXIF: the orientation is unknown, but the pixels are fine
        return image


def find_images(folder: str | os.PathLike) -> list[str]:
    """Paths of all image files in ``folder`` and its sub-folders, in alphabetical order; hidden files are left out.

    Raises:
        ImageError: a sub-folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise ImageError(f"the folder {error.filename} cannot be read ({error.strerror}): correct its permissions")

    return sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )


_CHECK_DATA = (
    "`cada check-data` lists them by folder and says where they come from. "
    "No image is skipped silently, because that would change the results."
)


def raise_for_bad_images(bad: dict[str, str], total: int, advice: str = _CHECK_DATA) -> None:
    """Raise one ``ImageError`` with the number of bad images and the first ten of them, if there are any."""
    if not bad:
        return
    lines = [f"- {reason}" for reason in list(bad.values())[:10]]
    if len(bad) > 10:
        lines.append(f"- and {len(bad) - 10:,} more")
    raise ImageError(
        f"{len(bad):,} of {total:,} images cannot be used:\n" + "\n".join(lines) + f"\nWhat to do: {advice}"
    )
