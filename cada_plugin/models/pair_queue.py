"""Pairs of earlier steps as further negatives of a contrastive loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PairQueue(nn.Module):
    """The embeddings of the last K pairs, without gradient (cross-batch memory; Wang et al., CVPR 2020, arXiv
    1912.06798; BLIP's queue holds those of momentum encoders). At a fine-tuning rate a model changes so slowly that
    they are nearly what it would give now.

    At first the queue holds random vectors, each of a person of its own, whom nothing resembles. It belongs to the
    state of the model, so that a resumed training goes on with the same pairs.

    Args:
        size: K.
        dim: size D of the embeddings.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        nothing = F.normalize(torch.randn(size, dim, generator=torch.Generator().manual_seed(0)), dim=-1)
        self.register_buffer("images", nothing)
        self.register_buffer("texts", nothing.clone())
        self.register_buffer("people", -1 - torch.arange(size))

    def contrast(self, loss: nn.Module, images: Tensor, texts: Tensor, people: Tensor) -> Tensor:
        """A contrastive loss of A pairs and those of the queue, which then takes the A pairs in.

        The loss is a mean over A + K pairs. It is multiplied by (A + K) / A, so that a pair of the batch counts as much
        as without a queue.

        Args:
            loss: takes image and text embeddings and person ids, as ``GlobalAssociationLoss``.
            images, texts: (A, D), l2-normalised, of all processes.
            people: (A,).
        """
        both = (images, self.images), (texts, self.texts), (people, self.people)
        value = loss(*(torch.cat(pair) for pair in both))
        with torch.no_grad():
            for old, new in ((self.images, images), (self.texts, texts), (self.people, people)):
                old.copy_(torch.cat([new, old])[: len(old)])
        return value * ((len(images) + len(self.people)) / len(images))
