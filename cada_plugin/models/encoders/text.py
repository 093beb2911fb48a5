"""Text encoders of dual encoders: BERT without cross-attention, and a bidirectional LSTM."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cada_plugin.models.cross_modal import CrossModalBert
from cada_plugin.models.encoders.attention import attention_row, inputs_of
from cada_plugin.registry import MODELS


@MODELS.register_module()
class BertTextEncoder(CrossModalBert):
    """BERT, pooled at ``[CLS]``. It loads the weights of CADA's text encoder, because its parameters have the same
    names.

    Args:
        bert: arguments of :class:`CrossModalBert`.
    """

    def __init__(self, **bert: object) -> None:
        super().__init__(cross_attention=False, **bert)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask (Q, T) -> pooled (Q, C), states (Q, T, C)."""
        states = super().forward(input_ids, attention_mask)
        return states[:, 0], states

    def with_attention(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Like ``forward``, and the attention (Q, T) of ``[CLS]`` to each token in the last layer, averaged over
        heads."""
        attention = self.encoder.layer[-1].attention
        with inputs_of(attention) as seen:
            states = super().forward(input_ids, attention_mask, compute_padding=True)
        first = torch.zeros(states.shape[0], dtype=torch.long, device=states.device)
        inputs = seen[0].view_as(states)
        row = attention_row(inputs, first, attention.self.query, attention.self.key, attention.heads, attention_mask)
        return states[:, 0], states, row


@MODELS.register_module()
class BiLSTMEncoder(nn.Module):
    """A bidirectional LSTM over word embeddings, max-pooled over time (Zhang and Lu, ECCV 2018, section 3.1).

    Args:
        vocab_size: number of word pieces.
        word_width: width of the word embedding.
        hidden: width of each direction; the states are twice as wide.
        dropout: rate for the word embedding.
    """

    def __init__(self, vocab_size: int, word_width: int = 512, hidden: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, word_width, padding_idx=0)
        self.lstm = nn.LSTM(word_width, hidden, batch_first=True, bidirectional=True)
        self.dropout, self.width = dropout, 2 * hidden

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask (Q, T) -> pooled (Q, C), states (Q, T, C)."""
        words = F.dropout(self.word_embeddings(input_ids), self.dropout, self.training)
        # packed, so that the backward direction starts at the last word and not at the padding
        packed = pack_padded_sequence(words, attention_mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=input_ids.shape[1])
        return states.masked_fill(~attention_mask[..., None], -torch.inf).amax(1), states
