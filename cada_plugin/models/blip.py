"""BLIP fine-tuned for retrieval (Li et al., "BLIP: Bootstrapping language-image pre-training", ICML 2022): what CADA
starts from, without CADA's additions."""

from torch import Tensor

from cada_plugin.models.fusion import FusionRetriever
from cada_plugin.models.negatives import sampled_negatives, similarities
from cada_plugin.registry import MODELS, build_part


@MODELS.register_module()
class BLIP(FusionRetriever):
    """ITC between the embeddings of the two encoders, and ITM: the fused ``[ENC]`` state says whether a caption matches
    an image. Negatives are sampled in proportion to the softmax of ITC's similarities, never of the same person.

    BLIP's own fine-tuning also keeps momentum encoders and queues of negatives. Both are left out here: the batch
    holds the only negatives.

    Args:
        loss_itc: see ``InfoNCELoss``; its scale is also the scale by which negatives are sampled.
        loss_itm: see ``MatchingLoss``.
        parts: arguments of :class:`FusionRetriever`.
    """

    def __init__(self, loss_itc: dict, loss_itm: dict, **parts: object) -> None:
        super().__init__(**parts)
        self.loss_itc, self.loss_itm = build_part(MODELS, loss_itc), build_part(MODELS, loss_itm)

    def choose_negatives(self, own: Tensor, others: Tensor, same: Tensor) -> Tensor:
        return sampled_negatives(similarities(own, others, normalise=True), same, self.loss_itc.scale.detach())

    def loss(self, inputs: dict, data_samples: list) -> dict[str, Tensor]:
        """``loss_itc`` and ``loss_itm`` of one batch: ``images`` (B, 3, H, W), ``input_ids`` and ``attention_mask``
        (B, T), and B samples with ``person_id``."""
        pairs = self.encode_pairs(inputs, data_samples)
        fused = self.fuse_with_negatives(inputs, pairs, first_only=True)
        return {
            "loss_itc": self.contrast(self.loss_itc, pairs),
            "loss_itm": self.loss_itm(self.itm_head(fused.states[:, 0]), fused.matched),
        }
