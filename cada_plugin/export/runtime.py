"""A retriever that runs ONNX graphs, where torch need not be installed.

It has the methods of :class:`cada_plugin.apis.Retriever`, takes the same pictures and sentences, and gives numpy arrays
in place of tensors. Galleries of either are searched by both. Needs onnxruntime, tokenizers, Pillow, numpy, safetensors
and tqdm.

Shape letters: Q sentences, I and G images, P pairs, T text tokens, S image tokens, C width, D embedding, K shortlist.
"""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cada_plugin.errors import CheckpointError, ConfigError, GalleryError, ImageError, first_line, needs_extra
from cada_plugin.export.manifest import CALIBRATION, TOKENIZER, Manifest
from cada_plugin.export.onnx_header import FINGERPRINT, OPSET, read_header
from cada_plugin.portable.calibration import Calibration
from cada_plugin.portable.captions import CLIPFile, WordPieceFile
from cada_plugin.portable.features import Hit, ImageFeatures, TextFeatures
from cada_plugin.portable.pictures import find_images, load_person_image, raise_for_bad_images, to_person_image
from cada_plugin.portable.pixels import resized
from cada_plugin.retrieval.encoded_images import EncodedImages

logger = logging.getLogger(__name__)

ImageInput = str | os.PathLike | Image.Image | np.ndarray
_TOKENIZERS = {"wordpiece": WordPieceFile, "clip": CLIPFile}
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_PAIRS = 64  # matched in one call: bounds memory, as every pair has a copy of its image's keys and values


class OnnxRetriever:
    """Make one with ``load_retriever(FOLDER, backend='onnx')``.

    Args:
        folder: of ``cada export --format onnx``.

    Raises:
        CheckpointError: the folder is of another kind, a graph is missing, cut off, too old, or of another model.
        MissingExtraError: onnxruntime or tokenizers is not installed.
    """

    device = "cpu"

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder).expanduser()
        self.manifest = manifest = Manifest.read(self.folder, "onnx")
        self.rerank_topk, self.cosine_weight = manifest.rerank_topk, manifest.cosine_weight
        self.can_match = manifest.can_match
        settings = manifest.tokenizer
        self.tokenizer = _TOKENIZERS[settings["rules"]](
            self.folder / TOKENIZER / "tokenizer.json",
            settings["max_words"],
            settings["max_length"],
            settings["end_id"],
        )
        names = ("image", "text", "match") if self.can_match else ("image", "text")
        self._graphs = {name: _session(self.folder / f"{name}.onnx", manifest.fingerprint) for name in names}
        calibration = self.folder / CALIBRATION
        self.calibration = Calibration.load(calibration) if calibration.is_file() else None
        self._told_clamp = False

    @property
    def name(self) -> str:
        """Class of the model."""
        return self.manifest.model

    def fingerprint(self) -> str:
        """Of the weights: the same text as that of the model in PyTorch, for int8 graphs one of their own."""
        return self.manifest.fingerprint

    # ------------------------------------------------------------------ encoding

    def encode_image(self, images: ImageInput | Iterable[ImageInput], batch_size: int = 64) -> EncodedImages:
        """Encode one or many images, as ``Retriever.encode_image`` does, which also lists the errors."""
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
        """
        return self._encode(images, batch_size, go_on=True)

    def _encode(
        self, images: Sequence[ImageInput], batch_size: int, go_on: bool
    ) -> tuple[EncodedImages | None, dict[int, str]]:
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
                batches.append(self._run("image", images=np.stack(prepared)))
                paths += files
        if not batches:
            return None, bad
        tokens = np.concatenate([batch[1] for batch in batches]) if self.can_match else None
        return EncodedImages(np.concatenate([batch[0] for batch in batches]), tokens, paths), bad

    def _prepare(self, image: ImageInput, name: str) -> np.ndarray:
        return resized(_to_picture(image, name), self.manifest.image_size, self.manifest.interpolation)

    def encode_text(self, captions: str | Iterable[str], batch_size: int = 256) -> TextFeatures:
        """Encode sentences: ``embed`` (Q, D), ids and mask (Q, T). Long sentences are cut, which is logged.

        Raises:
            ConfigError: there is no sentence, or a sentence is not text or has no word that the model can read.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        if not captions or not all(isinstance(caption, str) for caption in captions):
            raise ConfigError("encode_text needs sentences: give one non-empty string or several")
        broken = next((caption for caption in captions if _SURROGATE.search(caption)), None)
        if broken is not None:
            raise ConfigError(f"the sentence {broken!r} holds half a character (a lone surrogate): decode it anew")
        if cut := self.tokenizer.count_truncated(captions):
            limit = self.tokenizer.max_length
            logger.warning(f"{cut} of {len(captions)} sentences are longer than the model reads: cut at {limit} tokens")
        encoded = [self.tokenizer.encode(caption).input_ids for caption in captions]
        lengths = np.array([len(ids) for ids in encoded])
        if lengths.min() <= 2:  # start and end alone
            raise ConfigError(
                f"the sentence {captions[int(lengths.argmin())]!r} has no word that the model reads: give a non-empty "
                "sentence that describes a person"
            )
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.zeros(mask.shape, np.int64)
        ids[mask] = np.concatenate(encoded)
        embeds = [
            self._run("text", input_ids=ids[rows], attention_mask=mask[rows])[0]
            for rows in (slice(start, start + batch_size) for start in range(0, len(ids), batch_size))
        ]
        return TextFeatures(np.concatenate(embeds), ids, mask)

    # ------------------------------------------------------------------ matching and searching

    def match(
        self, texts: TextFeatures, images: EncodedImages | ImageFeatures, pairs: np.ndarray | None = None
    ) -> np.ndarray:
        """Raw match logits: (Q, I) of every sentence with every image, or (P,) of the given pairs alone.

        Args:
            texts: Q sentences, from :meth:`encode_text`.
            images: I images, from :meth:`encode_image`.
            pairs: (P, 2) integers, each a row of ``texts`` and a row of ``images``.

        Raises:
            ConfigError: the model has no trained match head.
        """
        if not self.can_match or images.tokens is None:
            raise ConfigError(f"{self.name} was trained without matching: rank by the cosine alone")
        ids, mask, tokens = (np.asarray(x) for x in (texts.input_ids, texts.attention_mask, images.tokens))
        shape = None
        if pairs is None:
            shape = len(ids), len(tokens)
            pairs = np.stack(np.divmod(np.arange(shape[0] * shape[1]), shape[1]), 1)
        pairs = np.asarray(pairs)
        order = np.lexsort((pairs[:, 0], pairs[:, 1]))  # by image, whose keys and values are computed once in a call
        logits = np.empty(len(pairs), np.float32)
        for start in range(0, len(order), _MAX_PAIRS):
            some = order[start : start + _MAX_PAIRS]
            rows, image = np.unique(pairs[some, 1], return_inverse=True)
            text = pairs[some, 0]
            length = int(mask[text].sum(1).max())
            logits[some] = self._run(
                "match",
                input_ids=ids[text, :length],
                attention_mask=mask[text, :length],
                image_tokens=tokens[rows].astype(np.float32, copy=False),
                images=image.astype(np.int64),
            )[0]
        return logits if shape is None else logits.reshape(shape)

    def search(
        self, captions: str | Iterable[str], gallery: EncodedImages | ImageFeatures, topk: int = 10
    ) -> list[list[Hit]]:
        """Find the ``topk`` best images of the gallery for each sentence, best first, as ``Retriever.search`` does.

        Raises:
            ConfigError: ``topk`` is below 1, or a sentence is unusable, see :meth:`encode_text`.
            GalleryError: the gallery is empty or was encoded by another kind of model.
        """
        if topk < 1:
            raise ConfigError(f"topk={topk}: use an integer from 1")
        texts = self.encode_text(captions)
        embed = np.asarray(gallery.embed, dtype=np.float32)
        num_images, width = embed.shape
        if num_images == 0 or width != texts.embed.shape[1]:
            raise GalleryError(
                f"a gallery of {num_images} images with embeddings of {width} numbers cannot be searched: this model "
                f"needs one image at least, and embeddings of {texts.embed.shape[1]}. Encode the images with it"
            )
        cosine = texts.embed @ embed.T  # (Q, G)
        order = np.argsort(-cosine, axis=1, kind="stable")
        logits = np.full_like(cosine, np.nan)
        K = min(self.rerank_topk, num_images) if self.can_match and gallery.tokens is not None else 0
        if K > 0:
            self._tell_clamp(num_images)
            pairs = np.stack([np.arange(len(cosine)).repeat(K), order[:, :K].ravel()], 1)
            logits[pairs[:, 0], pairs[:, 1]] = self.match(texts, gallery, pairs)
            final = (logits + self.cosine_weight * cosine)[np.arange(len(cosine))[:, None], order[:, :K]]  # (Q, K)
            order[:, :K] = np.take_along_axis(order[:, :K], np.argsort(-final, axis=1, kind="stable"), 1)
        paths = gallery.paths if isinstance(gallery, EncodedImages) else [None] * num_images
        return [
            [
                Hit(int(i), paths[i], rank, float(c[i]), None if np.isnan(m[i]) else float(m[i]))
                for rank, i in enumerate(best[:topk], 1)
            ]
            for best, c, m in zip(order, cosine, logits, strict=True)
        ]

    def _tell_clamp(self, num_images: int) -> None:
        if self.rerank_topk > num_images and not self._told_clamp:
            self._told_clamp = True  # once, not with every sentence
            logger.warning(
                f"rerank_topk={self.rerank_topk} exceeds the gallery ({num_images} images): all are re-ranked"
            )

    def _run(self, name: str, **inputs: np.ndarray) -> list[np.ndarray]:
        return self._graphs[name].run(None, inputs)


def open_onnx(folder: object, device: object = "cpu") -> OnnxRetriever:
    """The retriever of a folder of ONNX graphs.

    Raises:
        CheckpointError: see :class:`OnnxRetriever`.
        ConfigError: a config was given in place of a folder, or a device other than the CPU.
    """
    if not isinstance(folder, str | os.PathLike):
        raise ConfigError(f"backend='onnx' opens the folder of an export, not a {type(folder).__name__}: give its path")
    if str(device) != "cpu":
        raise ConfigError(f"backend='onnx' runs on the CPU, not on {device}: leave device out, or use PyTorch")
    return OnnxRetriever(folder)


def _session(path: Path, fingerprint: str) -> object:
    """A graph, ready to run.

    Raises:
        CheckpointError: it is damaged, too old, or of another model.
    """
    with needs_extra("onnx"):
        import onnxruntime
    header = read_header(path)
    if header.opset < OPSET:
        raise CheckpointError(
            f"{path} is written for opset {header.opset} of ONNX, and {OPSET} or later is read: export the model again"
        )
    mark = header.metadata.get(FINGERPRINT)
    if mark != fingerprint:
        raise CheckpointError(
            f"{path} is a graph of {mark or 'an unknown model'}, and its folder is of {fingerprint}: graphs of several "
            "models were mixed. Export the model again"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 3  # errors alone
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise CheckpointError(f"{path} cannot be run ({first_line(error)}): export the model again") from error


def _threads() -> int:
    """As many as PyTorch would take: OMP_NUM_THREADS, else the cores that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(given) if given.isdigit() and int(given) > 0 else cores


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


def _to_picture(image: ImageInput, name: str) -> Image.Image:
    if isinstance(image, str | os.PathLike):
        return load_person_image(image)
    if isinstance(image, Image.Image):
        return to_person_image(image, name)
    array = np.asarray(image)  # also of a tensor (3, H, W), as torch may be installed
    if array.dtype == np.uint8 and array.ndim == 3 and not isinstance(image, np.ndarray) and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
        return to_person_image(Image.fromarray(np.ascontiguousarray(array)), name)
    raise ImageError(_unusable(image, name))


def _unusable(image: object, name: str) -> str:
    kind = type(image).__name__
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        kind = f"{kind} of shape {tuple(image.shape)} and type {image.dtype}"
    return f"{name} is a {kind}: give a path, a PIL image, or a uint8 array (H, W, 3), all RGB"
