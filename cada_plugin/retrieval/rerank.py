"""Stage 2: compute the match logits of every caption's shortlist, image by image.

The keys and values of an image are computed only once for all captions that have it in their shortlist (or once per
``max_pairs`` of these captions). Each process matches the pairs of the images that it encoded, so patch tokens are
never sent between processes. Images in few shortlists share a call of the model, so a single query is fast as well.
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
    """Match logits (Q, K) of ``shortlist`` for the images of this process, NaN for images of other processes.

    Args:
        model: a model with a match head, in eval mode.
        texts: features of all Q captions, on any device.
        image_tokens: (I, S, C) tokens of this process's images, on any device.
        image_rows: (G,) long, the row of each gallery image in ``image_tokens``, -1 if another process holds it.
        shortlist: (Q, K) long, gallery indices.
        max_pairs: largest number of pairs in one call of the model. It bounds memory, and changes scores by rounding
            only.
        max_images: largest number of images in one call, likewise.
        progress: show a progress bar.
    """
    device = next(model.parameters()).device
    texts = TextFeatures(*(field.to(device) for field in texts))
    Q, K = shortlist.shape
    lengths = texts.attention_mask.sum(1).cpu()
    rows = image_rows[shortlist.flatten()]  # (Q*K,) row of each pair's image
    queries = torch.arange(Q).repeat_interleave(K)
    order = (rows >= 0).nonzero().squeeze(1)
    asked = torch.bincount(rows[order])  # number of shortlists that contain each image
    # Sort pairs by this number, then by image: padding is least if the images of a call are in equally many shortlists.
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
    """Split the pairs into calls of the model; return the number of pairs of each call.

    Args:
        images: image of each pair, sorted by the number of captions that are matched with the image.
        max_pairs: limit of a call. The call pads all its images to the number of captions of the last one, and images
            times that number must not exceed it. Only an image with more captions is split over several calls.
        max_images: largest number of images in a call.
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
