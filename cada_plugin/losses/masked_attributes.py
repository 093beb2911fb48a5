"""ARA, association of image regions to text attributes: name the masked attribute words from image and context."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.registry import MODELS


def masked_attribute_loss(logits: Tensor, words: Tensor, total: Tensor | float | None = None) -> Tensor:
    """Cross-entropy over masked positions.

    Args:
        logits: (M, V) of the masked positions only; M may be 0, which gives a zero that still has a gradient path.
        words: (M,) ids of the masked word pieces.
        total: what to divide by in place of M; several processes pass their mean M.
    """
    summed = F.cross_entropy(logits.float(), words, reduction="sum")
    return summed / torch.as_tensor(len(words) if total is None else total, device=summed.device).clamp_min(1e-6)


@MODELS.register_module()
class MaskedAttributeLoss(nn.Module):
    """:func:`masked_attribute_loss` times a weight: masked words are predicted from image and context.

    CADA's ARA masks attribute words (weight 0.1 as released), IRRA's relation reasoning any word (weight 1). It needs a
    decoder that sees the image, in training only. Cost: the vocabulary head on the M masked positions, (M, V).

    Args:
        weight: factor of the loss.

    Takes logits (M, V) and word ids (M,):

    >>> round(MaskedAttributeLoss(weight=0.1)(torch.zeros(3, 8), torch.tensor([1, 2, 3])).item(), 4)  # log(8) / 10
    0.2079
    """

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, logits: Tensor, words: Tensor, total: Tensor | float | None = None) -> Tensor:
        return self.weight * masked_attribute_loss(logits, words, total)
