"""Stage 2: the match logits of every caption's shortlist, computed image by image.

The keys and values of an image are computed once for all captions that shortlisted it (once for each ``max_pairs`` of
them). Patch tokens never leave the process that encoded them, because each process matches the pairs of its own images.
Images that only few captions ask about share a call of the model, so a single query costs what its pairs cost.
"""

import torch
from torch import Tensor

from cada_plugin.models.retriever import TextFeatures, TextImageRetriever
from cada_plugin.progress import progress_bar


@torch.no_grad()
def match_shortlists(
    model: TextImageRetriever,
    texts: TextFeatures,
    image_tokens: Tensor,
    image_rows: Tensor,
    shortlist: Tensor,
    max_pairs: int = 256,
    max_images: int = 32,
    progress: bool = True,
) -> Tensor:
    """Match logits (Q, K) of ``shortlist`` for the images of this process, NaN for those of others.

    Args:
        texts: of all Q captions, on any device.
        image_tokens: (I, S, C) tokens of this process's images, on any device.
        image_rows: (G,) long, row of ``image_tokens`` that holds a gallery image, -1 if another process does.
        shortlist: (Q, K) long gallery indices.
        max_pairs, max_images: limits of one call of the model; they bound memory and change no score.
    """
    device = next(model.parameters()).device
    texts = TextFeatures(*(field.to(device) for field in texts))
    Q, K = shortlist.shape
    lengths = texts.attention_mask.sum(1).cpu()
    rows = image_rows[shortlist.flatten()]  # (Q*K,) row of each pair's image
    queries = torch.arange(Q).repeat_interleave(K)
    order = (rows >= 0).nonzero().squeeze(1)
    asked = torch.bincount(rows[order])  # how many captions ask an image, up to the last that is asked
    # images of one call are to be asked about equally often; captions of one image stand together
    order = order[torch.argsort(asked[rows[order]] * len(image_tokens) + rows[order], stable=True)]
    logits = torch.full((Q * K,), torch.nan)
    bar = progress_bar(total=len(order), desc="re-ranking", unit="pair", delay=2, disable=not progress, leave=False)
    for pairs in order.split(_calls(rows[order], max_pairs, max_images)):
        images, image = torch.unique_consecutive(rows[pairs], return_inverse=True)
        memory = model.image_memory(image_tokens[images].to(device, non_blocking=True))
        text = queries[pairs]
        T = int(lengths[text].max())
        text = text.to(device)
        some = TextFeatures(texts.embed[text], texts.input_ids[text, :T], texts.attention_mask[text, :T])
        logits[pairs] = model.match(some, memory, image.to(device)).float().cpu()
        bar.update(len(pairs))
    bar.close()
    return logits.view(Q, K)


def _calls(images: Tensor, max_pairs: int, max_images: int) -> list[int]:
    """Numbers of pairs of the calls, given the image of every pair, least asked images first.

    A call pads every image to the number of captions of its most asked one, which is the last. Images times that number
    is at most ``max_pairs``. An image is split over several calls only if it has more captions than that by itself.
    """
    sizes, images_of_call = [], 0
    for count in torch.unique_consecutive(images, return_counts=True)[1].tolist():
        if not sizes or images_of_call == max_images or (images_of_call + 1) * count > max_pairs:
            whole, rest = divmod(count, max_pairs)
            sizes += [max_pairs] * whole + [rest] * (rest > 0)
            images_of_call = 1
        else:
            sizes[-1] += count
            images_of_call += 1
    return sizes
