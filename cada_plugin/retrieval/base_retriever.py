"""What retrievers in PyTorch and in ONNX share: their inputs, encoding in batches, and checks. Works without torch."""

import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from PIL import Image

from cada_plugin.errors import ConfigError, GalleryError, ImageError
from cada_plugin.portable.calibration import Calibration, sigmoid
from cada_plugin.portable.captions import CaptionRules, EncodedCaption
from cada_plugin.portable.explanation import Explanation, Phrase
from cada_plugin.portable.features import ImageFeatures, TextFeatures
from cada_plugin.portable.phrases import lexicon_tags, whole_phrase_spans, without_words
from cada_plugin.portable.pictures import find_images, load_person_image, raise_for_bad_images, to_person_image
from cada_plugin.portable.stages import FINAL
from cada_plugin.retrieval.encoded_images import EncodedImages

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)  # and not MMEngine's, which prints to stdout where a program may print results

ImageInput = Union[str, os.PathLike, Image.Image, np.ndarray, "Tensor"]
_SURROGATE = re.compile("[\ud800-\udfff]")


class BaseRetriever(ABC):
    """Encodes images in batches. Subclasses prepare one image, encode a batch of them and join what batches gave.

    Attributes:
        name: class of the model.
        tokenizer: of the model.
        can_match: whether the model has a trained match head.
        rerank_topk, cosine_weight: of stage 2: length of the shortlist that is re-ranked, and weight of the cosine that
            is added to the match logit.
        calibration: turns scores into probabilities; None where the model was not calibrated.
        judges_phrases: whether the model learnt to say of single phrases if they are true of an image.
    """

    name: str
    tokenizer: CaptionRules
    can_match: bool
    rerank_topk: int
    cosine_weight: float
    calibration: Calibration | None
    judges_phrases: bool = False
    _told_clamp = False

    @abstractmethod
    def _prepare(self, image: ImageInput, name: str) -> Any:
        """The model's input (3, H, W). Raises ImageError for an unusable image."""

    @abstractmethod
    def _encode_batch(self, images: list) -> ImageFeatures:
        """Features of prepared images, in host memory."""

    @abstractmethod
    def _joined(self, parts: list) -> Any:
        """Arrays of several batches as one."""

    @abstractmethod
    def encode_text(self, captions: str | Iterable[str], batch_size: int = 256) -> TextFeatures:
        """Encode sentences."""

    @abstractmethod
    def match(self, texts: TextFeatures, images: EncodedImages | ImageFeatures) -> Any:
        """Raw match logits (Q, I) of every sentence with every image."""

    @abstractmethod
    def _word_maps(self, caption: str, tokens: Any, layer: int | None) -> tuple[np.ndarray | None, int | None]:
        """Maps (W, rows, columns) of the words of a caption over an image with ``tokens`` (1, S, C), and their layer.
        None and None where there are no gradients."""

    def judge_phrases(self, encoded: EncodedCaption, spans: Sequence[tuple[int, int]], tokens: Any) -> np.ndarray:
        """What says whether G phrases of a caption are true of an image with ``tokens`` (1, S, C), where the model
        ``judges_phrases``: (G, K), first the features of :mod:`cada_plugin.retrieval.phrase_features`, and last 1 for
        a phrase that does not tell left from right, else 0.

        Args:
            encoded: the caption, as the tokenizer gives it.
            spans: the words [start, stop) of each phrase, of those that have a token.

        Raises:
            ConfigError: the model judges no phrases.
        """
        raise ConfigError(
            f"{self.name} judges no phrases: use PyTorch weights of a model that was trained with loss_phrases, as "
            "those of cada_plus_procedural"
        )

    def encode_image(self, images: ImageInput | Iterable[ImageInput], batch_size: int = 64) -> EncodedImages:
        """Encode one or many images on the model's device; the result is in host memory.

        Args:
            images: paths, PIL images, uint8 arrays (H, W, 3) or uint8 tensors (3, H, W), all in RGB; or the path of a
                folder, which means all image files in it and its sub-folders, in alphabetical order. The EXIF
                orientation of files and PIL images is applied.
            batch_size: images per forward pass.

        Raises:
            ImageError: images are missing, damaged, too large, or no images. The message lists the first ten, and says
                how many there are.
            ConfigError: there is no image, or the test pipeline gives images of different sizes.
        """
        images = _list_images(images)
        encoded, bad = self._encode(images, batch_size, go_on=False)
        reasons = {f"image {place}": reason for place, reason in bad.items()}
        raise_for_bad_images(reasons, len(images), "mend or remove them. None is left out silently.")
        return encoded

    def encode_readable(
        self, images: Sequence[ImageInput], batch_size: int = 64
    ) -> tuple[EncodedImages | None, dict[int, str]]:
        """As :meth:`encode_image` on several images, but images that cannot be read are left out and reported.

        Returns:
            The encoded images in their order, None if there is none; and for each position of an unreadable image the
            reason.

        Raises:
            ConfigError: the test pipeline gives images of different sizes.
        """
        return self._encode(images, batch_size, go_on=True)

    def _encode(
        self, images: Sequence[ImageInput], batch_size: int, go_on: bool
    ) -> tuple[EncodedImages | None, dict[int, str]]:
        """Encode readable images. After an unreadable one, the others are encoded too (``go_on``) or only checked."""
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: use an integer from 1")
        bad: dict[int, str] = {}
        batches, paths = [], []
        for start in range(0, len(images), batch_size):
            prepared, files = [], []
            for place, image in enumerate(images[start : start + batch_size], start):
                try:
                    prepared.append(self._prepare(image, f"image {place}"))
                except ImageError as error:
                    bad[place] = str(error)
                    continue
                files.append(os.fspath(image) if isinstance(image, str | os.PathLike) else None)
            if prepared and (go_on or not bad):
                batches.append(self._encode_batch(prepared))
                paths += files
        if not batches:
            return None, bad
        tokens = None if batches[0].tokens is None else self._joined([batch.tokens for batch in batches])
        return EncodedImages(self._joined([batch.embed for batch in batches]), tokens, paths), bad

    def _ids(self, captions: str | Iterable[str]) -> list[list[int]]:
        """The ids of each sentence. Long sentences are cut, which is logged.

        Raises:
            ConfigError: there is no sentence, or a sentence is not text or has no word that the model can read.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        if not captions or not all(isinstance(caption, str) for caption in captions):
            raise ConfigError("encode_text needs sentences: give one non-empty string or several")
        for caption in captions:
            _refuse_surrogates(caption)
        if cut := self.tokenizer.count_truncated(captions):
            limit = self.tokenizer.max_length
            logger.warning(f"{cut} of {len(captions)} sentences are longer than the model reads: cut at {limit} tokens")
        encoded = [self.tokenizer.encode(caption).input_ids for caption in captions]
        shortest = min(range(len(encoded)), key=lambda place: len(encoded[place]))
        if len(encoded[shortest]) <= 2:  # start and end alone
            raise ConfigError(
                f"the sentence {captions[shortest]!r} has no word that the model reads: give a non-empty sentence that "
                "describes a person"
            )
        return encoded

    def explain(
        self,
        caption: str,
        image: ImageInput | EncodedImages | ImageFeatures,
        layer: int | None = None,
        gallery_images: int | None = None,
    ) -> Explanation:
        """Why a caption fits a picture: which phrases speak for it, and where in the picture.

        The phrases are those of the plugin's word list and chunk grammar; one that the model does not read any more,
        because the caption is too long, is left out. A model with ``loss_phrases`` also says of each phrase whether it
        is true of the picture.

        Args:
            image: one picture, as in :meth:`encode_image`, or the features of one image.
            layer: of the cross-attention, from 0, see :func:`cada_plugin.retrieval.word_maps.token_maps`.
            gallery_images: number of images that were searched, which the probability depends on; by default as many as
                the calibration was fitted on.

        Raises:
            ConfigError: the model has no match head or no such layer, or the caption is unusable.
            ImageError: the picture is unusable.
        """
        if not self.can_match:
            raise ConfigError(
                f"{self.name} has no trained match head, so nothing can be explained: its score is one product of two "
                "vectors. Use a model that matches (CADA, BLIP)"
            )
        if not isinstance(caption, str):
            raise ConfigError(f"explain needs one caption, not a {type(caption).__name__}: give a string")
        _refuse_surrogates(caption)
        if not isinstance(image, EncodedImages | ImageFeatures):
            image = self.encode_image([image])
        if image.tokens is None or len(image.tokens) != 1:
            count = "none" if image.tokens is None else len(image.tokens)
            raise ConfigError(f"explain needs one image with its tokens, these are {count}: give one, as gallery[3]")
        encoded = self.tokenizer.encode(caption)
        words = encoded.read_words
        spans = whole_phrase_spans(words, lexicon_tags(words))
        shorter = [without_words(words, *span) for span in spans]
        left = [len(self.tokenizer.encode(text).input_ids) > 2 for text in shorter]  # more than start and end
        kept = [text for text, is_left in zip(shorter, left, strict=True) if is_left]
        texts = self.encode_text([caption, *kept])
        match, *others = np.asarray(self.match(texts, image))[:, 0].tolist()
        changes = iter(others)
        maps, layer = self._word_maps(caption, image.tokens, layer)
        judged = self.phrase_probabilities(encoded, spans, image.tokens)
        phrases = tuple(
            Phrase(
                " ".join(words[start:stop]),
                start,
                stop,
                next(changes) - match if is_left else None,
                None if maps is None else maps[start:stop].mean(0),
                true,
            )
            for (start, stop), is_left, true in zip(spans, left, judged, strict=True)
        )
        probability = self._probability(match, texts, image, gallery_images)
        return Explanation(caption, tuple(words), match, probability, phrases, maps, layer)

    def phrase_probabilities(
        self, encoded: EncodedCaption, spans: Sequence[tuple[int, int]], tokens: Any
    ) -> list[float] | list[None]:
        """The probability that each phrase of a caption, a span of its words, is true of the picture with these tokens;
        None where phrases are not judged. See ``Phrase.probability``."""
        if not spans or not self.judges_phrases:
            return [None] * len(spans)
        features = np.asarray(self.judge_phrases(encoded, spans, tokens))
        if self.calibration is None:
            return sigmoid(features[:, 0]).tolist()
        return self.calibration.phrase_probability(features).tolist()

    def _probability(
        self, match: float, texts: TextFeatures, image: EncodedImages | ImageFeatures, gallery_images: int | None
    ) -> float | None:
        """Of the first sentence; None if the retriever is not calibrated for re-ranked images."""
        calibration = self.calibration
        if calibration is None or FINAL not in calibration.stages or image.embed is None:
            return None
        cosine = float(np.asarray(texts.embed[0], np.float32) @ np.asarray(image.embed[0], np.float32))
        images = calibration.gallery_images if gallery_images is None else gallery_images
        return float(calibration.probability(FINAL, np.array(match + self.cosine_weight * cosine), images))

    def _no_match_head(self) -> ConfigError:
        return ConfigError(f"{self.name} was trained without matching: rank by the cosine alone")

    def _check_searchable(self, gallery: EncodedImages | ImageFeatures, width: int) -> None:
        """Raise for a gallery that embeddings of ``width`` numbers cannot search."""
        num_images, own = gallery.embed.shape
        if num_images == 0 or own != width:
            raise GalleryError(
                f"a gallery of {num_images} images with embeddings of {own} numbers cannot be searched: this model "
                f"needs one image at least, and embeddings of {width}. Encode the images with it"
            )

    def _tell_clamp(self, num_images: int) -> None:
        if self.rerank_topk > num_images and not self._told_clamp:
            self._told_clamp = True  # once, not with every sentence
            logger.warning(
                f"rerank_topk={self.rerank_topk} exceeds the gallery ({num_images} images): all are re-ranked"
            )


def _refuse_surrogates(caption: str) -> None:
    if _SURROGATE.search(caption):
        raise ConfigError(f"the sentence {caption!r} holds half a character (a lone surrogate): decode it anew")


def to_picture(image: ImageInput, name: str) -> Image.Image:
    """The RGB picture of any input.

    Raises:
        ImageError: it is no picture, or an unusable one.
    """
    if isinstance(image, str | os.PathLike):
        return load_person_image(image)
    if isinstance(image, Image.Image):
        return to_person_image(image, name)
    array = image if isinstance(image, np.ndarray) else _from_tensor(image)
    if array is not None and array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
        return to_person_image(Image.fromarray(np.ascontiguousarray(array)), name)
    raise ImageError(_unusable(image, name))


def _from_tensor(image: object) -> np.ndarray | None:
    """A tensor (3, H, W) as an array (H, W, 3); None for anything else. Torch need not be installed."""
    if not hasattr(image, "detach") or getattr(image, "ndim", None) != 3 or image.shape[0] != 3:
        return None
    return image.detach().cpu().numpy().transpose(1, 2, 0)


def _list_images(images: ImageInput | Iterable[ImageInput]) -> list[ImageInput]:
    if isinstance(images, str | os.PathLike) and os.path.isdir(images):
        found = find_images(images)
        if not found:
            raise ConfigError(f"the folder {images} holds no image file: give the folder of the pictures")
        return found
    one = isinstance(images, str | os.PathLike | Image.Image) or getattr(images, "ndim", None) == 3
    if not one and not isinstance(images, Iterable):
        raise ImageError(_unusable(images, "image 0"))
    images = [images] if one else list(images)
    if not images:
        raise ConfigError("encode_image got no image: give at least one path or PIL image")
    return images


def _unusable(image: object, name: str) -> str:
    kind = type(image).__name__
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        kind = f"{kind} of shape {tuple(image.shape)} and type {image.dtype}"
    return (
        f"{name} is a {kind}: give a path, a PIL image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W), both RGB"
    )
