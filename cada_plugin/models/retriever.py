"""The retriever contract: what evaluation, re-ranking and search ask of every model."""

from abc import abstractmethod
from typing import NamedTuple

from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor

from cada_plugin.checkpoints.load import fit_state_dict, load_checkpoint
from cada_plugin.compat import allow_mmengine_checkpoints
from cada_plugin.registry import MODELS, build_part
from cada_plugin.text import CaptionTokenizer

_OUR_INIT_KEYS = {"type", "checkpoint", "map_location", "old_grid"}  # with a ``prefix`` it is MMEngine's business


class ImageFeatures(NamedTuple):
    """``embed`` (B, D) l2-normalised; ``tokens`` (B, 1+N, C) for matching, None where the model does not re-rank."""

    embed: Tensor
    tokens: Tensor | None


class TextFeatures(NamedTuple):
    """``embed`` (Q, D) l2-normalised; ids and mask (Q, T), what matching needs of a caption."""

    embed: Tensor
    input_ids: Tensor
    attention_mask: Tensor


class TextImageRetriever(BaseModel):
    """Base of all models. Subclasses write ``encode_image``, ``encode_text`` and ``loss``, and for models that re-rank
    ``image_memory`` and ``match``.

    ``forward`` has MMEngine's modes: ``loss`` gives the losses of a training batch, ``tensor`` and ``predict`` the
    :class:`ImageFeatures` and :class:`TextFeatures` of a batch.

    Args:
        data_preprocessor: see ``PersonDataPreprocessor``.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH)`` with any format of :mod:`cada_plugin.checkpoints`; there,
            ``old_grid=(rows, columns)`` says how the checkpoint's image patches lie, where their number does not.
    """

    can_match: bool = False
    tokenizer: CaptionTokenizer

    def __init__(self, data_preprocessor: dict | None = None, init_cfg: dict | None = None) -> None:
        if isinstance(data_preprocessor, dict):
            data_preprocessor = build_part(MODELS, data_preprocessor)
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        allow_mmengine_checkpoints()
        self.register_load_state_dict_pre_hook(fit_state_dict)

    def init_weights(self) -> None:
        """MMEngine's initialisation, with ``Pretrained`` weights read by :func:`load_checkpoint`.

        Does nothing where weights were loaded already: MMEngine's would draw timm's image encoder anew.
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
        if mode == "loss":
            return self.loss(inputs, data_samples)
        if mode in ("tensor", "predict"):
            return self.encode_image(inputs["images"]), self.encode_text(inputs["input_ids"], inputs["attention_mask"])
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
        """What matching needs of images (I, 1+N, C), computed once per image."""
        raise NotImplementedError(f"{type(self).__name__} does not re-rank (can_match is False)")

    def match(self, texts: TextFeatures, memory: object, pairs: Tensor) -> Tensor:
        """Match logits (P,) of ``pairs`` (P, 2) long: rows of ``texts`` and of ``memory``."""
        raise NotImplementedError(f"{type(self).__name__} does not re-rank (can_match is False)")

    def set_progress(self, progress: float) -> None:
        """Told before every training iteration how much of the run is done, 0 to 1. For schedules inside a model."""
