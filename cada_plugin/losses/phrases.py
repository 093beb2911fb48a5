"""Judging attribute phrases of which it is known whether they are true of an image (ours)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.registry import MODELS


def phrase_matching_loss(log_odds: Tensor, truths: Tensor, total: Tensor | float | None = None) -> Tensor:
    """Binary cross-entropy of phrases, over those whose truth is known, divided by the number of true ones.

    A caption has few true phrases and many false ones, and a mean over all would fall with every false one that is
    easy. Dividing by the number of positives is what RetinaNet does for the same reason (Lin et al., ICCV 2017).

    Args:
        log_odds: (B, N), of N phrases for B images.
        truths: (B, N), 1 for true, 0 for false, -1 for not known.
        total: what to divide by in place of the number of true ones; several processes pass their mean number.
    """
    true = truths == 1
    each = F.binary_cross_entropy_with_logits(log_odds.float(), true.float(), reduction="none")
    total = true.sum() if total is None else torch.as_tensor(total, device=log_odds.device)
    return (each * (truths >= 0)).sum() / total.clamp_min(1e-6)


@MODELS.register_module()
class PhraseMatchingLoss(nn.Module):
    """:func:`phrase_matching_loss` times a weight: is this attribute phrase true of this image?

    ATP labels every group of a wrong pair "no match", although most phrases of a similar wrong caption are true of the
    picture. Here each phrase of a batch is judged with each of its images, of whose person the captions say enough: of
    "a man in a red coat", "a red coat" is true, "a blue coat" and "a woman" are false, and "black boots" is not known.
    Use it where the evidence of single phrases matters, as in explanations.

    Args:
        weight: factor of the loss.

    Takes log-odds (B, N) and truths (B, N), 1, 0 or -1 for not known:

    >>> log_odds, truths = torch.tensor([[9.0, -9.0, 3.0]]), torch.tensor([[1, 0, -1]])
    >>> bool(PhraseMatchingLoss()(log_odds, truths) < 1e-3)
    True
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, log_odds: Tensor, truths: Tensor, total: Tensor | float | None = None) -> Tensor:
        return self.weight * phrase_matching_loss(log_odds, truths, total)
