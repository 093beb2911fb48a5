"""Convolutional image encoders from torchreid's model factory, with weights from torchreid or to be trained here."""

import os

import torch
from torch import Tensor, nn

from cada_plugin.checkpoints.io import read_weights
from cada_plugin.compat import import_torchreid
from cada_plugin.errors import CheckpointError, ConfigError
from cada_plugin.registry import MODELS


@MODELS.register_module()
class TorchreidEncoder(nn.Module):
    """Encodes images to their average feature, followed by the feature at each position of the feature map.

    Args:
        name: name of the model in torchreid's factory, such as ``osnet_x1_0`` or ``resnet50``.
        pretrained: start from ImageNet weights, which torchreid downloads when they are first used.
        weights: checkpoint of this model trained with torchreid (``model.pth.tar-60``), or any file of its weights.

    Raises:
        ConfigError: torchreid has no such model, or the model gives no feature map.
        CheckpointError: ``weights`` do not belong to this model.
    """

    def __init__(self, name: str, pretrained: bool = False, weights: str | os.PathLike | None = None) -> None:
        super().__init__()
        torchreid = import_torchreid()
        try:
            model = torchreid.models.build_model(name, num_classes=1, pretrained=pretrained)
        except KeyError as error:
            raise ConfigError(f"torchreid has no model {name!r}: {error.args[0]}") from error
        if not hasattr(model, "featuremaps"):
            raise ConfigError(f"torchreid's {name} gives no feature map: use one that does, such as osnet_x1_0")
        for head in ("fc", "classifier"):  # for torchreid's losses; unused parameters stop distributed training
            if isinstance(getattr(model, head, None), nn.Module):
                setattr(model, head, None)
        self.model = model
        if weights is not None:
            self._load(weights)
        self.width = self._channels()

    def _load(self, path: str | os.PathLike) -> None:
        state, own = read_weights(path), self.model.state_dict()
        missing = [name for name in own if name not in state or state[name].shape != own[name].shape]
        if missing:
            raise CheckpointError(
                f"{path} does not belong to this torchreid model: {len(missing)} of its {len(own)} tensors are missing "
                f"or of another shape, such as {missing[0]}. Set visual_encoder.name to the model it was trained as"
            )
        self.model.load_state_dict({name: state[name] for name in own})

    @torch.no_grad()
    def _channels(self) -> int:
        training = self.model.training
        channels = self.model.eval().featuremaps(torch.zeros(1, 3, 64, 32)).shape[1]
        self.model.train(training)
        return channels

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> tokens (B, 1+N, C)."""
        tokens = self.model.featuremaps(images).flatten(2).transpose(1, 2)  # (B, N, C)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
