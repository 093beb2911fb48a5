"""The part of a test pipeline that changes the image, which a retriever applies to pictures of any origin."""

from collections.abc import Callable

import torch
from mmengine.config import Config
from torch import Tensor

from cada_plugin.datasets.transforms import (
    EncodeCaptions,
    LoadPersonImage,
    MaskAttributes,
    MaskTokens,
    PackPersonInputs,
    TagAttributes,
)
from cada_plugin.errors import ConfigError
from cada_plugin.registry import TRANSFORMS, build_part

# Steps of a test pipeline that have no part in encoding an image: reading the file, captions, packing.
_OTHER_STEPS = (LoadPersonImage, EncodeCaptions, TagAttributes, MaskAttributes, MaskTokens, PackPersonInputs)


def image_transforms_of(config: Config) -> list[Callable]:
    """The steps of the test pipeline that change the image; each is tried on a small image.

    Only steps that are known to do something else, such as packing, are left out. Leaving out an unknown step would
    encode images in another way than in the model's test.

    Raises:
        ConfigError: there is no test pipeline, or a step of it cannot be used on an image alone.
    """
    dataset = (config.get("test_dataloader") or {}).get("dataset") or {}
    steps = dataset.get("pipeline")
    if steps is None:
        raise ConfigError(
            "the config has no test_dataloader.dataset.pipeline, which says how images are read: add it there, with "
            "dict(type='torchvision/Resize', size=(H, W)) at least"
        )
    transforms = []
    item = {"image": torch.zeros(3, 64, 32, dtype=torch.uint8)}
    for step in steps:
        name = step.get("type") if isinstance(step, dict) else step
        kind = TRANSFORMS.get(name) if isinstance(name, str) else name
        if isinstance(step, _OTHER_STEPS) or (isinstance(kind, type) and issubclass(kind, _OTHER_STEPS)):
            continue
        try:
            if isinstance(step, dict):
                step = build_part(TRANSFORMS, step)
            item = step(item)
            image = item["image"]
        except Exception as error:  # a foreign transform can fail in any way
            raise ConfigError(
                f"the step {name!r} of test_dataloader.dataset.pipeline cannot be used on an image alone "
                f"({type(error).__name__}: {error}): load_retriever needs steps that take and return "
                "{'image': uint8 tensor (3, H, W)}. Register it (with its scope, 'package.Name') or remove it"
            ) from error
        if not isinstance(image, Tensor) or image.ndim != 3:
            raise ConfigError(
                f"the step {name!r} of test_dataloader.dataset.pipeline makes no image tensor (3, H, W) but a "
                f"{type(image).__name__}: load_retriever cannot use it"
            )
        transforms.append(step)
    return transforms
