"""ATP, association of text tokens to image patches: does this caption, and does each group of its tokens, match?"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.registry import MODELS


def matching_loss(
    pair_logits: Tensor,
    matched: Tensor,
    group_logits: Tensor | None = None,
    group_mask: Tensor | None = None,
    group_total: Tensor | float | None = None,
    group_weight: float = 1.0,
) -> Tensor:
    """Cross-entropy of match / no match on whole pairs plus the same on their token groups.

    Args:
        pair_logits: (P, 2), class 1 = match, from the fused ``[ENC]`` state.
        matched: (P,) bool or long.
        group_logits: (P, G, 2) from the mean state of each group of tokens; None leaves the second term out.
        group_mask: (P, G) bool, False where a caption has no such group.
        group_total: what to divide the second term by in place of the number of groups in ``group_mask``; several
            processes pass their mean number so that their averaged gradients are those of one.
        group_weight: factor of the second term.
    """
    labels = matched.long()
    loss = F.cross_entropy(pair_logits.float(), labels)
    if group_logits is None:
        return loss
    each = F.cross_entropy(
        group_logits.float().movedim(-1, 1), labels[:, None].expand(group_mask.shape), reduction="none"
    )
    total = group_mask.sum() if group_total is None else group_total
    groups = (each * group_mask).sum() / torch.as_tensor(total, device=each.device).clamp_min(1e-6)
    return loss + group_weight * groups


@MODELS.register_module()
class MatchingLoss(nn.Module):
    """:func:`matching_loss` times a weight: whether a caption and an image belong together, as a whole and by groups.

    "ITM" of BLIP without groups, CADA's ATP with them. It needs a model that fuses captions with images, and wrong
    pairs to contrast with, preferably hard ones. Its head is what re-ranks. The loss itself costs
    next to nothing; the three fusions for each pair of the batch (one true, two wrong) take most of a training step.

    Args:
        weight: factor of the loss.
        group_weight: factor of the part of it that is about groups: 1 in CADA, 2 in MARS.

    Takes logits (P, 2) and which pairs are true (P,); for groups also their logits (P, G, 2) and which exist (P, G):

    >>> sure = torch.tensor([[-9.0, 9.0], [9.0, -9.0]])
    >>> bool(MatchingLoss()(sure, torch.tensor([1, 0])) < 1e-3)
    True
    """

    def __init__(self, weight: float = 1.0, group_weight: float = 1.0) -> None:
        super().__init__()
        self.weight, self.group_weight = weight, group_weight

    def forward(self, pair_logits: Tensor, matched: Tensor, *groups: Tensor) -> Tensor:
        return self.weight * matching_loss(pair_logits, matched, *groups, group_weight=self.group_weight)
