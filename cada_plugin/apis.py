"""Use a trained model from any program, without a Runner: encode images and sentences, match, search.

```python
from cada_plugin.apis import load_retriever

retriever = load_retriever('configs/cada_procedural.py')
gallery = retriever.encode_image('my_photos')
for hit in retriever.search('a woman in a red coat with a black backpack', gallery)[0]:
    print(hit.rank, hit.path, hit.match, hit.cosine)
gallery.save('my_photos.safetensors')  # EncodedImages.load reads it
```
"""

import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms.v2 import functional

from cada_plugin.checkpoints import load_checkpoint
from cada_plugin.checkpoints.io import shipped_path
from cada_plugin.engine.config import read_config
from cada_plugin.errors import ConfigError
from cada_plugin.export import hub
from cada_plugin.export.fingerprint import fingerprint, image_size
from cada_plugin.export.folder import Trained, read_weights_folder, write_weights_folder
from cada_plugin.export.manifest import Manifest, holds_onnx, is_exported
from cada_plugin.files import new_folder
from cada_plugin.models.retriever import ImageFeatures, TextFeatures, TextImageRetriever
from cada_plugin.portable.calibration import Calibration, calibration_path
from cada_plugin.portable.captions import EncodedCaption
from cada_plugin.portable.explanation import Explanation, Phrase, patch_grid
from cada_plugin.portable.features import Hit
from cada_plugin.portable.meanings import phrase_meaning
from cada_plugin.registry import MODELS, build_part
from cada_plugin.retrieval import EncodedImages, match_shortlists, reranks, retrieve, token_maps, word_means
from cada_plugin.retrieval.base_retriever import BaseRetriever, ImageInput, to_picture
from cada_plugin.retrieval.image_transforms import image_transforms_of
from cada_plugin.retrieval.phrase_features import phrase_features
from cada_plugin.text import CaptionTokenizer

if TYPE_CHECKING:
    from cada_plugin.export.runtime import OnnxRetriever

__all__ = ["EncodedImages", "Explanation", "Hit", "Phrase", "Retriever", "load_retriever"]

logger = logging.getLogger(__name__)  # and not MMEngine's, which prints to stdout where a program may print results


class Retriever(BaseRetriever):
    """A model together with the image transforms that it was tested with. Make one with :func:`load_retriever`.

    Args:
        model: in eval mode, on the device where it is to run.
        image_transforms: test-time transforms between a uint8 image (3, H, W) and the model's preprocessor.
        rerank_topk, cosine_weight: settings of stage 2 in :meth:`search`, as in ``RetrievalTestLoop``.
        config: what the model was built from, which :meth:`save_pretrained` needs.
        weights: name of the file that the weights came from, for the model card.

    Attributes:
        calibration: turns scores into probabilities; :func:`load_retriever` finds it beside the checkpoint. None
            where the model was not calibrated.
    """

    def __init__(
        self,
        model: TextImageRetriever,
        image_transforms: Sequence,
        rerank_topk: int = 32,
        cosine_weight: float = 1.0,
        config: Config | None = None,
        weights: str | None = None,
    ) -> None:
        self.model, self.image_transforms = model, list(image_transforms)
        self.rerank_topk, self.cosine_weight = rerank_topk, cosine_weight
        self.config, self.weights = config, weights
        self.calibration: Calibration | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def name(self) -> str:
        """Class of the model."""
        return type(self.model).__name__

    @property
    def tokenizer(self) -> CaptionTokenizer:
        """Of the model."""
        return self.model.tokenizer

    @property
    def can_match(self) -> bool:
        """Whether the model has a trained match head, with which searches re-rank."""
        return self.model.can_match

    @property
    def judges_phrases(self) -> bool:
        """See :class:`BaseRetriever`."""
        return getattr(self.model, "loss_phrases", None) is not None

    @property
    def phrase_weight(self) -> float:
        """Of the evidence of phrases in the match logit; 0 where the model does not ask for it."""
        return self.model.phrase_weight

    def fingerprint(self) -> str:
        """Model class, image size and a digest of all weights, by which galleries recognise their model."""
        return fingerprint(self.model, self.image_transforms)

    def trained(self) -> Trained:
        """What an exported folder tells of this retriever."""
        return Trained(
            self.model,
            self.image_transforms,
            self.rerank_topk,
            self.cosine_weight,
            self.config,
            self.calibration,
            self.weights,
        )

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        metrics: Mapping[str, float] | None = None,
        measured: str | None = None,
        licence: str = "apache-2.0",
    ) -> Path:
        """Write one folder that :func:`load_retriever` opens on any machine, see :mod:`cada_plugin.export.folder`. It
        appears complete or not at all.

        Args:
            folder: a new or empty folder.
            metrics: for the model card, as ``cada test --out`` writes them; ``measured`` says when and on what machine.
            licence: identifier of the weights' licence, as the Hub knows it.

        Raises:
            ConfigError: the folder is there already, or the model needs code that the folder cannot hold.
        """
        folder = Path(folder).expanduser()
        with torch.no_grad(), new_folder(folder) as unfinished:
            write_weights_folder(self.trained(), unfinished, metrics=metrics, measured=measured, licence=licence)
        return folder

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike, revision: str | None = None, device: str | torch.device = "cpu"
    ) -> "Retriever":
        """Open a folder that :meth:`save_pretrained` wrote, or a repository of the Hugging Face Hub with its files.

        Args:
            source: a local folder, or ``owner/name`` on the Hub.
            revision: branch, tag or commit on the Hub.

        Raises:
            CheckpointError: there is neither, or what is there is of another kind.
        """
        return load_retriever(hub.fetch(source, revision), device=device)

    def push_to_hub(
        self,
        repository: str,
        private: bool = False,
        metrics: Mapping[str, float] | None = None,
        measured: str | None = None,
        licence: str = "apache-2.0",
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face Hub, and return the address of the commit.

        Args:
            repository: ``owner/name``; it is made if it is not there.
            private: make it for its owner alone.
            metrics, measured, licence: as in :meth:`save_pretrained`.

        Raises:
            CheckpointError: the Hub refuses it, or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as place:
            folder = self.save_pretrained(Path(place) / "folder", metrics, measured, licence)
            return hub.push(folder, repository, private)

    @torch.no_grad()
    def _encode_batch(self, images: list[Tensor]) -> ImageFeatures:
        sizes = sorted({tuple(image.shape) for image in images})
        if len(sizes) > 1:
            raise ConfigError(
                f"the test pipeline makes images of different sizes ({sizes[0]}, {sizes[-1]}): add "
                "dict(type='torchvision/Resize', size=(H, W)) to test_dataloader.dataset.pipeline"
            )
        inputs = self.model.data_preprocessor({"inputs": {"images": torch.stack(images)}}, False)["inputs"]
        embed, tokens = self.model.encode_image(inputs["images"])
        return ImageFeatures(embed.cpu(), tokens.cpu() if self.model.can_match else None)

    @torch.no_grad()
    def check_contract(self) -> None:
        """Encode one made-up image and sentence, to report a model that breaks the retriever contract before any work.

        Raises:
            ConfigError: see :mod:`cada_plugin.models.retriever`.
        """
        item = {"image": torch.arange(3 * 64 * 32).remainder(256).to(torch.uint8).view(3, 64, 32)}
        for transform in self.image_transforms:
            item = transform(item)
        ids = torch.tensor([self.model.tokenizer.encode("a person").input_ids])
        inputs = {
            "images": item["image"][None],
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        }
        self.model(self.model.data_preprocessor({"inputs": inputs}, False)["inputs"], mode="predict")

    @torch.no_grad()
    def encode_text(self, captions: str | Iterable[str], batch_size: int = 256) -> TextFeatures:
        """Encode sentences: ``embed`` (Q, D), ids and mask (Q, T), on the CPU. Long sentences are cut, which is logged.

        Raises:
            ConfigError: there is no sentence, or a sentence is not text or has no word that the model can read.
        """
        encoded = [torch.tensor(ids) for ids in self._ids(captions)]
        lengths = torch.tensor([len(ids) for ids in encoded])
        ids, mask = pad_sequence(encoded, batch_first=True), torch.arange(int(lengths.max())) < lengths[:, None]
        embeds = [
            self.model.encode_text(i.to(self.device), m.to(self.device)).embed.cpu()
            for i, m in zip(ids.split(batch_size), mask.split(batch_size), strict=True)
        ]
        return TextFeatures(torch.cat(embeds), ids, mask)

    def match(self, texts: TextFeatures, images: EncodedImages | ImageFeatures, pairs: Tensor | None = None) -> Tensor:
        """Raw match logits: (Q, I) of every sentence with every image, or (P,) of the given pairs alone.

        Args:
            texts: Q sentences, from :meth:`encode_text`.
            images: I images, from :meth:`encode_image`.
            pairs: (P, 2) long, each a row of ``texts`` and a row of ``images``.

        Raises:
            ConfigError: the model has no trained match head.
        """
        if not self.model.can_match or images.tokens is None:
            raise self._no_match_head()
        tokens = torch.as_tensor(images.tokens)
        num_images = len(tokens)
        if pairs is None:
            shortlist = torch.arange(num_images).expand(len(texts.embed), num_images)
        else:
            texts, shortlist = TextFeatures(*(field[pairs[:, 0]] for field in texts)), pairs[:, 1:]
        rows = torch.arange(num_images)
        logits = match_shortlists(self.model, texts, tokens, rows, shortlist, progress=False)
        return logits if pairs is None else logits.squeeze(1)

    def search(
        self, captions: str | Iterable[str], gallery: EncodedImages | ImageFeatures, topk: int = 10
    ) -> list[list[Hit]]:
        """Find the ``topk`` best images of the gallery for each sentence, best first.

        Stage 1 ranks the gallery by cosine. If the model can match, the best ``rerank_topk`` images are re-ordered by
        match logit + ``cosine_weight`` * cosine, and the others follow in their stage-1 order.

        Raises:
            ConfigError: ``topk`` is below 1, or a sentence is unusable, see :meth:`encode_text`.
            GalleryError: the gallery is empty or was encoded by another kind of model.
        """
        if topk < 1:
            raise ConfigError(f"topk={topk}: use an integer from 1")
        texts = self.encode_text(captions)
        self._check_searchable(gallery, texts.embed.shape[1])
        num_images = len(gallery.embed)
        if reranks(self.model, self.rerank_topk) and gallery.tokens is not None:
            self._tell_clamp(num_images)
        tokens = None if gallery.tokens is None else torch.as_tensor(gallery.tokens)
        images = ImageFeatures(torch.as_tensor(gallery.embed), tokens)
        scores = retrieve(self.model, texts, images, self.rerank_topk, self.cosine_weight)
        paths = gallery.paths if isinstance(gallery, EncodedImages) else [None] * num_images
        return [
            [Hit(i, paths[i], rank, cosine, match) for rank, (i, cosine, match) in enumerate(found, 1)]
            for found in scores.ranked(topk)
        ]

    def judge_phrases(self, encoded: EncodedCaption, spans: Sequence[tuple[int, int]], tokens: Tensor) -> np.ndarray:
        if not self.judges_phrases:
            return super().judge_phrases(encoded, spans, tokens)
        phrase_of = {word: number for number, span in enumerate(spans) for word in range(*span)}
        index = torch.tensor([[phrase_of.get(word, -1) for word in encoded.word_index]], device=self.device)
        ids = torch.tensor([encoded.input_ids], device=self.device)
        seen = phrase_features(self.model, ids, index, torch.as_tensor(tokens).to(self.device)).cpu().numpy()
        meanings = [phrase_meaning(encoded.words[start:stop]) for start, stop in spans]
        return np.column_stack([seen, ["side" not in meaning.says for meaning in meanings]])

    def _word_maps(self, caption: str, tokens: object, layer: int | None) -> tuple[np.ndarray, int]:
        encoded = self.tokenizer.encode(caption)
        ids = torch.tensor([encoded.input_ids])
        texts = TextFeatures(torch.zeros(1, 0), ids, torch.ones_like(ids, dtype=torch.bool))
        found = token_maps(self.model, texts, torch.as_tensor(tokens), layer)
        grid = patch_grid(found.evidence.shape[1], image_size(self.image_transforms))
        words = word_means(found.evidence, encoded.word_index, len(encoded.read_words))
        return words.view(-1, *grid).numpy(), found.layer

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)

    def _prepare(self, image: ImageInput, name: str) -> Tensor:
        item = {"image": functional.pil_to_tensor(to_picture(image, name))}
        for transform in self.image_transforms:
            item = transform(item)
        return item["image"]


def load_retriever(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None = None,
    device: str | torch.device = "cpu",
    backend: str | None = None,
) -> "Retriever | OnnxRetriever":
    """Build a :class:`Retriever` from a training config and a checkpoint, or open an exported folder.

    Args:
        config: path or name of a config, a loaded ``Config``, or a folder that ``save_pretrained`` or ``cada export``
            wrote, which needs no ``checkpoint``.
        checkpoint: weights in any format of :mod:`cada_plugin.checkpoints`. None loads those that the config trained
            (``trained_weights``), or else those that it starts from (``init_cfg`` or ``load_from``).
        device: such as ``cpu`` or ``cuda:0``.
        backend: ``torch`` or ``onnx``; by default what the folder holds. The retriever of ``onnx`` has the same methods
            and gives numpy arrays.

    Raises:
        ConfigError: there are no weights to load, or a step of the test pipeline cannot be used on an image alone.
        CheckpointError: the weights do not fit, or the folder is of another kind.
    """
    if backend not in (None, "torch", "onnx"):
        raise ConfigError(f"backend={backend!r}: use 'torch' or 'onnx'")
    if backend == "onnx" or is_exported(config):
        if checkpoint is not None:
            raise ConfigError(f"{config} is a folder that holds its own weights: leave out checkpoint={checkpoint}")
        if backend == "onnx" or (backend is None and holds_onnx(config)):
            from cada_plugin.export.runtime import open_onnx

            return open_onnx(config, device)
        config, checkpoint = read_weights_folder(Path(config).expanduser())
    retriever, weights = load_uncalibrated(config, checkpoint, device)
    retriever.calibration = _calibration(retriever, weights)
    return retriever


def load_uncalibrated(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None = None,
    device: str | torch.device = "cpu",
) -> tuple[Retriever, str | os.PathLike]:
    """As :func:`load_retriever`, not of an exported folder and without a calibration; also the weights that it took."""
    if not isinstance(config, Config):
        config = _read_config(config)
    trained = checkpoint or config.get("trained_weights")
    weights = None if trained is None else os.path.basename(os.path.normpath(trained))
    model_cfg = ConfigDict(config.model)
    init_cfg = model_cfg.pop("init_cfg", None) or {}
    checkpoint = trained or init_cfg.get("checkpoint") or config.get("load_from")
    if not checkpoint:
        raise ConfigError(
            "a retriever needs weights: give checkpoint=PATH, the config has no trained_weights, init_cfg or load_from"
        )
    image_transforms = image_transforms_of(config)
    model = build_part(MODELS, model_cfg)
    logger.info(str(load_checkpoint(model, checkpoint)))
    test_cfg = config.get("test_cfg") or {}
    retriever = Retriever(
        model.to(device).eval(),
        image_transforms,
        rerank_topk=test_cfg.get("rerank_topk", 32),
        cosine_weight=test_cfg.get("cosine_weight", 1.0),
        config=config,
        weights=weights,
    )
    retriever.check_contract()
    return retriever, checkpoint


def _read_config(source: str | os.PathLike) -> Config:
    try:
        return read_config(source)
    except ConfigError:
        if Path(source).expanduser().is_dir():
            Manifest.read(source, "weights")  # raises: no folder of ours
        raise


def _calibration(retriever: Retriever, checkpoint: str | os.PathLike) -> Calibration | None:
    """The calibration beside a checkpoint, if it is of this model."""
    path = calibration_path(Path(shipped_path(checkpoint)))
    if not path.is_file():
        return None
    calibration = Calibration.load(path)
    if calibration.fingerprint != (mine := retriever.fingerprint()):
        logger.warning(
            f"{path} is of {calibration.fingerprint} and this model is {mine}: it is not used. Make it again with "
            "`cada calibrate`"
        )
        return None
    for setting in ("cosine_weight", "phrase_weight"):
        there, here = getattr(calibration, setting), getattr(retriever, setting)
        if there != here:
            logger.warning(
                f"{path} was made with {setting}={there:g} and this config has {here:g}, which gives other scores: it "
                "is not used. Make it again with `cada calibrate`"
            )
            return None
    return calibration
