"""The captions among which the images of a gallery have their hubness, see :mod:`cada_plugin.portable.hubness`."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cada_plugin.errors import ConfigError
from cada_plugin.files import replacing
from cada_plugin.portable.hubness import NEIGHBOURS, bank_of

_FEWEST = 10


class CaptionBank:
    """Embedded captions of a text file with one caption in a line.

    Args:
        path: the file. Of more than 20,000 captions, that many are taken at equal distances.

    Raises:
        ConfigError: the file cannot be read, or holds fewer than ten captions.
    """

    def __init__(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"--captions {path} cannot be read: {error}") from error
        captions = [line.strip() for line in lines if line.strip()]
        if len(captions) < _FEWEST:
            raise ConfigError(
                f"--captions {path} holds {len(captions)} captions: write one in a line, {_FEWEST} or more, such as "
                "those that the model was trained on"
            )
        self.captions = bank_of(captions)
        # a gallery whose hubness is of other captions or of another number of neighbours is measured again
        about = "\n".join([str(NEIGHBOURS), *self.captions])
        self.digest = hashlib.blake2b(about.encode(), digest_size=8).hexdigest()

    def embeddings(self, encode: Callable[[list[str]], np.ndarray], kept_in: Path | None) -> np.ndarray:
        """Embeddings (n, D) of the captions, encoded once and kept in the folder ``kept_in``, if there is one."""
        kept = kept_in and kept_in / f"captions-{self.digest}.npy"
        if kept and kept.is_file():
            try:
                return np.load(kept, allow_pickle=False).astype(np.float32)
            except (OSError, ValueError):  # damaged: it is made again
                pass
        embed = encode(self.captions)
        if kept:
            with replacing(kept) as unfinished, unfinished.open("wb") as file:
                np.save(file, embed.astype(np.float16))
        return embed
