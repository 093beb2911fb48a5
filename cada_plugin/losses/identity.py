"""Identity classification: image and caption of a person fall into the same class (IRRA's ID loss)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.registry import MODELS


@MODELS.register_module()
class IdentityLoss(nn.Module):
    """Cross-entropy of one linear classifier on images and on captions, mean of the two (Jiang and Ye, "Cross-modal
    implicit relation reasoning and aligning for text-to-image person retrieval", CVPR 2023, equation 9).

    Use it beside a contrastive loss, to keep people apart who never meet in one batch. It needs identities numbered
    from 0, and learns nothing about people outside of the training split. Cost: a matrix of num_classes x D.

    Args:
        num_classes: identities of the training split.
        embed_dim: D.
        weight: factor of the loss.

    Takes features (B, D) and labels (B,):

    >>> loss = IdentityLoss(num_classes=5, embed_dim=4)
    >>> bool(loss(torch.eye(4), torch.eye(4), torch.arange(4)).isfinite())
    True
    """

    def __init__(self, num_classes: int, embed_dim: int, weight: float = 1.0) -> None:
        super().__init__()
        self.classifier = nn.Linear(embed_dim, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)
        self.weight = weight

    def forward(self, image: Tensor, text: Tensor, labels: Tensor) -> Tensor:
        """Features (B, D) before normalisation, labels (B,) in 0..num_classes-1."""
        with torch.autocast(image.device.type, enabled=False):
            losses = [F.cross_entropy(self.classifier(x.float()), labels) for x in (image, text)]
            return self.weight * sum(losses) / 2
