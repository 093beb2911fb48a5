"""CLIP's image and text transformer (Radford et al., ICML 2021), based on transformers.

The image encoder differs from that of transformers in one thing: its position embeddings form a grid with any number of
rows and columns, so that it takes the tall images of people. The models of transformers are imported when an encoder is
built, because that takes most of a second, and few commands need them.
"""

import torch
from torch import Tensor, nn

from cada_plugin.errors import ConfigError
from cada_plugin.models.encoders.attention import attention_row, inputs_of
from cada_plugin.models.encoders.size import checked_size
from cada_plugin.registry import MODELS


@MODELS.register_module()
class CLIPVisionEncoder(nn.Module):
    """Encodes images to tokens, the class token first, after CLIP's last LayerNorm.

    Args:
        image_size: (H, W) in pixels, multiples of ``patch_size``.
        patch_size, width, depth, heads: of the transformer; the feed-forward is four times ``width``.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (224, 224),
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        height, width_px = checked_size(image_size, patch_size)
        config = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            image_size=patch_size,
            patch_size=patch_size,
        )
        model = CLIPVisionModel(config)
        self.model = getattr(model, "vision_model", model)  # transformers 5.0 wraps it once more
        del self.model.embeddings.position_embedding
        self.width, self.image_size = width, (height, width_px)
        self.grid_size = (height // patch_size, width_px // patch_size)
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid_size[0] * self.grid_size[1], width))
        nn.init.normal_(self.pos_embed, std=config.initializer_range)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> tokens (B, 1+N, C)."""
        if images.shape[-2:] != torch.Size(self.image_size):
            raise ConfigError(
                f"images are {tuple(images.shape[-2:])} (H, W) but the encoder was built for {self.image_size}: "
                "set the pipeline's resize and visual_encoder.image_size to the same size"
            )
        embeddings = self.model.embeddings
        patches = embeddings.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, N, C)
        tokens = torch.cat([embeddings.class_embedding.expand(images.shape[0], 1, -1), patches], 1) + self.pos_embed
        tokens = self.model.encoder(inputs_embeds=self.model.pre_layrnorm(tokens)).last_hidden_state
        return self.model.post_layernorm(tokens)

    def with_attention(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, and the attention (B, 1+N) of the class token to each token in the last layer (mean over heads)."""
        attention = self.model.encoder.layers[-1].self_attn
        with inputs_of(attention) as seen:
            tokens = self(images)
        first = torch.zeros(images.shape[0], dtype=torch.long, device=images.device)
        row = attention_row(seen[0], first, attention.q_proj, attention.k_proj, attention.num_heads)
        return tokens, row


@MODELS.register_module()
class CLIPTextEncoder(nn.Module):
    """Encodes captions to states after CLIP's last LayerNorm, pooled at the end-of-text token. Attention is causal.

    Args:
        vocab_size: number of byte-pair pieces.
        width, depth, heads: of the transformer; the feed-forward is four times ``width``.
        max_positions: longest caption in tokens.
    """

    def __init__(
        self, vocab_size: int = 49408, width: int = 512, depth: int = 12, heads: int = 8, max_positions: int = 77
    ) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__()
        config = CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            max_position_embeddings=max_positions,
        )
        model = CLIPTextModel(config)
        self.model = getattr(model, "text_model", model)
        self.width, self.max_positions, self.vocab_size = width, max_positions, vocab_size

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask (Q, T) -> pooled (Q, C), states (Q, T, C).

        The transformer needs no mask: attention is causal and padding follows the text, so no text token attends to it.
        """
        if input_ids.shape[1] > self.max_positions:
            raise ConfigError(
                f"a text has {input_ids.shape[1]} tokens, the text encoder only {self.max_positions} positions"
            )
        states = self.model(input_ids=input_ids).last_hidden_state
        return states[torch.arange(states.shape[0], device=states.device), attention_mask.sum(1) - 1], states

    def with_attention(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Like ``forward``, and the attention (Q, T) of the end-of-text token to each token in the last layer, averaged
        over heads."""
        attention = self.model.encoder.layers[-1].self_attn
        with inputs_of(attention) as seen:
            pooled, states = self(input_ids, attention_mask)
        end = attention_mask.sum(1) - 1
        row = attention_row(seen[0], end, attention.q_proj, attention.k_proj, attention.num_heads, attention_mask)
        return pooled, states, row
