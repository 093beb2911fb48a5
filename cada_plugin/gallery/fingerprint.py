"""By what a gallery recognises the model that encoded it."""

import hashlib

import torch

from cada_plugin.apis import Retriever


def fingerprint(retriever: Retriever) -> str:
    """Model class, image size and a digest of all weights, such as ``CADA 96x48 5d1c0f6a2b9e``.

    Embeddings of two models cannot be compared even if they have the same length, so whatever changes them must change
    this text: the weights, their names, and the size that images are resized to.
    """
    image = torch.zeros(3, 64, 32, dtype=torch.uint8)
    for transform in retriever.image_transforms:
        image = transform({"image": image})["image"]
    digest = hashlib.blake2b(digest_size=6)
    for name, tensor in sorted(retriever.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    height, width = image.shape[-2:]
    return f"{type(retriever.model).__name__} {height}x{width} {digest.hexdigest()}"
