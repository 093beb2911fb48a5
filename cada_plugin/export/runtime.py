"""A retriever that runs ONNX graphs, where torch need not be installed.

It has the methods of :class:`cada_plugin.apis.Retriever`, takes the same pictures and sentences, and gives numpy arrays
in place of tensors. Galleries of either are searched by both. Needs onnxruntime, tokenizers, Pillow, numpy, safetensors
and tqdm.

Shape letters: Q sentences, I and G images, P pairs, T text tokens, S image tokens, C width, D embedding, K shortlist.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cada_plugin.errors import CheckpointError, ConfigError, first_line, needs_extra
from cada_plugin.export.manifest import CALIBRATION, TOKENIZER, Manifest
from cada_plugin.export.onnx_header import FINGERPRINT, OPSET, read_header
from cada_plugin.portable.calibration import Calibration
from cada_plugin.portable.captions import CLIPFile, WordPieceFile
from cada_plugin.portable.features import Hit, ImageFeatures, TextFeatures
from cada_plugin.portable.phrases import phrase_numbers
from cada_plugin.portable.pixels import resized
from cada_plugin.retrieval.base_retriever import BaseRetriever, ImageInput, to_picture
from cada_plugin.retrieval.encoded_images import EncodedImages

_TOKENIZERS = {"wordpiece": WordPieceFile, "clip": CLIPFile}
_MAX_PAIRS = 64  # matched in one call: bounds memory, as every pair has a copy of its image's keys and values


class OnnxRetriever(BaseRetriever):
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

    @property
    def name(self) -> str:
        """Class of the model."""
        return self.manifest.model

    def fingerprint(self) -> str:
        """Of the weights: the same text as that of the model in PyTorch, for int8 graphs one of their own."""
        return self.manifest.fingerprint

    # ------------------------------------------------------------------ encoding

    def _encode_batch(self, images: list[np.ndarray]) -> ImageFeatures:
        embed, *tokens = self._run("image", images=np.stack(images))
        return ImageFeatures(embed, tokens[0] if self.can_match else None)

    def _word_maps(self, caption: str, tokens: object, layer: int | None) -> tuple[None, None]:
        if layer is not None:
            raise ConfigError(
                f"layer={layer}: maps need gradients, which ONNX graphs do not give. Leave layer out for the changes "
                "of the phrases alone, or explain with PyTorch: load_retriever(CONFIG, CHECKPOINT) or weights' folder"
            )
        return None, None

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def _prepare(self, image: ImageInput, name: str) -> np.ndarray:
        return resized(to_picture(image, name), self.manifest.image_size, self.manifest.interpolation)

    def encode_text(self, captions: str | Iterable[str], batch_size: int = 256) -> TextFeatures:
        """Encode sentences: ``embed`` (Q, D), ids and mask (Q, T). Long sentences are cut, which is logged.

        Raises:
            ConfigError: there is no sentence, or a sentence is not text or has no word that the model can read.
        """
        encoded = self._ids(captions)
        lengths = np.array([len(ids) for ids in encoded])
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
            raise self._no_match_head()
        ids, mask, tokens = (np.asarray(x) for x in (texts.input_ids, texts.attention_mask, images.tokens))
        shape = None
        if pairs is None:
            shape = len(ids), len(tokens)
            pairs = np.stack(np.divmod(np.arange(shape[0] * shape[1]), shape[1]), 1)
        pairs = np.asarray(pairs)
        fields = {"input_ids": ids, "attention_mask": mask}
        if self.manifest.asks_phrases:
            decode = self.tokenizer.decode
            fields["phrase_index"] = np.array([phrase_numbers(decode(row)) for row in ids.tolist()], np.int64)
        order = np.lexsort((pairs[:, 0], pairs[:, 1]))  # by image, whose keys and values are computed once in a call
        logits = np.empty(len(pairs), np.float32)
        for start in range(0, len(order), _MAX_PAIRS):
            some = order[start : start + _MAX_PAIRS]
            rows, image = np.unique(pairs[some, 1], return_inverse=True)
            text = pairs[some, 0]
            length = int(mask[text].sum(1).max())
            logits[some] = self._run(
                "match",
                **{name: field[text, :length] for name, field in fields.items()},
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
        self._check_searchable(gallery, texts.embed.shape[1])
        num_images = len(embed)
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
