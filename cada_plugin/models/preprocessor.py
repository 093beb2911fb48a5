"""Move batches to the device without waiting, and normalise images there, which saves the loader the work.

What a training step needs to know of its batch's masks is counted here, while they are still on the CPU. A model that
counts on the device has to wait for it.
"""

import torch
from mmengine.model import BaseDataPreprocessor

from cada_plugin.models.cross_modal import places_of
from cada_plugin.registry import MODELS

_PLACES = {
    "token_places": "attention_mask",
    "masked_places": "masked_positions",
}


def with_places(inputs: dict) -> dict:
    """The inputs of a training batch, and the places where its masks are True, as far as these are on the CPU."""
    known = {name: inputs[key] for name, key in _PLACES.items() if key in inputs and inputs[key].device.type == "cpu"}
    return {**inputs, **{name: places_of(mask) for name, mask in known.items()}}


@MODELS.register_module()
class PersonDataPreprocessor(BaseDataPreprocessor):
    """Turns uint8 RGB images (B, 3, H, W) into floats ``(x - mean) / std``; all other tensors are only moved.

    For training it adds, as row * T + column, ``token_places`` (M,) and ``masked_places`` (K,), where
    ``attention_mask`` and ``masked_positions`` (B, T) are True.

    Args:
        mean, std: one number per RGB channel, on the scale 0..255.
    """

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__(non_blocking=True)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        if training:
            data = {**data, "inputs": with_places(data["inputs"])}
        data = self.cast_data(data)
        inputs = data["inputs"]
        if "images" in inputs:
            data = {**data, "inputs": {**inputs, "images": (inputs["images"].float() - self.mean) / self.std}}
        return data
