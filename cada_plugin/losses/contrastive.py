"""InfoNCE: a pair's own partner against all others of the batch (CLIP; "ITC" in ALBEF and BLIP)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.errors import ConfigError
from cada_plugin.registry import MODELS

MAX_SCALE = 100.0  # CLIP clamps the learnt scale here


def info_nce_loss(
    image_embed: Tensor, text_embed: Tensor, scale: float | Tensor, person_ids: Tensor | None = None
) -> Tensor:
    """Cross-entropy of scaled cosines with the diagonal as target, mean of both directions (Radford et al., "Learning
    transferable visual models from natural language supervision", ICML 2021, Figure 3).

    Args:
        image_embed, text_embed: (B, D), l2-normalised, row i of both from the same pair.
        scale: 1/temperature; it multiplies the cosines.
        person_ids: (B,). If given, all pairs of a person share the target evenly; with the diagonal alone, the other
            pairs of a person count as wrong.
    """
    with torch.autocast(image_embed.device.type, enabled=False):
        similarity = scale * image_embed.float() @ text_embed.float().T  # (B, B)
        if person_ids is None:
            target = torch.eye(len(similarity), device=similarity.device)
        else:
            target = (person_ids[:, None] == person_ids[None, :]).float()
            target = target / target.sum(1, keepdim=True)
        return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


@MODELS.register_module()
class InfoNCELoss(nn.Module):
    """:func:`info_nce_loss` with its settings: pulls each caption to its own image and pushes it from all others.

    The standard loss of CLIP, and "ITC" of ALBEF and BLIP. Use it as the plain baseline of a dual encoder. With several
    captions or images of a person in a batch, ``GlobalAssociationLoss`` and ``SDMLoss`` fit better, because they do not
    push those apart (``soft_targets=True`` does the same here). Cost: one (B, B) product.

    Args:
        scale: 1/temperature. If it is learnt, this is its start (CLIP: 1/0.07; IRRA's baseline: 1/0.02, fixed).
        learnable: learn the scale, as the exponential of a parameter, up to 100.
        soft_targets: all pairs of a person share the target, instead of the own pair alone.
        weight: factor of the loss.

    Takes embeddings (B, D), l2-normalised, and person ids (B,):

    >>> eye = torch.eye(4)
    >>> round(InfoNCELoss(scale=1.0)(eye, eye, torch.arange(4)).item(), 4)
    0.7437
    """

    def __init__(
        self, scale: float = 1 / 0.07, learnable: bool = True, soft_targets: bool = False, weight: float = 1.0
    ) -> None:
        super().__init__()
        if not 0 < scale <= MAX_SCALE:
            raise ConfigError(f"InfoNCELoss scale={scale}: use a number above 0 and up to {MAX_SCALE:.0f}")
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learnable)
        self.soft_targets, self.weight = soft_targets, weight

    @property
    def scale(self) -> Tensor:
        """Current scale, a number with gradient."""
        return self.logit_scale.float().exp().clamp(max=MAX_SCALE)

    def forward(self, image_embed: Tensor, text_embed: Tensor, person_ids: Tensor) -> Tensor:
        people = person_ids if self.soft_targets else None
        return self.weight * info_nce_loss(image_embed, text_embed, self.scale, people)
