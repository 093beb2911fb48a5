"""TAL, triplet alignment loss (RDE; Qin et al., "Noisy-correspondence learning for text-to-image person
re-identification", CVPR 2024, section 3.4): a triplet loss whose hardest negative is softened to a log-sum-exp."""

import torch
from torch import Tensor, nn

from cada_plugin.registry import MODELS


def triplet_alignment_losses(
    image_embed: Tensor, text_embed: Tensor, person_ids: Tensor, margin: float = 0.1, temperature: float = 0.015
) -> Tensor:
    """Loss of each pair (B,), its row's and its column's added.

    With s the cosines and alpha the softmax of s/temperature over the positives of a row, without gradient, a row gives
    max(0, margin - sum_j alpha_ij s_ij + temperature * log sum_{j negative} exp(s_ij / temperature)). A row without
    negatives gives 0.

    Args:
        image_embed, text_embed: (B, D), l2-normalised, row i of both from the same pair.
        person_ids: (B,); pairs of one person are positives of each other.
    """
    with torch.autocast(image_embed.device.type, enabled=False):
        similarity = text_embed.float() @ image_embed.float().T  # (B, B)
        same = person_ids[:, None] == person_ids[None, :]
        contrasted = ~same.all(1)  # (B,) has a negative; the gradient of an empty log-sum-exp would be NaN
        losses = []
        for rows in (similarity, similarity.T):
            scaled = rows / temperature
            alpha = scaled.detach().masked_fill(~same, -torch.inf).softmax(1)
            positive = (alpha * rows).sum(1)
            negative = temperature * scaled.masked_fill(same & contrasted[:, None], -torch.inf).logsumexp(1)
            losses.append((margin - positive + negative).clamp_min(0) * contrasted)
        return losses[0] + losses[1]


@MODELS.register_module()
class TripletAlignmentLoss(nn.Module):
    """:func:`triplet_alignment_losses` with its settings: a triplet loss that forgives a single wrong negative.

    Use it where captions may describe somebody else: a hard triplet loss would chase such pairs. Unlike its siblings it
    returns one loss for each pair, so that a model can leave pairs out (RDE); with ``mean=True`` it takes the place of
    ``SDMLoss`` or ``GlobalAssociationLoss`` in other models. Cost: one (B, B) product.

    Args:
        margin: by which a right pair must win.
        temperature: divides the cosines; the smaller it is, the more the hardest negative counts alone.
        weight: factor of the losses.
        mean: give the mean over the pairs.

    Takes embeddings (B, D), l2-normalised, and person ids (B,); gives losses (B,), or their mean:

    >>> eye = torch.eye(4)
    >>> TripletAlignmentLoss()(eye, eye, torch.arange(4)).tolist()
    [0.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self, margin: float = 0.1, temperature: float = 0.015, weight: float = 1.0, mean: bool = False
    ) -> None:
        super().__init__()
        self.margin, self.temperature, self.weight, self.mean = margin, temperature, weight, mean

    def forward(self, image_embed: Tensor, text_embed: Tensor, person_ids: Tensor) -> Tensor:
        losses = triplet_alignment_losses(image_embed, text_embed, person_ids, self.margin, self.temperature)
        return self.weight * (losses.mean() if self.mean else losses)
