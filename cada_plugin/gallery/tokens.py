"""Patch tokens of a gallery's images, beside its database: one file for each picture, named after its content.

An engine would only store their bytes, and compacting a table of large blobs needs much memory. A file of the content's
digest is written once, belongs to every copy of the picture, survives a rename of it, and is there before the row that
needs it.
"""

from pathlib import Path

import numpy as np

from cada_plugin.errors import GalleryError
from cada_plugin.files import replacing

MODES = ("none", "fp16", "int8")


class TokenFiles:
    """Tokens (1+N, C) by the digest of a picture's content.

    Args:
        folder: created when it is first written to.
        mode: ``fp16``, or ``int8``: each token is divided by its largest absolute value / 127, which is kept in fp32.
    """

    def __init__(self, folder: Path, mode: str) -> None:
        self.folder, self.mode = folder, mode

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest[2:]}.npz"

    def write(self, digest: str, tokens: np.ndarray) -> None:
        path = self._path(digest)
        if path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        tokens = np.asarray(tokens, np.float32)
        arrays = {"tokens": tokens.astype(np.float16)}
        if self.mode == "int8":
            scale = np.maximum(np.abs(tokens).max(-1, keepdims=True), 1e-12) / np.float32(127)  # (1+N, 1)
            arrays = {"tokens": (tokens / scale).round().astype(np.int8), "scale": scale}
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)

    def has(self, digest: str) -> bool:
        return self._path(digest).is_file()

    def read(self, digest: str) -> np.ndarray:
        """Tokens in fp32.

        Raises:
            GalleryError: they are missing or damaged.
        """
        try:
            with np.load(self._path(digest), allow_pickle=False) as file:
                tokens = file["tokens"].astype(np.float32)
                return tokens * file["scale"] if "scale" in file else tokens
        except Exception as error:  # a damaged zip file can fail in any way
            raise GalleryError(
                f"the tokens of a picture are missing or damaged ({self._path(digest)}): remove the file if it is "
                "there, and run `cada index` again"
            ) from error

    def keep_only(self, digests: set[str]) -> None:
        """Delete the tokens of pictures that no row has any more."""
        for path in self.folder.glob("*/*.npz"):
            if path.parent.name + path.stem not in digests:
                path.unlink(missing_ok=True)
