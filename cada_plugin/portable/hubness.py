"""Hubness: some images are near to captions in general, and turn up for queries that they do not fit.

The hubness of an image is the mean of its ``NEIGHBOURS`` largest cosines with a bank of captions, such as those of the
training set. ``WEIGHT`` times the hubness is subtracted from the cosine of stage 1: nearest neighbour normalisation
(Chowdhury et al., "Nearest Neighbor Normalization Improves Multimodal Retrieval", EMNLP 2024, arXiv 2410.24114). Both
numbers are the ones of the paper; on procedural pedestrians the validation split chose them as well. Works without
torch.
"""

from collections.abc import Sequence

import numpy as np

NEIGHBOURS = 128
WEIGHT = 0.75
MOST_CAPTIONS = 20_000
"""Of a bank: more captions hardly change the mean, and take long to encode."""

_ELEMENTS = 1 << 24  # of a block of cosines, 64 MB


def hubness(images: np.ndarray, captions: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """The hubness (n,) of images (n, D) among captions (m, D), all l2-normalised. With fewer captions than
    ``neighbours`` it is the mean of all cosines."""
    k = min(neighbours, len(captions))
    rows = max(1, _ELEMENTS // len(captions))
    parts = []
    for start in range(0, len(images), rows):
        cosines = images[start : start + rows] @ captions.T
        parts.append(np.partition(cosines, -k, axis=1)[:, -k:].mean(1))
    return np.concatenate(parts) if parts else np.zeros(0)


def bank_of(captions: Sequence[str]) -> Sequence[str]:
    """The captions of a bank; of more than ``MOST_CAPTIONS``, that many at most, taken at equal distances."""
    return captions[:: -(-len(captions) // MOST_CAPTIONS)]
