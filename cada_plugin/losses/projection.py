"""CMPM and CMPC, cross-modal projection matching and classification (Zhang and Lu, ECCV 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.registry import MODELS


def projection_matching_loss(image: Tensor, text: Tensor, person_ids: Tensor, eps: float = 1e-8) -> Tensor:
    """CMPM (section 3.2): divergence of the softmax of projections from the batch's identity structure.

    With t^ the normalised text, p = softmax over j of (v_i . t^_j) and q_ij = [y_i = y_j] / sum_k [y_i = y_k], one
    direction is mean_i sum_j p_ij log(p_ij / (q_ij + eps)); the other exchanges the roles; the result is their sum. A
    widespread implementation divides [y_i = y_j] by the row's l2 norm; the paper, and this, by its sum.

    Args:
        image, text: (B, D), *not* normalised: the length of the projected one is part of the loss.
        person_ids: (B,).
    """
    with torch.autocast(image.device.type, enabled=False):
        image, text = image.float(), text.float()
        target = (person_ids[:, None] == person_ids[None, :]).float()
        log_q = (target / target.sum(1, keepdim=True) + eps).log()
        loss = image.new_zeros(())
        for own, other in ((image, text), (text, image)):
            log_p = F.log_softmax(own @ F.normalize(other, dim=-1).T, dim=1)
            loss = loss + (log_p.exp() * (log_p - log_q)).sum(1).mean()
        return loss


def projection_classification_loss(image: Tensor, text: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """CMPC (section 3.3): each feature, projected on its partner's direction, is classified by normalised weights.

    Args:
        image, text: (B, D), not normalised.
        labels: (B,) class of each pair.
        weight: (classes, D), normalised here.
    """
    with torch.autocast(image.device.type, enabled=False):
        image, text, weight = image.float(), text.float(), F.normalize(weight.float(), dim=-1)
        loss = image.new_zeros(())
        for own, other in ((image, F.normalize(text, dim=-1)), (text, F.normalize(image, dim=-1))):
            projected = (own * other).sum(1, keepdim=True) * other  # (B, D)
            loss = loss + F.cross_entropy(projected @ weight.T, labels)
        return loss


@MODELS.register_module()
class CMPMLoss(nn.Module):
    """:func:`projection_matching_loss` times a weight: the contrastive loss of CNN and LSTM baselines.

    Unlike the cosine losses it takes features that are *not* normalised, and their lengths take part. ``SDMLoss`` is
    its successor on normalised embeddings. Cost: two (B, B) products.

    Args:
        weight: factor of the loss.

    Takes features (B, D) and person ids (B,):

    >>> far = 50 * torch.eye(3)
    >>> bool(CMPMLoss()(far, far, torch.arange(3)) < CMPMLoss()(far, far.flip(0), torch.arange(3)))
    True
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, image: Tensor, text: Tensor, person_ids: Tensor) -> Tensor:
        return self.weight * projection_matching_loss(image, text, person_ids)


@MODELS.register_module()
class CMPCLoss(nn.Module):
    """:func:`projection_classification_loss` with its class weights: the classifier that goes with ``CMPMLoss``.

    Args:
        num_classes: identities of the training split.
        embed_dim: D.
        weight: factor of the loss.

    Takes features (B, D), not normalised, and labels (B,) from 0:

    >>> loss = CMPCLoss(num_classes=5, embed_dim=4)
    >>> bool(loss(torch.eye(4), torch.eye(4), torch.arange(4)).isfinite())
    True
    """

    def __init__(self, num_classes: int, embed_dim: int, weight: float = 1.0) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.empty(num_classes, embed_dim))
        nn.init.xavier_uniform_(self.classes)
        self.weight = weight

    def forward(self, image: Tensor, text: Tensor, labels: Tensor) -> Tensor:
        return self.weight * projection_classification_loss(image, text, labels, self.classes)
