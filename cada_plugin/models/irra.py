"""IRRA (Jiang and Ye, "Cross-modal implicit relation reasoning and aligning for text-to-image person retrieval", CVPR
2023): a dual encoder trained with SDM and an identity loss. A third branch predicts masked words from caption and
image, so that the encoders learn fine-grained correspondence; it is used in training only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.errors import ConfigError
from cada_plugin.models.cross_modal import masked_places
from cada_plugin.models.distributed import gather, mean_over_processes
from cada_plugin.models.dual_encoder import DualEncoder, class_labels
from cada_plugin.registry import MODELS, build_part


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class RelationReasoning(nn.Module):
    """IRR (section 3.2): masked captions attend to the image in one cross-attention layer and pass a small
    transformer, which predicts the masked words.

    Args:
        width: C of projected text and image tokens.
        heads: of all attentions.
        depth: of the transformer.
        vocab_size: number of word pieces.
    """

    def __init__(self, width: int, heads: int, depth: int, vocab_size: int) -> None:
        super().__init__()
        self.norm_text, self.norm_image, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.cross_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, QuickGELU(), batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.head = nn.Sequential(
            nn.Linear(width, width), QuickGELU(), nn.LayerNorm(width, eps=1e-12), nn.Linear(width, vocab_size)
        )

    def forward(self, text: Tensor, image: Tensor, attention_mask: Tensor, masked: Tensor) -> Tensor:
        """Vocabulary logits (M, V) of the M masked positions.

        Args:
            text: (B, T, C) states of the masked captions; ``attention_mask`` (B, T) bool, True for real tokens.
            image: (B, S, C).
            masked: (M,) long, the places row * T + column of the masked tokens.
        """
        image = self.norm_image(image)
        x = self.cross_attention(self.norm_text(text), image, image, need_weights=False)[0]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~attention_mask)
        return self.head(self.norm(x).flatten(0, 1).index_select(0, masked))


@MODELS.register_module()
class IRRA(DualEncoder):
    """The model. As published, its three losses have weights of 1.

    Args:
        num_classes: identities of the training split.
        loss_sdm: see ``SDMLoss``.
        loss_id: see ``IdentityLoss``; ``num_classes`` and ``embed_dim`` are filled in.
        loss_irr: of the masked words, see ``MaskedAttributeLoss``; as published with ``weight=1.0``.
        reasoning_depth, reasoning_heads: layers and heads of the relation reasoning.
        encoders: arguments of :class:`DualEncoder`.
    """

    def __init__(
        self,
        num_classes: int,
        loss_sdm: dict,
        loss_id: dict,
        loss_irr: dict,
        reasoning_depth: int = 4,
        reasoning_heads: int = 8,
        **encoders: object,
    ) -> None:
        super().__init__(**encoders)
        self.num_classes = num_classes
        self.loss_sdm, self.loss_irr = build_part(MODELS, loss_sdm), build_part(MODELS, loss_irr)
        self.loss_id = build_part(MODELS, {"num_classes": num_classes, "embed_dim": self.embed_dim, **loss_id})
        self.reasoning = RelationReasoning(self.embed_dim, reasoning_heads, reasoning_depth, len(self.tokenizer))

    def loss(self, inputs: dict, data_samples: list) -> dict[str, Tensor]:
        """``loss_sdm``, ``loss_id`` and ``loss_irr`` of one batch.

        Args:
            inputs: ``images`` (B, 3, H, W), ``input_ids``, ``attention_mask``, ``masked_ids`` and
                ``masked_positions`` (B, T).
            data_samples: B samples with ``label``.
        """
        if "masked_ids" not in inputs:
            raise ConfigError("IRRA needs masked captions: add dict(type='MaskTokens') to the training pipeline")
        image_tokens = self.vision_proj(self.visual_encoder(inputs["images"]))  # (B, S, D)
        text = self.text_proj(self.text_encoder(inputs["input_ids"], inputs["attention_mask"])[0]).float()  # (B, D)
        image = image_tokens[:, 0].float()
        labels = class_labels(data_samples, self.num_classes, image.device)
        all_image, all_text = (F.normalize(gather(x), dim=-1) for x in (image, text))

        masked = masked_places(inputs)  # (M,)
        states = self.text_proj(self.text_encoder(inputs["masked_ids"], inputs["attention_mask"])[1])  # (B, T, D)
        logits = self.reasoning(states, image_tokens, inputs["attention_mask"], masked)  # (M, V)
        words = inputs["input_ids"].flatten().index_select(0, masked)
        return {
            "loss_sdm": self.loss_sdm(all_image, all_text, gather(labels)),
            "loss_id": self.loss_id(image, text, labels),
            "loss_irr": self.loss_irr(logits, words, mean_over_processes(inputs["masked_positions"].sum())),
        }
