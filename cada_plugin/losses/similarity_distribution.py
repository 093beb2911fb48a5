"""SDM, similarity distribution matching (IRRA; Jiang and Ye, CVPR 2023, section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.registry import MODELS


def similarity_distribution_loss(
    image_embed: Tensor, text_embed: Tensor, person_ids: Tensor, scale: float = 50.0, eps: float = 1e-8
) -> Tensor:
    """KL divergence of the softmax of scaled cosines from the batch's identity structure, sum of both directions.

    With p_ij = softmax over j of (scale * cosine) and q_ij = [y_i = y_j] / sum_k [y_i = y_k], one direction is
    mean_i sum_j p_ij log(p_ij / (q_ij + eps)).

    Args:
        image_embed, text_embed: (B, D), l2-normalised, row i of both from the same pair.
        person_ids: (B,).
        scale: 1/temperature, 1/0.02 in the paper.
    """
    with torch.autocast(image_embed.device.type, enabled=False):
        similarity = scale * image_embed.float() @ text_embed.float().T  # (B, B)
        target = (person_ids[:, None] == person_ids[None, :]).float()
        log_q = (target / target.sum(1, keepdim=True) + eps).log()
        loss = similarity.new_zeros(())
        for rows in (similarity, similarity.T):
            log_p = F.log_softmax(rows, dim=1)
            loss = loss + (log_p.exp() * (log_p - log_q)).sum(1).mean()
        return loss


@MODELS.register_module()
class SDMLoss(nn.Module):
    """:func:`similarity_distribution_loss` with its settings: IRRA's loss on the embeddings of the two encoders.

    All images and captions of a person count as right. Lighter than ``GlobalAssociationLoss``, which adds the reverse
    divergence and a cross-entropy. Cost: one (B, B) product.

    Args:
        scale: 1/temperature; it multiplies the cosines.
        weight: factor of the loss.

    Takes embeddings (B, D), l2-normalised, and person ids (B,):

    >>> eye = torch.eye(4)
    >>> bool(SDMLoss()(eye, eye, torch.arange(4)) < SDMLoss()(eye, eye.flip(0), torch.arange(4)))
    True
    """

    def __init__(self, scale: float = 50.0, weight: float = 1.0) -> None:
        super().__init__()
        self.scale, self.weight = scale, weight

    def forward(self, image_embed: Tensor, text_embed: Tensor, person_ids: Tensor) -> Tensor:
        return self.weight * similarity_distribution_loss(image_embed, text_embed, person_ids, self.scale)
