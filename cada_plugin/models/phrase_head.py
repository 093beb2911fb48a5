"""Is this attribute phrase true of the image? A head that asks the image tokens with one phrase at a time (ours).

ATP labels every group of a wrong pair "no match", although most phrases of a similar wrong caption are true of the
picture, and each of its states has seen the whole caption. Here a phrase is nothing but the mean of its word
embeddings. It attends to the image once, and what it finds is compared with what it expects. So a phrase is judged
alike in every caption, and to judge it costs next to nothing beside the fusion decoder.

Shape letters: I images, S image tokens, C width, H heads, E width of a head, R rows of phrases, L phrases in a row.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.models.cross_modal import merge_heads, split_heads


class Questions(NamedTuple):
    """What phrases ask of images."""

    query: Tensor
    """(..., C), where they look."""
    expected: Tensor
    """(..., C), what they expect to find there."""
    prior: Tensor
    """(..., 1), log-odds before anything is seen."""


class PhraseHead(nn.Module):
    """Log-odds that phrases are true of images.

    Args:
        width, heads: of the attention; ``width`` is that of the word embeddings.
        image_width: width of the image tokens.
    """

    def __init__(self, width: int, heads: int, image_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_words = nn.LayerNorm(width)
        self.reader = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.LayerNorm(width)
        )
        self.query, self.expected, self.prior = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)
        self.key, self.value = nn.Linear(image_width, width), nn.Linear(image_width, width)
        self.norm_found = nn.LayerNorm(width)
        nn.init.constant_(self.prior.bias, -2.0)  # most phrases of others are false, see RetinaNet's prior (ICCV 2017)

    def memory(self, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens (I, S, C_image) -> keys and values, each (I, H, S, E)."""
        key, value = (split_heads(project(image_tokens), self.heads) for project in (self.key, self.value))
        return key, value

    def ask(self, phrases: Tensor) -> Questions:
        """Means of the word embeddings of phrases (..., C)."""
        read = self.reader(self.norm_words(phrases))
        return Questions(self.query(read), self.expected(read), self.prior(read))

    def judge(self, questions: Questions, key: Tensor, value: Tensor) -> Tensor:
        """Log-odds (R, L), fp32: row by row L questions about one image, whose keys and values are (R, H, S, E). If all
        rows ask the same, one row of questions will do."""
        query = split_heads(questions.query, self.heads).expand(key.shape[0], -1, -1, -1)  # (R, H, L, E)
        found = self.norm_found(merge_heads(F.scaled_dot_product_attention(query, key, value)))  # (R, L, C)
        agreement = (found * questions.expected).sum(-1).float() / found.shape[-1] ** 0.5
        return agreement + questions.prior[..., 0].float()
