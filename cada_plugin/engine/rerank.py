"""Stage 2: the match logits of every caption's shortlist, image by image.

Walking by image means that each image's keys and values are made once for all captions that shortlisted it, and that
patch tokens never leave the process that encoded them: every process scores the pairs of its own images.
"""

import torch
from torch import Tensor
from tqdm import tqdm

from cada_plugin.models.retriever import TextFeatures, TextImageRetriever


@torch.no_grad()
def match_shortlists(
    model: TextImageRetriever,
    texts: TextFeatures,
    image_tokens: Tensor,
    image_rows: Tensor,
    shortlist: Tensor,
    max_pairs: int = 256,
    progress: bool = True,
) -> Tensor:
    """Match logits (Q, K) of ``shortlist`` for the images of this process, NaN for those of others.

    Args:
        texts: all Q captions, on the model's device.
        image_tokens: (I, S, C) tokens of this process's images, on any device.
        image_rows: (G,) long, row of ``image_tokens`` that holds a gallery image, -1 if another process does.
        shortlist: (Q, K) long gallery indices.
        max_pairs: captions scored at once on one image; bounds memory, changes no score.
    """
    device = texts.input_ids.device
    Q, K = shortlist.shape
    lengths = texts.attention_mask.sum(1).cpu()
    rows = image_rows[shortlist.flatten()]  # (Q*K,) row of each pair's image
    queries = torch.arange(Q).repeat_interleave(K)
    # by image, then by caption length: what is scored together is padded to nearly its own length
    order = torch.argsort(rows * (int(lengths.max()) + 1) + lengths[queries], stable=True)
    order = order[int((rows < 0).sum()) :]
    images, counts = torch.unique_consecutive(rows[order], return_counts=True)
    logits = torch.full((Q * K,), torch.nan)
    bar = tqdm(total=len(order), desc="re-ranking", unit="pair", delay=2, disable=not progress, leave=False)
    for row, pairs in zip(images.tolist(), order.split(counts.tolist()), strict=True):
        memory = model.image_memory(image_tokens[row : row + 1].to(device, non_blocking=True))
        for chunk in pairs.split(max_pairs):
            asked = queries[chunk]
            T = int(lengths[asked[-1]])
            asked = asked.to(device)
            some = TextFeatures(texts.embed[asked], texts.input_ids[asked, :T], texts.attention_mask[asked, :T])
            own = torch.arange(len(chunk), device=device)
            logits[chunk] = model.match(some, memory, torch.stack([own, torch.zeros_like(own)], 1)).cpu()
        bar.update(len(pairs))
    bar.close()
    return logits.view(Q, K)
