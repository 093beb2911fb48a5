"""What speaks for single phrases of a caption, as a model that judges phrases sees a picture."""

import torch
from torch import Tensor

from cada_plugin.models.cada import CADA
from cada_plugin.models.groupings import group_means
from cada_plugin.models.retriever import TextFeatures
from cada_plugin.portable.explanation import IN_CAPTION, JUDGED, PREDICTED


@torch.no_grad()
def phrase_evidence(model: CADA, input_ids: Tensor, phrase_index: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Evidence (G,) that each of G phrases of a caption is true of an image, by its kind.

    Args:
        model: in eval mode.
        input_ids: (1, T) long, the word pieces of the caption.
        phrase_index: (1, T) long, its phrases numbered from 0 to G - 1, -1 outside of them.
        tokens: (1, S, C) of the image.

    Returns:
        ``JUDGED``, ``IN_CAPTION`` and ``PREDICTED``, each if the model has what it needs.
    """
    everything = torch.ones_like(input_ids, dtype=torch.bool)
    memory = model.image_memory(tokens)
    phrases = int(phrase_index.max()) + 1
    found = {}
    if model.phrase_head is not None:
        found[JUDGED] = model.phrase_logits(TextFeatures(None, input_ids, everything), phrase_index, memory)[0][0]
    group_head = model.itm_head if model.itm_local_head is None else model.itm_local_head
    if model.grouping is not None and group_head is not None:
        means, _ = group_means(model.fuse(input_ids, everything, memory), phrase_index, phrases)
        no, yes = group_head(means)[0].float().unbind(-1)
        found[IN_CAPTION] = yes - no
    if model.text_decoder is not None:
        found[PREDICTED] = _log_likelihoods(model, input_ids, phrase_index, phrases, tokens)
    return found


def _log_likelihoods(model: CADA, ids: Tensor, phrase_index: Tensor, phrases: int, tokens: Tensor) -> Tensor:
    """Log-likelihood (G,) of the word pieces of each phrase, given the image and the rest of the caption."""
    decoder = model.text_decoder
    own = phrase_index == torch.arange(phrases, device=ids.device)[:, None]  # (G, T)
    copies = ids.expand(phrases, -1)
    memory = decoder.bert.image_memory(tokens).select(torch.zeros(phrases, dtype=torch.long, device=ids.device))
    logits = decoder(copies.masked_fill(own, model.tokenizer.mask_id), torch.ones_like(own), memory)  # (G, T, V)
    each = logits.float().log_softmax(-1).gather(-1, copies[..., None])[..., 0]
    return (each * own).sum(1)
