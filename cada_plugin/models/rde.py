"""RDE (Qin et al., "Noisy-correspondence learning for text-to-image person re-identification", CVPR 2024): for
captions that may be wrong. It has two embeddings of the same encoders and a triplet loss in which no single hard
negative dominates, and leaves out training pairs that both embeddings find implausible, and half of
those on which they disagree."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.errors import ConfigError
from cada_plugin.models.distributed import gather
from cada_plugin.models.dual_encoder import DualEncoder, person_ids
from cada_plugin.models.retriever import ImageFeatures, TextFeatures
from cada_plugin.registry import MODELS, build_part


class TokenSelection(nn.Module):
    """TSE, token-selection embedding (section 3.2): takes the tokens that the pooled token attends to most, embeds each
    of them, and keeps the maximum over tokens in every dimension.

    Args:
        width_in: C of the tokens.
        width: of the embedding, E.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.padded = False  # True: no shape depends on the data, as an exported graph needs; same results, slower
        self.linear = nn.Linear(width_in, width)
        self.mlp = nn.Sequential(
            nn.Linear(width_in, width // 2), nn.BatchNorm1d(width // 2), nn.ReLU(), nn.Linear(width // 2, width)
        )

    def forward(self, tokens: Tensor, attention: Tensor, allowed: Tensor, keep: int) -> Tensor:
        """Embedding (B, E), not normalised.

        Args:
            tokens: (B, T, C).
            attention: (B, T), higher is chosen first.
            allowed: (B, T) bool, the tokens that may be chosen; at least one in each row.
            keep: tokens kept of a row, or all that are allowed if those are fewer.
        """
        if self.padded:
            return self._of_all(tokens, attention.masked_fill(~allowed, -1), allowed, keep)
        chosen = attention.masked_fill(~allowed, -1).topk(min(keep, tokens.shape[1]), dim=1).indices  # (B, K)
        real = allowed.gather(1, chosen)  # (B, K)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None] * tokens.shape[1] + chosen
        # index_select: the gradient of plain indexing is summed by racing threads
        picked = F.normalize(tokens.flatten(0, 1).index_select(0, rows[real]), dim=-1)  # (N, C), no padding
        embedded = self.linear(picked) + self.mlp(picked)  # (N, E)
        full = embedded.new_full((*chosen.shape, embedded.shape[-1]), -torch.inf)
        return full.masked_scatter(real[..., None], embedded).amax(1)

    def _of_all(self, tokens: Tensor, attention: Tensor, allowed: Tensor, keep: int) -> Tensor:
        """The same, with every token embedded and those that are not chosen left out of the maximum."""
        rank = attention.argsort(dim=1, descending=True).argsort(dim=1)  # (B, T)
        picked = F.normalize(tokens.flatten(0, 1), dim=-1)  # (B * T, C)
        embedded = (self.linear(picked) + self.mlp(picked)).unflatten(0, tokens.shape[:2])  # (B, T, E)
        return embedded.masked_fill(~(allowed & (rank < keep))[..., None], -torch.inf).amax(1)


@MODELS.register_module()
class RDE(DualEncoder):
    """The model. Its embedding is the global and the token-selection one, one after the other, so that a cosine is the
    mean of both cosines (section 3.5).

    ``ConsensusDivisionHook`` sets ``clean``, the training pairs whose loss counts (section 3.3).

    Args:
        loss_tal: see ``TripletAlignmentLoss``.
        selection_ratio: share of the image tokens, and of the longest caption, that TSE keeps.
        selection_dim: size of the TSE embedding.
        division: train on the pairs that the hook keeps, as published. Without the hook, training is refused. False
            trains on all pairs and needs no hook.
        encoders: arguments of :class:`DualEncoder`; both encoders must know ``with_attention``.
    """

    def __init__(
        self,
        loss_tal: dict,
        selection_ratio: float = 0.3,
        selection_dim: int = 1024,
        division: bool = True,
        **encoders: object,
    ) -> None:
        super().__init__(**encoders)
        for encoder in (self.visual_encoder, self.text_encoder):
            if not hasattr(encoder, "with_attention"):
                raise ConfigError(
                    f"RDE chooses tokens by attention, which {type(encoder).__name__} does not have: use a transformer"
                )
        if not 0 < selection_ratio <= 1:
            raise ConfigError(f"selection_ratio={selection_ratio}: use a number above 0 and up to 1")
        self.loss_tal = build_part(MODELS, loss_tal)
        self.ratio, self.division = selection_ratio, division
        self.image_selection = TokenSelection(self.embed_dim, selection_dim)
        self.text_selection = TokenSelection(self.embed_dim, selection_dim)
        self.clean: Tensor | None = None  # (pairs of the training split,) bool, on the CPU

    def train_without_hooks(self) -> None:
        """The losses of all pairs count from now on, as nothing divides them."""
        super().train_without_hooks()
        self.division = False

    def encode_image(self, images: Tensor) -> ImageFeatures:
        return ImageFeatures(_joined(*self._embed_images(images)), None)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> TextFeatures:
        return TextFeatures(_joined(*self._embed_texts(input_ids, attention_mask)), input_ids, attention_mask)

    def _embed_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Global (B, D) and token-selection (B, E) embedding, l2-normalised."""
        tokens, attention = self.visual_encoder.with_attention(images)
        tokens = self.vision_proj(tokens)  # (B, S, D)
        patches = torch.ones_like(attention, dtype=torch.bool)
        patches[:, 0] = False
        keep = max(int(self.ratio * (tokens.shape[1] - 1)), 1)
        selected = self.image_selection(tokens, attention, patches, keep)
        return F.normalize(tokens[:, 0].float(), dim=-1), F.normalize(selected.float(), dim=-1)

    def _embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        pooled, states, attention = self.text_encoder.with_attention(input_ids, attention_mask)
        words = attention_mask.clone()
        words[:, 0] = False
        words[torch.arange(words.shape[0], device=words.device), attention_mask.sum(1) - 1] = False
        words[:, 1] |= ~words.any(1)  # a caption of no words keeps its end token
        keep = max(int(self.ratio * (self.tokenizer.max_length - 2)), 1)
        selected = self.text_selection(self.text_proj(states), attention, words, keep)
        return F.normalize(self.text_proj(pooled).float(), dim=-1), F.normalize(selected.float(), dim=-1)

    def pair_losses(self, inputs: dict, data_samples: list) -> tuple[Tensor, Tensor]:
        """TAL of each pair of all processes (A,), by the global and by the token-selection embedding."""
        images = self._embed_images(inputs["images"])
        texts = self._embed_texts(inputs["input_ids"], inputs["attention_mask"])
        people = gather(person_ids(data_samples, images[0].device))
        return tuple(
            self.loss_tal(gather(image), gather(text), people) for image, text in zip(images, texts, strict=True)
        )

    def loss(self, inputs: dict, data_samples: list) -> dict[str, Tensor]:
        """``loss_global`` and ``loss_selection``, sums over the pairs kept.

        Raises:
            ConfigError: pairs are to be divided, and the hook that does so has not run.
        """
        if self.division and self.clean is None:
            raise ConfigError(
                "RDE trains on the pairs that its consensus division keeps, but nothing has divided them: add "
                "custom_hooks=[dict(type='cada_plugin.ConsensusDivisionHook')] to the config, or set "
                "model.division=False to train on all pairs"
            )
        by_global, by_selection = self.pair_losses(inputs, data_samples)
        kept = torch.ones(len(data_samples))
        if self.division:
            kept = self.clean[[sample.sample_index for sample in data_samples]].float()
        kept = gather(kept.to(by_global.device, non_blocking=True))
        return {"loss_global": (kept * by_global).sum(), "loss_selection": (kept * by_selection).sum()}


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """Two normalised embeddings as one, whose products are the mean of both cosines."""
    return torch.cat([first, second], -1) / 2**0.5
