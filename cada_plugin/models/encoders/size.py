"""Check the image size of an encoder when it is built."""

from collections.abc import Sequence

from cada_plugin.errors import ConfigError


def checked_size(image_size: Sequence[int], patch_size: int) -> tuple[int, int]:
    """``image_size`` as (H, W) in pixels.

    Raises:
        ConfigError: it is not a pair of positive integers, or not a multiple of ``patch_size``.
    """
    if type(patch_size) is not int or patch_size < 1:
        raise ConfigError(f"patch_size={patch_size!r}: expected the side of a patch in pixels, an integer from 1")
    pair = isinstance(image_size, Sequence) and len(image_size) == 2
    if not pair or not all(type(side) is int and side > 0 for side in image_size):
        raise ConfigError(f"image_size={image_size!r}: expected (height, width) in pixels, such as (384, 128)")
    if any(side % patch_size for side in image_size):
        raise ConfigError(f"image_size={tuple(image_size)} (H, W) must be a multiple of patch_size={patch_size}")
    return tuple(image_size)
