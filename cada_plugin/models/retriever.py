"""The retriever contract: what evaluation, re-ranking and search ask of every model."""

from abc import abstractmethod

from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor

from cada_plugin.checkpoints.load import fit_state_dict, load_checkpoint
from cada_plugin.errors import ConfigError
from cada_plugin.portable.features import ImageFeatures, TextFeatures
from cada_plugin.registry import MODELS, build_part
from cada_plugin.text import CaptionTokenizer

__all__ = ["ImageFeatures", "TextFeatures", "TextImageRetriever"]

_NORM_TOLERANCE = 0.02  # of an embedding that was normalised in bf16
_OUR_INIT_KEYS = {"type", "checkpoint", "map_location", "old_grid"}  # with a ``prefix`` it is MMEngine's business


class TextImageRetriever(BaseModel):
    """Base of all models. Subclasses set ``tokenizer`` and write ``encode_image``, ``encode_text`` and ``loss``; models
    that re-rank also set ``can_match`` and write ``image_memory`` and ``match``. A model that also writes
    ``match_with_maps``, as ``FusionRetriever`` does, can show where it looks (``Retriever.explain``).

    ``forward`` has MMEngine's modes: ``loss`` returns the losses of a training batch, ``tensor`` and ``predict`` the
    :class:`ImageFeatures` and :class:`TextFeatures` of a batch. It checks what a subclass returns: a mistake there
    would not fail, but train on nothing, or rank by something that is not a cosine.

    Args:
        data_preprocessor: see ``PersonDataPreprocessor``.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH)`` with any format of :mod:`cada_plugin.checkpoints`; there,
            ``old_grid=(rows, columns)`` gives the grid of the checkpoint's image patches, needed only if their number
            fits several grids.
    """

    can_match: bool = False
    phrase_weight: float = 0.0
    """How much the evidence of single phrases counts in the match logit. If it does, ``match`` also takes
    ``phrase_index``, see ``CADA``."""
    tokenizer: CaptionTokenizer

    def __init__(self, data_preprocessor: dict | None = None, init_cfg: dict | None = None) -> None:
        if isinstance(data_preprocessor, dict):
            data_preprocessor = build_part(MODELS, data_preprocessor)
        if isinstance(init_cfg, dict) and "type" not in init_cfg:
            raise ConfigError(f"model.init_cfg={init_cfg} has no type: write dict(type='Pretrained', checkpoint=PATH)")
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.register_load_state_dict_pre_hook(fit_state_dict)
        self._norms_checked = False

    def init_weights(self) -> None:
        """MMEngine's initialisation, with ``Pretrained`` weights read by :func:`load_checkpoint`.

        Does nothing if weights were loaded already, because MMEngine would initialise timm's image encoder again.
        """
        if self.is_init:
            return
        cfg = self.init_cfg
        if not (isinstance(cfg, dict) and cfg.get("type") == "Pretrained" and cfg.keys() <= _OUR_INIT_KEYS):
            super().init_weights()
            return
        self.init_cfg = None
        super().init_weights()
        self.init_cfg = cfg
        print_log(str(load_checkpoint(self, cfg["checkpoint"], old_grid=cfg.get("old_grid"))), logger="current")

    def forward(self, inputs: dict, data_samples: list | None = None, mode: str = "tensor") -> dict | tuple:
        check_matching(self)
        if mode == "loss":
            losses = self.loss(inputs, data_samples)
            check_losses(self, losses)
            return losses
        if mode in ("tensor", "predict"):
            images = self.encode_image(inputs["images"])
            texts = self.encode_text(inputs["input_ids"], inputs["attention_mask"])
            check_features(self, images, texts, len(inputs["images"]), len(inputs["input_ids"]))
            if not self._norms_checked:  # once, because it waits for the device
                check_norms(self, images, texts)
                self._norms_checked = True
            return images, texts
        raise ValueError(f"mode={mode!r}: use 'loss', 'tensor' or 'predict'")

    @abstractmethod
    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Normalised images (B, 3, H, W)."""

    @abstractmethod
    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> TextFeatures:
        """Ids (Q, T) long and mask (Q, T) bool."""

    @abstractmethod
    def loss(self, inputs: dict, data_samples: list) -> dict[str, Tensor]:
        """Losses by name; every name contains ``loss`` and MMEngine adds them up."""

    def image_memory(self, tokens: Tensor) -> object:
        """What matching needs of images with tokens (I, 1+N, C), computed once per image and used for all captions."""
        raise NotImplementedError(f"{type(self).__name__} does not re-rank (can_match is False)")

    def match(self, texts: TextFeatures, memory: object, images: Tensor) -> Tensor:
        """Match logits (P,): text p of the P ``texts`` with image ``images[p]`` of the I images of ``memory``.

        Args:
            texts: of P captions; one that is matched with several images stands there once for each of them.
            memory: what :meth:`image_memory` made of I images.
            images: (P,) long.
        """
        raise NotImplementedError(f"{type(self).__name__} does not re-rank (can_match is False)")

    def set_progress(self, progress: float) -> None:
        """Called before every training iteration with the share of the run that is done, 0 to 1. Models that have a
        schedule of their own override it."""

    def train_without_hooks(self) -> None:
        """Make training steps possible where no hook runs, as when their speed is measured. A model that refuses to
        train before a hook has told it something overrides this method."""
        self.set_progress(0.0)


# ---------------------------------------------------------------- checks of what a subclass returns


def check_matching(model: TextImageRetriever) -> None:
    """Check that a model with ``can_match`` has the methods for it.

    Raises:
        ConfigError: a method is missing; it is named.
    """
    if not model.can_match:
        return
    own, base = type(model), TextImageRetriever
    if missing := [name for name in ("image_memory", "match") if getattr(own, name) is getattr(base, name)]:
        raise ConfigError(
            f"{own.__name__}.can_match is True, but {own.__name__} does not write {' and '.join(missing)}: write "
            "what is missing, or leave can_match at False, which ranks by the cosine alone"
        )


def check_losses(model: TextImageRetriever, losses: object) -> None:
    """Check that MMEngine can add the losses up, and that it leaves none out that has a gradient.

    Raises:
        ConfigError: ``loss`` gave no dict of tensors, or MMEngine would leave a part of it out.
    """
    name = f"{type(model).__name__}.loss"
    if not isinstance(losses, dict):
        raise ConfigError(f"{name} returned a {type(losses).__name__}: return a dict such as {{'loss_itc': value}}")
    for key, value in losses.items():
        tensors = value if isinstance(value, list) else [value]
        if not isinstance(key, str) or not all(isinstance(one, Tensor) for one in tensors):
            raise ConfigError(
                f"{name} returned {key!r} as a {type(value).__name__}: use a text as key and a tensor as value"
            )
    lost = [
        key
        for key, value in losses.items()
        if "loss" not in key and any(one.requires_grad for one in (value if isinstance(value, list) else [value]))
    ]
    if lost or not any("loss" in key for key in losses):
        keys = ", ".join(map(repr, lost or losses)) or "nothing"
        raise ConfigError(
            f"{name} returned {keys}: MMEngine adds up the values whose key contains 'loss' and trains on their sum, "
            "so write 'loss' into the key of every loss; detach() what is only to be logged"
        )


def check_features(model: TextImageRetriever, images: object, texts: object, num_images: int, num_texts: int) -> None:
    """Check that the features of a batch have the types and shapes that evaluation reads.

    Raises:
        ConfigError: they are not; the method and what it should return are named.
    """
    owner = type(model).__name__
    for method, features, kind, number in (
        ("encode_image", images, ImageFeatures, num_images),
        ("encode_text", texts, TextFeatures, num_texts),
    ):
        if not isinstance(features, kind):
            raise ConfigError(
                f"{owner}.{method} returned a {type(features).__name__}: return "
                f"{kind.__name__}({', '.join(kind._fields)})"
            )
        embed = features.embed
        if not isinstance(embed, Tensor) or embed.ndim != 2 or len(embed) != number:
            shape = tuple(embed.shape) if isinstance(embed, Tensor) else f"no tensor but a {type(embed).__name__}"
            raise ConfigError(
                f"{owner}.{method}: embed is {shape}, expected one row for each of the {number} inputs, ({number}, D)"
            )
    if images.embed.shape[1] != texts.embed.shape[1]:
        raise ConfigError(
            f"{owner} embeds images in {images.embed.shape[1]} dimensions and texts in {texts.embed.shape[1]}: both "
            "must be in one space to be compared"
        )
    if model.can_match and (not isinstance(images.tokens, Tensor) or len(images.tokens) != num_images):
        raise ConfigError(
            f"{owner}.can_match is True, so encode_image must return tokens ({num_images}, 1+N, C) for matching, got "
            + (str(tuple(images.tokens.shape)) if isinstance(images.tokens, Tensor) else repr(images.tokens))
        )


def check_norms(model: TextImageRetriever, images: ImageFeatures, texts: TextFeatures) -> None:
    """Check that embeddings have length 1, because their products are ranked and reported as cosines.

    Raises:
        ConfigError: they have another length. Embeddings of length 0, or with numbers that are
            not finite, are not reported here: they have another cause.
    """
    for method, embed in (("encode_image", images.embed), ("encode_text", texts.embed)):
        norms = embed.detach().float().norm(dim=1)
        norms = norms[norms.isfinite() & (norms > 0)]
        if bool(((norms - 1).abs() > _NORM_TOLERANCE).any()):
            raise ConfigError(
                f"{type(model).__name__}.{method}: embeddings have lengths from {float(norms.min()):.3g} to "
                f"{float(norms.max()):.3g}, expected 1, because their products are taken for cosines: return "
                "torch.nn.functional.normalize(embed, dim=-1)"
            )
