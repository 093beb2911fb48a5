"""Where the match head looks: attention times gradient at one cross-attention layer, for one caption and one image.

As in ALBEF (Li et al., NeurIPS 2021, arXiv 2107.07651; ``visualization.ipynb`` of its code) and in LAVIS: the weights
with which text tokens attend to image patches are multiplied with the gradient of the match logit with respect to
them, where it is positive, and averaged over the heads; the class token of the image is left out. Without the gradient
the maps are nearly the same for every word (LAVIS issue 336).

Shape letters: T text tokens, S image tokens, N = S - 1 patches, H heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cada_plugin.errors import ConfigError
from cada_plugin.models.retriever import TextFeatures, TextImageRetriever


class TokenMaps(NamedTuple):
    """Maps of every text token over the patches, in host memory."""

    evidence: Tensor
    """(T, N) attention times positive gradient, mean over heads."""
    attention: Tensor
    """(T, N) attention alone, mean over heads: the baseline without the gradient."""
    layer: int
    """From 0."""


def default_layer(layers: int) -> int:
    """The layer that maps are made at, from 0, of so many layers with cross-attention: the middle one of those that
    can be used. It is the third of ALBEF's six, which localises best there (ALBEF issue 43), and the better one of the
    small CADA on validation people of the camera world (docs/explain.md)."""
    return (layers - 2) // 2


def token_maps(
    model: TextImageRetriever, texts: TextFeatures, image_tokens: Tensor, layer: int | None = None
) -> TokenMaps:
    """The maps of one caption over one image.

    Args:
        model: in eval mode. Its parameters need no gradient, and get none.
        texts: ids and mask of one caption without padding, (1, T).
        image_tokens: (1, S, C), the class token first.
        layer: from 0; by default :func:`default_layer`. The last one cannot be used: there only the first token's
            state reaches the match head, so that words have no gradient.

    Raises:
        ConfigError: there is no such layer, or the model gives no maps.
    """
    if not hasattr(model, "match_with_maps"):
        raise ConfigError(
            f"{type(model).__name__} matches, but tells nothing of its attention: write match_with_maps as "
            "FusionRetriever does, or explain with a CADA or BLIP"
        )
    device = next(model.parameters()).device
    texts = TextFeatures(*(field.to(device) for field in texts))
    with torch.enable_grad():
        # A gradient is asked for where the tokens enter, so that attention has one also in a model of frozen weights.
        tokens = image_tokens.to(device).float().detach().requires_grad_()
        logit, maps = model.match_with_maps(texts, model.image_memory(tokens))
        usable = len(maps) - 1
        if usable < 1:
            raise ConfigError(
                f"{type(model).__name__} has one layer of cross-attention, in which words have no gradient: maps need "
                "two at least"
            )
        layer = default_layer(len(maps)) if layer is None else layer
        if not 0 <= layer < usable:
            raise ConfigError(
                f"layer={layer}: use one from 0 to {usable - 1}. In the last of the {len(maps)} layers only the first "
                "token reaches the match head, so that words have no gradient there"
            )
        (gradient,) = torch.autograd.grad(logit.sum(), maps[layer])  # (1, H, T, S); .grad of parameters stays as it is
    attention = maps[layer].detach()[0, :, :, 1:]  # (H, T, N)
    evidence = attention * gradient[0, :, :, 1:].clamp(min=0)
    return TokenMaps(evidence.mean(0).float().cpu(), attention.mean(0).float().cpu(), layer)


def word_means(token_values: Tensor, word_index: list[int], words: int) -> Tensor:
    """Means (W, N) over the tokens of each word.

    Args:
        token_values: (T, N).
        word_index: the word of each token, -1 for start and end.
        words: W. A word without a token gets 0.
    """
    index = torch.tensor(word_index)
    of_words = index >= 0
    sums = token_values.new_zeros(words, token_values.shape[1]).index_add(0, index[of_words], token_values[of_words])
    counts = torch.bincount(index[of_words], minlength=words)
    return sums / counts.clamp(min=1)[:, None]
