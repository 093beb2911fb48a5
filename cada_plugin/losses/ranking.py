"""Ranking by the match head: the true pair before the wrong ones, by the very score that re-ranks (ours)."""

import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.registry import MODELS


def ranking_loss(true: Tensor, wrong: Tensor) -> Tensor:
    """Mean of log(1 + exp(wrong - true)): the pairwise logistic loss of RankNet (Burges et al., ICML 2005).

    Args:
        true, wrong: (B,) scores of true pairs, and of a wrong pair for each.
    """
    return F.softplus(wrong.float() - true.float()).mean()


@MODELS.register_module()
class MatchRankingLoss(nn.Module):
    """:func:`ranking_loss` times a weight, of match logit + ``cosine_weight`` * cosine.

    ``MatchingLoss`` asks of each pair alone whether it matches, but re-ranking compares images for one caption, and
    adds the cosine. Here a caption's own image has to come before a similar wrong one, by the score of the final list,
    so that the match head learns what the cosine does not tell; and an image's own caption before a wrong one. The
    pairs are those of ``MatchingLoss``, so it costs next to nothing.

    Args:
        weight: factor of the loss.
        cosine_weight: that of the evaluation, ``test_cfg.cosine_weight``. The cosine gets no gradient from here. The
            wrong captions, some of which are false copies without an embedding, are compared by their logits alone.

    Takes the match logits (B,) of true pairs, of captions with a wrong image and of images with a wrong caption, and
    the cosines (B,) of the first two:

    >>> from torch import tensor
    >>> loss = MatchRankingLoss(cosine_weight=10.0)
    >>> close = loss(tensor([2.0]), tensor([0.0]), tensor([0.0]), tensor([0.5]), tensor([0.6]))
    >>> bool(close > loss(tensor([2.0]), tensor([0.0]), tensor([0.0]), tensor([0.6]), tensor([0.5])))
    True
    """

    def __init__(self, weight: float = 1.0, cosine_weight: float = 1.0) -> None:
        super().__init__()
        self.weight, self.cosine_weight = weight, cosine_weight

    def forward(
        self, true: Tensor, wrong_image: Tensor, wrong_text: Tensor, true_cosine: Tensor, wrong_cosine: Tensor
    ) -> Tensor:
        lead = self.cosine_weight * (true_cosine - wrong_cosine).detach()
        return self.weight * (ranking_loss(true + lead, wrong_image) + ranking_loss(true, wrong_text))
