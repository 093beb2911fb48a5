"""What speaks for single phrases of a caption, as CADA sees a picture."""

import torch
from torch import Tensor

from cada_plugin.models.cada import CADA
from cada_plugin.models.groupings import group_means
from cada_plugin.models.retriever import TextFeatures
from cada_plugin.portable.explanation import IN_CAPTION, JUDGED


@torch.no_grad()
def phrase_evidence(model: CADA, input_ids: Tensor, phrase_index: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Log-odds (G,) that each of G phrases of a caption is true of an image, by two heads.

    Args:
        model: in eval mode.
        input_ids: (1, T) long, the word pieces of the caption.
        phrase_index: (1, T) long, its phrases numbered from 0 to G - 1, -1 outside of them.
        tokens: (1, S, C) of the image.

    Returns:
        ``JUDGED`` and ``IN_CAPTION``, each if the model has what it needs.
    """
    everything = torch.ones_like(input_ids, dtype=torch.bool)
    memory = model.image_memory(tokens)
    found = {}
    if model.phrase_head is not None:
        found[JUDGED] = model.phrase_logits(TextFeatures(None, input_ids, everything), phrase_index, memory)[0][0]
    if model.can_match and model.grouping is not None:
        head = model.itm_head if model.itm_local_head is None else model.itm_local_head
        states = model.fuse(input_ids, everything, memory)
        no, yes = head(group_means(states, phrase_index, int(phrase_index.max()) + 1)[0])[0].float().unbind(-1)
        found[IN_CAPTION] = yes - no
    return found
