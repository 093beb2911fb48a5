"""BLIP fine-tuned for retrieval (Li et al., "BLIP: Bootstrapping language-image pre-training", ICML 2022): what CADA
starts from, without CADA's additions."""

from torch import Tensor

from cada_plugin.models.cada import CADA
from cada_plugin.registry import MODELS


@MODELS.register_module()
class BLIP(CADA):
    """ITC between the encoders, and ITM: the fused ``[ENC]`` state says whether a caption matches an image. Negatives
    are drawn in proportion to the softmax of ITC's similarities, those of the same person never.

    Momentum encoders and queues, which BLIP's own fine-tuning keeps, are left out: batches are the only negatives.

    Args:
        loss_itc: see ``InfoNCELoss``; its scale is the temperature of the draw.
        loss_itm: see ``MatchingLoss``.
        parts: ``visual_encoder``, ``text_encoder``, ``tokenizer``, ``embed_dim``, ``data_preprocessor`` and
            ``init_cfg`` of :class:`CADA`.
    """

    def __init__(self, loss_itc: dict, loss_itm: dict, **parts: object) -> None:
        super().__init__(
            loss_global=loss_itc, loss_atp=loss_itm, grouping=None, num_groups=None, negatives="drawn", **parts
        )

    def draw_temperature(self) -> float | Tensor:
        return self.loss_global.scale.detach()

    def loss(self, inputs: dict, data_samples: list) -> dict[str, Tensor]:
        """``loss_itc`` and ``loss_itm`` of one batch."""
        losses = super().loss(inputs, data_samples)
        return {"loss_itc": losses["loss_global"], "loss_itm": losses["loss_atp"]}
