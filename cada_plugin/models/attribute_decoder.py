"""Attribute decoder: a second BERT with cross-attention, which predicts masked words from text and image (ARA)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.models.cross_modal import CrossModalBert, ImageMemory, init_bert_weights
from cada_plugin.registry import MODELS


class _Transform(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(x)))


class _Predictions(nn.Module):
    """BERT's masked-language-model head. Its output matrix is tied to the word embedding."""

    def __init__(self, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        vocab_size, width = word_embeddings.weight.shape
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.transform = _Transform(width)
        self.decoder = nn.Linear(width, vocab_size)
        self.apply(init_bert_weights)
        self.decoder.weight = word_embeddings.weight
        self.decoder.bias = self.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class _Cls(nn.Module):
    def __init__(self, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        self.predictions = _Predictions(word_embeddings)


@MODELS.register_module()
class AttributeDecoder(nn.Module):
    """BERT with cross-attention and a vocabulary head, under the released names ``bert.*`` and ``cls.predictions.*``.

    Args:
        causal: let each token attend only to itself and the tokens before it. The released code kept BLIP's causal
            decoder, so a masked word is predicted from the words before it and the image. With False it is predicted
            from the whole caption, as the paper says.
        bert: arguments of :class:`CrossModalBert`.
    """

    def __init__(self, causal: bool = True, **bert: object) -> None:
        super().__init__()
        self.causal = causal
        self.bert = CrossModalBert(**bert)
        self.cls = _Cls(self.bert.embeddings.word_embeddings)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        memory: ImageMemory,
        masked: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Vocabulary logits of masked captions.

        Args:
            input_ids: (B, T) with ``[MASK]`` in place of attribute words.
            attention_mask: (B, T) bool.
            memory: keys and values of the B images, from ``self.bert.image_memory``.
            masked: (M,) long, the places row * T + column where to predict. Only they get logits, (M, V). None gives
                logits for all positions, (B, T, V).
            places: those of the real tokens, see ``CrossModalBert.forward``.
        """
        every = masked is None
        states = self.bert(
            input_ids, attention_mask, memory, causal=self.causal, compute_padding=every, places=places
        )  # (B, T, C)
        if not every:
            states = states.flatten(0, 1).index_select(0, masked)  # (M, C)
        return self.cls.predictions(states)
