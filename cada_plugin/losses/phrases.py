"""Matching of attribute phrases whose truth is known: true ones against counterfactual ones (ours)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.registry import MODELS


def phrase_matching_loss(
    logits: Tensor, true: Tensor, false: Tensor, totals: tuple[Tensor | float, Tensor | float] | None = None
) -> Tensor:
    """Cross-entropy of match / no match on phrases, the mean of its means over true and over false phrases.

    There are several true phrases to a false one, so a mean over all would teach little about the false ones.

    Args:
        logits: (P, G, 2), class 1 = match.
        true, false: (P, G) bool, the phrases that are known to be true and false of the image; others do not count.
        totals: what to divide the two sums by in place of the numbers of true and of false phrases; several processes
            pass their mean numbers.
    """
    each = -F.log_softmax(logits.float(), -1)  # (P, G, 2)
    totals = (true.sum(), false.sum()) if totals is None else totals
    sums = (each[..., 1] * true).sum(), (each[..., 0] * false).sum()
    means = [s / torch.as_tensor(t, device=s.device).clamp_min(1e-6) for s, t in zip(sums, totals, strict=True)]
    return (means[0] + means[1]) / 2


@MODELS.register_module()
class PhraseMatchingLoss(nn.Module):
    """:func:`phrase_matching_loss` times a weight: is this attribute phrase alone true of the image?

    ATP labels every group of a wrong pair "no match", although most phrases of a similar wrong caption are true of the
    picture. Here labels are known: phrases of the true caption are true, and those that ``FalsifyCaption`` changed are
    false, but for those that are true elsewhere in the caption. Use it where the evidence of single phrases matters,
    as in explanations. Cost: a pass of the fusion decoder over the phrases of the batch: on the CPU a fifth of the
    tokens that ATP takes, on a GPU, where the tokens of phrases are not counted, about half of them.

    Args:
        weight: factor of the loss.

    Takes logits (P, G, 2) and which of the phrases are true and false (P, G):

    >>> sure = torch.tensor([[[-9.0, 9.0], [9.0, -9.0]]])
    >>> true = torch.tensor([[True, False]])
    >>> bool(PhraseMatchingLoss()(sure, true, ~true) < 1e-3)
    True
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, logits: Tensor, true: Tensor, false: Tensor, *totals: Tensor) -> Tensor:
        return self.weight * phrase_matching_loss(logits, true, false, totals or None)
