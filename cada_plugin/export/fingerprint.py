"""By what galleries and exported folders recognise a model."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torchvision.transforms.v2 import Resize

from cada_plugin.models.retriever import TextImageRetriever
from cada_plugin.portable.pixels import RESIZES


def fingerprint(model: TextImageRetriever, image_transforms: Sequence[Callable]) -> str:
    """Model class, image size and a digest of the rest, such as ``CADA 96x48 5d1c0f6a2b9e``.

    Embeddings of two models cannot be compared even if they have the same length, so whatever changes those of images
    must change this text: the weights, their names, how images are resized and to what size, and their normalisation.
    """
    digest = hashlib.blake2b(f"{interpolation(image_transforms)} ".encode(), digest_size=6)
    normalisation = {f"data_preprocessor.{name}": x for name, x in model.data_preprocessor.named_buffers()}
    for name, tensor in sorted({**model.state_dict(), **normalisation}.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    height, width = image_size(image_transforms)
    return f"{type(model).__name__} {height}x{width} {digest.hexdigest()}"


def image_size(image_transforms: Sequence[Callable]) -> tuple[int, int]:
    """(H, W) in pixels of the model's input."""
    image = torch.zeros(3, 64, 32, dtype=torch.uint8)
    for transform in image_transforms:
        image = transform({"image": image})["image"]
    return tuple(image.shape[-2:])


def interpolation(image_transforms: Sequence[Callable]) -> str | None:
    """How images are resized if the only transform is a Resize to (H, W) that needs no torch; None if it is another."""
    resize = getattr(image_transforms[0], "transform", None) if len(image_transforms) == 1 else None
    if not isinstance(resize, Resize) or resize.size is None or len(resize.size) != 2 or not resize.antialias:
        return None
    kind = getattr(resize.interpolation, "value", resize.interpolation)  # an enumeration before torchvision 0.29
    return kind if kind in RESIZES else None
