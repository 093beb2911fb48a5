"""Which wrong partner a matching loss pairs each caption and each image with.

*Hard negatives* (the most similar wrong partner of the batch) are what the released CADA uses. *Sampled negatives*, as
in ALBEF and BLIP, are chosen at random with a probability that grows with similarity: less prone to always training on
the same confusing image, and usable from the first step of a training from scratch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def hardest_negatives(similarity: Tensor, same: Tensor) -> Tensor:
    """The most similar wrong partner of every row, as columns (B,) long.

    Args:
        similarity: (B, A), of the B rows of this process to the A partners of all processes.
        same: (B, A) bool, True where the column shows the row's own person; never chosen.
    """
    return similarity.float().masked_fill(same, -torch.inf).argmax(1)


@torch.no_grad()
def sampled_negatives(cosine: Tensor, same: Tensor, scale: float | Tensor) -> Tensor:
    """One wrong partner of every row, sampled with probability softmax(scale * cosine), as columns (B,) long.

    Args:
        cosine: (B, A).
        same: (B, A) bool, True where the column shows the row's own person; never chosen.
        scale: 0 samples uniformly; the larger it is, the more often the hardest negative is chosen.
    """
    weights = (scale * cosine.float()).masked_fill(same, -torch.inf).softmax(1)
    # A diverged model gives NaN: any choice will do, as its loss reports the divergence, whereas multinomial would end
    # the process on a GPU.
    return torch.multinomial(weights.nan_to_num(nan=1.0), 1).squeeze(1)


@torch.no_grad()
def further_negatives(
    similarity: Tensor, barred: Tensor, number: int, scale: float | Tensor | None
) -> tuple[Tensor, Tensor]:
    """Several different wrong partners of every row, as columns (B, N) long, and which of them exist (B, N) bool: a row
    may have fewer than N.

    Args:
        similarity: (B, A).
        barred: (B, A) bool, True where the column is not to be chosen.
        number: N, at most A are given.
        scale: partners are sampled with probability softmax(scale * similarity), one after the other; None takes the
            most similar ones.
    """
    keys = similarity.float()
    if scale is not None:  # the largest of softmax's exponents plus Gumbel noise are such a sample
        keys = scale * keys - torch.empty_like(keys).exponential_().log()
    found = keys.masked_fill(barred, -torch.inf).topk(min(number, keys.shape[1]), dim=1)
    return found.indices, found.values > -torch.inf


@torch.no_grad()
def similarities(own: Tensor, others: Tensor, normalise: bool) -> Tensor:
    """Products (B, A) of projections (B, D) and (A, D) in full precision, as half precision would make
    the most similar ones equal."""
    own, others = own.float(), others.float()
    if normalise:
        own, others = F.normalize(own, dim=-1), F.normalize(others, dim=-1)
    with torch.autocast(own.device.type, enabled=False):
        return own @ others.T
