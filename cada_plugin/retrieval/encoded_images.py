"""Encoded images in memory, with the paths they came from: to search in, to join, to save and to load again.

A model in PyTorch gives and takes tensors, one in ONNX numpy arrays. This module imports torch only for tensors, so
that it works where torch is not installed. Both kinds of galleries are saved in the same format.
"""

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from cada_plugin.errors import GalleryError
from cada_plugin.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT = "cada_plugin.gallery.1"


class EncodedImages:
    """G encoded images. ``len(gallery)`` is G; ``gallery[3]``, ``gallery[:9]`` and ``gallery[[4, 2]]`` are galleries of
    some of the images; ``a + b`` joins two galleries.

    Args:
        embed: (G, D), l2-normalised.
        tokens: (G, 1+N, C) for matching, None if the model does not re-rank.
        paths: for each image the file it came from, or None for a picture from memory. By default, all are None.
    """

    def __init__(
        self,
        embed: "Tensor | np.ndarray",
        tokens: "Tensor | np.ndarray | None",
        paths: Sequence[str | None] | None = None,
    ) -> None:
        self.embed, self.tokens = embed, tokens
        self.paths = (None,) * len(embed) if paths is None else tuple(paths)
        if embed.ndim != 2 or (tokens is not None and tokens.ndim != 3):
            raise GalleryError(f"{self._kind()}: expected embed (G, D), and tokens (G, 1+N, C) or None")
        if len(self.paths) != len(embed) or (tokens is not None and len(tokens) != len(embed)):
            raise GalleryError(f"{self._kind()} and {len(self.paths)} paths: expected the same number of each")

    def __len__(self) -> int:
        return len(self.embed)

    def __getitem__(self, rows: int | slice | Sequence[int]) -> "EncodedImages":
        index = np.arange(len(self))[rows].reshape(-1)
        tokens = None if self.tokens is None else self.tokens[index]
        return EncodedImages(self.embed[index], tokens, [self.paths[i] for i in index.tolist()])

    def __add__(self, other: "EncodedImages") -> "EncodedImages":
        """A gallery of the images of both, first those of ``self``.

        Raises:
            GalleryError: the shapes of embeddings or tokens differ. Two checkpoints of one architecture cannot be told
                apart by them: join only what one checkpoint encoded.
        """
        if not isinstance(other, EncodedImages):
            return NotImplemented
        if self._row_shapes() != other._row_shapes():
            raise GalleryError(
                f"{self._kind()} and {other._kind()} were encoded by different models and cannot be joined: encode all "
                "images with one"
            )
        tokens = None if self.tokens is None else _joined(self.tokens, other.tokens)
        return EncodedImages(_joined(self.embed, other.embed), tokens, self.paths + other.paths)

    def __repr__(self) -> str:
        return f"EncodedImages({len(self)} images, {self._kind()})"

    def _row_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        return tuple(self.embed.shape[1:]), None if self.tokens is None else tuple(self.tokens.shape[1:])

    def _kind(self) -> str:
        tokens = "no tokens" if self.tokens is None else f"tokens {tuple(self.tokens.shape)}"
        return f"embed {tuple(self.embed.shape)}, {tokens}"

    def save(self, path: str | os.PathLike) -> Path:
        """Write a ``.safetensors`` file, which appears complete or not at all. Such a file cannot contain code.

        Raises:
            GalleryError: the file cannot be written.
        """
        path = Path(os.path.expanduser(path))
        tensors = {"embed": self.embed} if self.tokens is None else {"embed": self.embed, "tokens": self.tokens}
        metadata = {"format": _FORMAT, "paths": json.dumps(self.paths)}
        try:
            with replacing(path) as unfinished:
                save_file(tensors, unfinished, metadata)
        except (OSError, SafetensorError) as error:
            raise GalleryError(
                f"cannot write the gallery {path}: {error}: is its folder there and writable?"
            ) from error
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> "EncodedImages":
        """Read a file that :meth:`save` wrote, as tensors, or as arrays where torch is not installed.

        Raises:
            GalleryError: the file does not exist, is damaged, or is not a gallery.
        """
        path = os.path.expanduser(path)
        if not os.path.isfile(path):
            raise GalleryError(f"no gallery file {path}: save one with encode_image(...).save(PATH)")
        advice = "encode the images again and save the gallery"
        try:
            with safe_open(path, "pt" if importlib.util.find_spec("torch") else "np") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            known = metadata.get("format") == _FORMAT and "embed" in tensors and tensors.keys() <= {"embed", "tokens"}
            paths = json.loads(metadata["paths"]) if known else []
        except (OSError, SafetensorError, ValueError, KeyError, RecursionError) as error:
            raise GalleryError(
                f"{path} is not a saved gallery, or is cut off or damaged ({error}): {advice}"
            ) from error
        if not known:
            raise GalleryError(f"{path} is a safetensors file, but no gallery that this version saves: {advice}")
        if not isinstance(paths, list) or not all(one is None or isinstance(one, str) for one in paths):
            raise GalleryError(f"{path} is damaged, its image paths are no list of texts: {advice}")
        if not all(_is_finite(one) for one in tensors.values()):
            raise GalleryError(f"{path} is damaged, it holds numbers that are not finite: {advice}")
        return cls(tensors["embed"], tensors.get("tokens"), paths)


def save_file(tensors: "Mapping[str, Tensor | np.ndarray]", path: Path, metadata: dict[str, str]) -> None:
    """Write tensors or arrays to a safetensors file."""
    if all(isinstance(one, np.ndarray) for one in tensors.values()):
        from safetensors.numpy import save_file as save_arrays

        save_arrays({name: np.ascontiguousarray(one) for name, one in tensors.items()}, path, metadata)
        return
    from safetensors.torch import save_file as save_tensors

    # cloned, because the format has no shared tensors
    save_tensors({name: one.cpu().contiguous().clone() for name, one in tensors.items()}, path, metadata)


def _joined(one: "Tensor | np.ndarray", other: "Tensor | np.ndarray") -> "Tensor | np.ndarray":
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.concatenate([one, other])
    import torch

    return torch.cat([torch.as_tensor(one), torch.as_tensor(other)])


def _is_finite(numbers: "Tensor | np.ndarray") -> bool:
    if isinstance(numbers, np.ndarray):
        return np.issubdtype(numbers.dtype, np.floating) and bool(np.isfinite(numbers).all())
    return numbers.is_floating_point() and bool(numbers.isfinite().all())
