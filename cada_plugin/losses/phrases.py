"""Matching of attribute phrases whose truth is known: true ones against counterfactual ones (ours)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.registry import MODELS


def phrase_matching_loss(
    logits: Tensor, matched: Tensor, exists: Tensor, totals: tuple[Tensor | float, Tensor | float] | None = None
) -> Tensor:
    """Cross-entropy of match / no match on phrases, the mean of its means over true and over false phrases.

    Not every phrase has a false counterpart, so a mean over all would teach more about the true ones.

    Args:
        logits: (P, G, 2), class 1 = match.
        matched: (P,) bool, whether the phrases of a text are all true of its image, or all false.
        exists: (P, G) bool, False for phrases that the text does not have; they do not count.
        totals: what to divide the two sums by in place of the numbers of true and of false phrases; several processes
            pass their mean numbers.
    """
    each = -F.log_softmax(logits.float(), -1)  # (P, G, 2)
    true, false = exists & matched[:, None], exists & ~matched[:, None]
    totals = (true.sum(), false.sum()) if totals is None else totals
    sums = (each[..., 1] * true).sum(), (each[..., 0] * false).sum()
    means = [s / torch.as_tensor(t, device=s.device).clamp_min(1e-6) for s, t in zip(sums, totals, strict=True)]
    return (means[0] + means[1]) / 2


@MODELS.register_module()
class PhraseMatchingLoss(nn.Module):
    """:func:`phrase_matching_loss` times a weight: is this attribute phrase alone true of the image?

    ATP labels every group of a wrong pair "no match", although most phrases of a similar wrong caption are true of the
    picture. Here labels are known: phrases of the true caption are true, and those of ``FalsifyPhrases`` are false. Use
    it where the evidence of single phrases matters, as in explanations. Cost: a pass of the fusion decoder over the
    phrases of the captions and their false copies.

    Args:
        weight: factor of the loss.

    Takes logits (P, G, 2), which of the P texts are true (P,), and which of their phrases exist (P, G):

    >>> sure = torch.tensor([[[-9.0, 9.0]], [[9.0, -9.0]]])
    >>> matched, exists = torch.tensor([True, False]), torch.ones(2, 1, dtype=torch.bool)
    >>> bool(PhraseMatchingLoss()(sure, matched, exists) < 1e-3)
    True
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, logits: Tensor, matched: Tensor, exists: Tensor, *totals: Tensor) -> Tensor:
        return self.weight * phrase_matching_loss(logits, matched, exists, totals or None)
