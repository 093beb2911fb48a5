"""Hubness: some images are near to captions in general, and turn up for queries that they do not fit.

The hubness of an image is the mean of its ``NEIGHBOURS`` largest cosines with a bank of captions, such as those of the
training set. A search can subtract a multiple of it from the cosine (nearest neighbour normalisation, Chowdhury et al.,
"Nearest Neighbor Normalization Improves Multimodal Retrieval", EMNLP 2024).
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cada_plugin.errors import ConfigError
from cada_plugin.files import replacing

NEIGHBOURS = 10
_MOST_CAPTIONS = 20_000  # more of them hardly change the mean, and take long to encode
_ELEMENTS = 1 << 24  # of a block of cosines, 64 MB


class CaptionBank:
    """Embedded captions of a text file with one caption in a line.

    Args:
        path: the file. Of more than 20,000 captions, that many are taken at equal distances.

    Raises:
        ConfigError: the file cannot be read, or holds fewer than ``NEIGHBOURS`` captions.
    """

    def __init__(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"--captions {path} cannot be read: {error}") from error
        captions = [line.strip() for line in lines if line.strip()]
        if len(captions) < NEIGHBOURS:
            raise ConfigError(
                f"--captions {path} holds {len(captions)} captions: write one in a line, {NEIGHBOURS} or more, such as "
                "those that the model was trained on"
            )
        step = -(-len(captions) // _MOST_CAPTIONS)
        self.captions = captions[::step]
        self.digest = hashlib.blake2b("\n".join(self.captions).encode(), digest_size=8).hexdigest()

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


def hubness(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """The hubness (n,) of images (n, D) among captions (m, D), all l2-normalised."""
    rows = max(1, _ELEMENTS // len(captions))
    parts = []
    for start in range(0, len(images), rows):
        cosines = images[start : start + rows] @ captions.T
        parts.append(np.partition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:].mean(1))
    return np.concatenate(parts) if parts else np.zeros(0)
