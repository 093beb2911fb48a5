"""Global association: image and caption embeddings follow the batch's identity structure (CADA;
its code calls this loss NDF)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.registry import MODELS


def global_association_loss(
    image_embed: Tensor, text_embed: Tensor, person_ids: Tensor, scale: float = 50.0, eps: float = 1e-8
) -> Tensor:
    """Symmetric Kullback-Leibler divergence between similarities and shared identity, plus a soft-label cross-entropy.

    With S = scale * v t^T, P = softmax(S) by row and Q_ij = [id_i = id_j] normalised by row, one direction is
    ``mean_ij(P (log P - log(Q+eps)) + Q (log(Q+eps) - log P)) + mean_i CE(S_i, Q_i)``: the divergences are means over
    the B*B entries, the cross-entropy is a mean over the B rows. The result is the mean of both directions.

    Args:
        image_embed, text_embed: (B, D), l2-normalised, row i of both from the same pair.
        person_ids: (B,).
        scale: 1/temperature; fixed at 1/0.02 in the released code.
        eps: keeps log Q finite. It is below the range of half precision, so everything is computed in fp32.
    """
    with torch.autocast(image_embed.device.type, enabled=False):
        similarity = scale * image_embed.float() @ text_embed.float().T  # (B, B)
        target = (person_ids[:, None] == person_ids[None, :]).float()
        target = target / target.sum(1, keepdim=True)  # rows of one person have the same sum: it serves both directions
        return (_one_direction(similarity, target, eps) + _one_direction(similarity.T, target, eps)) / 2


def _one_direction(similarity: Tensor, target: Tensor, eps: float) -> Tensor:
    log_p = F.log_softmax(similarity, dim=1)
    log_q = (target + eps).log()
    divergence = log_p.exp() * (log_p - log_q) + target * (log_q - log_p)
    return divergence.mean() - (target * log_p).sum(1).mean()


@MODELS.register_module()
class GlobalAssociationLoss(nn.Module):
    """:func:`global_association_loss` with its settings: CADA's loss on the embeddings of the two encoders.

    All images and captions of a person count as right, so it suits batches in which people occur several times. It goes
    beyond ``SDMLoss`` by the reverse divergence and a cross-entropy with soft labels. Cost: one (B, B) product.

    Args:
        scale: 1/temperature, 1/0.02 in the released code; it multiplies the cosines.
        weight: factor of the loss.

    Takes embeddings (B, D), l2-normalised, and person ids (B,):

    >>> loss = GlobalAssociationLoss()
    >>> eye = torch.eye(4)
    >>> bool(loss(eye, eye, torch.arange(4)) < loss(eye, eye.flip(0), torch.arange(4)))
    True
    """

    def __init__(self, scale: float = 50.0, weight: float = 1.0) -> None:
        super().__init__()
        self.scale, self.weight = scale, weight

    def forward(self, image_embed: Tensor, text_embed: Tensor, person_ids: Tensor) -> Tensor:
        return self.weight * global_association_loss(image_embed, text_embed, person_ids, self.scale)
