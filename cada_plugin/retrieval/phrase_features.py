"""What speaks for single phrases of a caption, as CADA sees a picture."""

import torch
from torch import Tensor

from cada_plugin.models.cada import CADA
from cada_plugin.models.groupings import group_means
from cada_plugin.models.retriever import TextFeatures


@torch.no_grad()
def phrase_features(model: CADA, input_ids: Tensor, phrase_index: Tensor, tokens: Tensor) -> Tensor:
    """What the probability is made of that each of G phrases of a caption is true of an image.

    Args:
        model: in eval mode, built with ``loss_phrases``.
        input_ids: (1, T) long, the word pieces of the caption.
        phrase_index: (1, T) long, its phrases numbered from 0 to G - 1, -1 outside of them.
        tokens: (1, S, C) of the image.

    Returns:
        (G, 1) the log-odds of each phrase, judged for itself; or (G, 2), beside them how well the caption fits as a
        whole: the mean over its phrases of the log-odds by the head that ATP trains on groups of tokens, if there is
        one.
    """
    everything = torch.ones_like(input_ids, dtype=torch.bool)
    memory = model.image_memory(tokens)
    log_odds = model.phrase_logits(TextFeatures(None, input_ids, everything), phrase_index, memory)[0][0]
    if not model.can_match or model.grouping is None:
        return log_odds[:, None]
    head = model.itm_head if model.itm_local_head is None else model.itm_local_head
    means, _ = group_means(model.fuse(input_ids, everything, memory), phrase_index, len(log_odds))
    no, yes = head(means)[0].float().unbind(-1)
    return torch.stack([log_odds, (yes - no).mean().expand_as(log_odds)], dim=1)
