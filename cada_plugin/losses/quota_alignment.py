"""Alignment of patches and words by optimal transport with quotas (QC-Align, "Quota-Calibrated Fine-Grained Alignment
with Context-Aware Marginals for Text-based Person Retrieval", CVPR 2026).

A caption and its picture are two sets of unit vectors, and the loss is the cost of moving one onto the other. How much
each patch and each word takes part in it is its *quota*. No code of the paper is published; what it leaves open is
chosen here and said below. Shape letters: P pairs, N patches, T words, D embedding.
"""

import torch
from torch import Tensor, nn

from cada_plugin.registry import MODELS

_NEVER = -1e4  # logarithm of the quota of padding; with -inf, gradients would be NaN
ATTENTION_SCALE = 10.0
"""Factor of the cosines before the softmax that makes attention of them (our choice)."""


def quotas(patches: Tensor, words: Tensor, is_word: Tensor) -> tuple[Tensor, Tensor]:
    """Quotas (P, N) of patches and (P, T) of words; both sum to 1, and padding has 0. They carry no gradient.

    Words attend to patches, without parameters. A word whose attended context resembles it (its cosine, where it is
    positive) has something to say about the picture, and hands its score on to the patches by its attention. Patches
    give words their quotas in the same way.

    Args:
        patches: (P, N, D) and words: (P, T, D), l2-normalised.
        is_word: (P, T) bool, False for padding.
    """
    with torch.no_grad():
        cosine = patches @ words.transpose(1, 2)  # (P, N, T)
        to_words = (ATTENTION_SCALE * cosine).masked_fill(~is_word[:, None], -torch.inf).softmax(2)  # of each patch
        to_patches = (ATTENTION_SCALE * cosine).softmax(1) * is_word[:, None]  # of each word
        word_scores = torch.cosine_similarity(words, to_patches.transpose(1, 2) @ patches, dim=-1).clamp_min(1e-3)
        patch_scores = torch.cosine_similarity(patches, to_words @ words, dim=-1).clamp_min(1e-3)
        of_patches = (to_patches * word_scores[:, None]).sum(2)
        of_words = (to_words * patch_scores[..., None]).sum(1) * is_word
        return of_patches / of_patches.sum(1, keepdim=True), of_words / of_words.sum(1, keepdim=True)


def transport_cost(cost: Tensor, a: Tensor, b: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Entropic optimal transport cost (P,): the least <plan, cost> + epsilon KL(plan | a x b) over plans whose
    marginals are a and b, after so many of Sinkhorn's iterations.

    Args:
        cost: (P, N, M).
        a, b: (P, N) and (P, M), each summing to 1; entries may be 0.
    """
    log_a, log_b = (x.clamp_min(torch.finfo(x.dtype).tiny).log().masked_fill(x == 0, _NEVER) for x in (a, b))
    g = torch.zeros_like(b)
    for _ in range(iterations):
        f = -epsilon * (log_b[:, None] + (g[:, None] - cost) / epsilon).logsumexp(2)
        g = -epsilon * (log_a[..., None] + (f[..., None] - cost) / epsilon).logsumexp(1)
    return (a * f).sum(1) + (b * g).sum(1)


def quota_alignment_loss(
    patches: Tensor, words: Tensor, is_word: Tensor, epsilon: float = 0.5, iterations: int = 20
) -> Tensor:
    """Mean Sinkhorn divergence of the P pairs: the cost between patches and words, minus half the cost within each.

    Args:
        patches: (P, N, D) and words: (P, T, D), l2-normalised; the cost is 1 - cosine.
        is_word: (P, T) bool, False for padding. A pair without words does not count.
        epsilon: weight of the entropy.
        iterations: of Sinkhorn's algorithm.
    """
    with torch.autocast(patches.device.type, enabled=False):
        patches, words = patches.float(), words.float()
        counts = is_word.any(1)
        is_word = is_word | ~counts[:, None]
        a, b = quotas(patches, words, is_word)

        def between(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
            return transport_cost(1 - x @ y.transpose(1, 2), of_x, of_y, epsilon, iterations)

        each = between(patches, words, a, b) - (between(patches, patches, a, a) + between(words, words, b, b)) / 2
        return (each * counts).sum() / counts.sum().clamp_min(1)


@MODELS.register_module()
class QuotaAlignmentLoss(nn.Module):
    """:func:`quota_alignment_loss` times a weight, for true pairs of pictures and captions.

    It has no parameters and costs nothing at test time. Use it beside other losses: alone, it would be least if all
    patches and words had one embedding. Cost: three small transport problems a pair, and the states of all words of the
    text encoder's last layer, where otherwise that of the first token is enough.

    Args:
        weight: factor of the loss; 0.5 in the paper for CADA, 1 for CLIP.
        epsilon: weight of the entropy; 0.5 in the paper.
        iterations: of Sinkhorn's algorithm (our choice).

    Takes patches (P, N, D) and words (P, T, D), l2-normalised, and which words are no padding (P, T):

    >>> eye = torch.eye(4)[None]
    >>> round(QuotaAlignmentLoss()(eye, eye, torch.ones(1, 4, dtype=torch.bool)).item(), 4)
    0.0
    """

    def __init__(self, weight: float = 0.5, epsilon: float = 0.5, iterations: int = 20) -> None:
        super().__init__()
        self.weight, self.epsilon, self.iterations = weight, epsilon, iterations

    def forward(self, patches: Tensor, words: Tensor, is_word: Tensor) -> Tensor:
        return self.weight * quota_alignment_loss(patches, words, is_word, self.epsilon, self.iterations)
