"""Two-stage retrieval of images by captions, both of which are already encoded.

The evaluation loops and ``Retriever.search`` both call :func:`retrieve`, so reported metrics and search results come
from the same code.
"""

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from cada_plugin.evaluation.result import TwoStageScores, stage_one_shortlist
from cada_plugin.models.retriever import ImageFeatures, TextFeatures, TextImageRetriever
from cada_plugin.retrieval.rerank import match_shortlists


def reranks(model: TextImageRetriever, rerank_topk: int) -> bool:
    """Whether retrieval with this model and shortlist length has a second stage."""
    return model.can_match and rerank_topk > 0


@torch.no_grad()
def retrieve(
    model: TextImageRetriever,
    texts: TextFeatures,
    images: ImageFeatures,
    rerank_topk: int,
    cosine_weight: float = 1.0,
    token_rows: Tensor | None = None,
    progress: bool = False,
) -> TwoStageScores:
    """Rank G images for each of Q captions.

    Stage 1 compares embeddings, on the device of the image embeddings. If the model has a match head, stage 2 computes
    match logits for the ``rerank_topk`` best images of each caption. With several processes, each one matches the pairs
    of the images whose tokens it holds, and all processes return the same scores.

    Args:
        model: the model, in eval mode.
        texts: features of all Q captions.
        images: embeddings (G, D) of the whole gallery, and the tokens (I, 1+N, C) that this process holds, on any
            device. Without tokens (None) there is no second stage.
        rerank_topk: K, the length of the shortlist; 0 for stage 1 alone. If the gallery is smaller, all of it is
            matched.
        cosine_weight: weight of the cosine that is added to the match logit.
        token_rows: (G,) long, the row of each gallery image in ``images.tokens``, -1 if another process holds it. None
            means that row g belongs to image g.
        progress: show a progress bar over the pairs.
    """
    embed = texts.embed.to(images.embed.device)
    if not reranks(model, rerank_topk) or images.tokens is None:
        return TwoStageScores(text_embed=embed, image_embed=images.embed)
    if token_rows is None:
        token_rows = torch.arange(len(images.embed))
    shortlist = stage_one_shortlist(embed, images.embed, min(rerank_topk, len(images.embed)))  # (Q, K)
    logits = match_shortlists(model, texts, images.tokens, token_rows, shortlist.cpu(), progress=progress)
    # Each pair is matched by exactly one process. The others contribute 0, so the sum is exactly that logit.
    logits = logits.masked_fill(token_rows[shortlist.cpu()] < 0, 0.0)
    all_reduce(logits)
    return TwoStageScores(
        text_embed=embed,
        image_embed=images.embed,
        shortlist=shortlist,
        match_logits=logits.to(embed.device),
        cosine_weight=cosine_weight,
    )
