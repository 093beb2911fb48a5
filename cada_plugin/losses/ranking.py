"""Ranking by the match head: the true pair before the wrong ones, by the very score that re-ranks (ours)."""

import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.errors import ConfigError
from cada_plugin.registry import MODELS


def ranking_loss(true: Tensor, wrong: Tensor) -> Tensor:
    """Mean of log(1 + sum of exp(wrong - true)): the negative log of the probability that softmax gives the true one,
    which is ListNet's loss where one item is right (Cao et al., ICML 2007). With one wrong score it is the pairwise
    logistic loss of RankNet (Burges et al., ICML 2005).

    Args:
        true: (B,) scores of true pairs.
        wrong: (B, N) scores of wrong ones for each; -inf is none.
    """
    margins = wrong.float() - true.float()[:, None]
    return F.pad(margins, (1, 0)).logsumexp(1).mean()


@MODELS.register_module()
class MatchRankingLoss(nn.Module):
    """:func:`ranking_loss` times a weight, of match logit + ``cosine_weight`` * cosine.

    ``MatchingLoss`` asks of each pair alone whether it matches, but re-ranking compares images for one caption, and
    adds the cosine. Here a caption's own image has to come before similar wrong ones, by the score of the final list,
    so that the match head learns what the cosine does not tell; and an image's own caption before a wrong one.

    Args:
        weight: factor of the loss.
        cosine_weight: that of the evaluation, ``test_cfg.cosine_weight``. The cosine gets no gradient from here. The
            wrong captions, some of which are false copies without an embedding, are compared by their logits alone.
        negatives: with how many wrong images a caption is compared. The first one is that of ``MatchingLoss``, which
            costs next to nothing; each further one is a pass of the fusion decoder over the captions of the batch.

    Takes the match logits of true pairs (B,), of captions with wrong images (B, N) and of images with a wrong caption
    (B,), and the cosines of the first two; a logit of -inf is none:

    >>> from torch import tensor
    >>> loss = MatchRankingLoss(cosine_weight=10.0)
    >>> close = loss(tensor([2.0]), tensor([[0.0]]), tensor([0.0]), tensor([0.5]), tensor([[0.6]]))
    >>> bool(close > loss(tensor([2.0]), tensor([[0.0]]), tensor([0.0]), tensor([0.6]), tensor([[0.5]])))
    True
    """

    def __init__(self, weight: float = 1.0, cosine_weight: float = 1.0, negatives: int = 1) -> None:
        super().__init__()
        if isinstance(negatives, bool) or not isinstance(negatives, int) or negatives < 1:
            raise ConfigError(f"MatchRankingLoss negatives={negatives!r}: use a whole number from 1, such as 5")
        self.weight, self.cosine_weight, self.negatives = weight, cosine_weight, negatives

    def forward(
        self, true: Tensor, wrong_images: Tensor, wrong_text: Tensor, true_cosine: Tensor, wrong_cosines: Tensor
    ) -> Tensor:
        behind = self.cosine_weight * (wrong_cosines - true_cosine[:, None]).detach()  # (B, N)
        images = ranking_loss(true, wrong_images + behind)
        return self.weight * (images + ranking_loss(true, wrong_text[:, None]))
