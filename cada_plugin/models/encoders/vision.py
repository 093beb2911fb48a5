"""Image encoder: timm's Vision Transformer with a class token, as BLIP uses it (pre-norm, final norm)."""

from abc import abstractmethod
from collections.abc import Iterable
from functools import partial
from itertools import pairwise

import timm.layers
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, downsample_conv
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cada_plugin.errors import ConfigError
from cada_plugin.models.encoders.attention import attention_row, inputs_of
from cada_plugin.models.encoders.size import checked_size
from cada_plugin.registry import MODELS


class _Stem(nn.Module):
    """Patch embedding by a stack of convolutions. Subclasses give its layers.

    The arguments are those of timm's ``embed_layer``. ``patch_size`` is the stride of the whole stack, and must be a
    power of two from 4.
    """

    name: str

    def __init__(self, img_size: tuple[int, int], patch_size: int, in_chans: int, embed_dim: int, **_: object) -> None:
        super().__init__()
        halvings = patch_size.bit_length() - 1
        if patch_size != 2**halvings or halvings < 2:
            raise ConfigError(f"stem={self.name!r} needs a patch_size that is a power of two from 4, got {patch_size}")
        self.patch_size, self.img_size = (patch_size, patch_size), img_size
        self.grid_size = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Sequential(*self._layers(in_chans, embed_dim, halvings), nn.Conv2d(embed_dim, embed_dim, 1))

    @staticmethod
    @abstractmethod
    def _layers(width_in: int, width: int, halvings: int) -> Iterable[nn.Module]:
        """Layers (B, ``width_in``, H, W) -> (B, ``width``, H / 2**halvings, W / 2**halvings)."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, C)."""
        return self.proj(images).flatten(2).transpose(1, 2)


class ConvStem(_Stem):
    """Patch embedding as a stack of stride-2 3x3 convolutions with batch norm (Xiao et al., "Early convolutions help
    transformers see better", NeurIPS 2021). With little training data it learns where one large linear patch projection
    does not."""

    name = "conv"

    @staticmethod
    def _layers(width_in: int, width: int, halvings: int) -> Iterable[nn.Module]:
        widths = [width_in, *(width // 2 ** (halvings - 1 - i) for i in range(halvings))]
        for before, after in pairwise(widths):
            yield from (nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class ResidualStem(_Stem):
    """Patch embedding as a small residual network (He et al., CVPR 2016, basic blocks): a strided 5x5 convolution of a
    quarter of the width, then one block for each further halving, whose widths rise evenly, and one more before the
    last. For small pictures of 128 x 64 pixels it takes ten times the arithmetic of :class:`ConvStem`, and with it the
    whole image encoder of the small models 3.7 times as much."""

    name = "residual"

    @staticmethod
    def _layers(width_in: int, width: int, halvings: int) -> Iterable[nn.Module]:
        first = width // 4
        yield from (nn.Conv2d(width_in, first, 5, 2, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True))
        widths = [first + (width - first) * i // (halvings - 1) for i in range(halvings)]
        for i, (before, after) in enumerate(pairwise(widths)):
            if i == halvings - 2:
                yield BasicBlock(before, before)
            yield BasicBlock(before, after, 2, downsample_conv(before, after, 1, 2))


@MODELS.register_module()
class ViTEncoder(VisionTransformer):
    """timm's ViT, which returns all its tokens. Its parameter names are timm's, which BLIP uses as well.

    Args:
        image_size: (H, W) in pixels, multiples of ``patch_size``.
        patch_size: side of a patch in pixels.
        width, depth, heads: of the transformer; the feed-forward is four times ``width``.
        stem: ``patch`` (one strided convolution, BLIP's), ``conv`` (:class:`ConvStem`) or ``residual``
            (:class:`ResidualStem`).
        drop_path: stochastic depth rate of the last layer; the rate rises linearly from 0 over the layers.
        checkpointing: recompute activations in the backward pass, which takes less memory and about a third more time.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (224, 224),
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        stem: str = "patch",
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        height, width_px = checked_size(image_size, patch_size)
        stems = {"patch": timm.layers.PatchEmbed, "conv": ConvStem, "residual": ResidualStem}
        if stem not in stems:
            raise ConfigError(f"stem={stem!r}: use one of {', '.join(stems)}")
        super().__init__(
            img_size=(height, width_px),
            patch_size=patch_size,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            global_pool="",
            drop_path_rate=drop_path,
            embed_layer=stems[stem],
        )
        self.width = width
        self.set_grad_checkpointing(checkpointing)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> tokens (B, 1+N, C), the class token first."""
        height, width = self.patch_embed.img_size
        if images.shape[-2:] != torch.Size((height, width)):
            raise ConfigError(
                f"images are {tuple(images.shape[-2:])} (H, W) but the encoder was built for {(height, width)}: "
                "set the pipeline's resize and visual_encoder.image_size to the same size"
            )
        return self.forward_features(images)

    def with_attention(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, and the attention (B, 1+N) of the class token to each token in the last layer (mean over heads)."""
        attention = self.blocks[-1].attn
        with inputs_of(attention) as seen:
            tokens = self(images)
        query, key, _ = (
            partial(F.linear, weight=weight, bias=bias)
            for weight, bias in zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
        )
        first = torch.zeros(images.shape[0], dtype=torch.long, device=images.device)
        return tokens, attention_row(seen[0], first, query, key, attention.num_heads)
