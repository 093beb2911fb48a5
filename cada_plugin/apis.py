"""Use a trained model from any program, without a Runner: encode images and sentences, match, search.

from cada_plugin.apis import load_retriever

retriever = load_retriever('configs/cada_procedural.py')
gallery = retriever.encode_image(['a.jpg', 'b.jpg'])
for hit in retriever.search('a woman in a red coat with a black backpack', gallery)[0]:
    print(hit.index, hit.score)
"""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms.v2 import functional

from cada_plugin.checkpoints import load_checkpoint
from cada_plugin.datasets.images import load_person_image, to_rgb
from cada_plugin.engine.rerank import match_shortlists
from cada_plugin.errors import ConfigError
from cada_plugin.evaluation.result import cosine_similarity, final_scores, stage_one_shortlist
from cada_plugin.models.retriever import ImageFeatures, TextFeatures, TextImageRetriever
from cada_plugin.registry import MODELS, TRANSFORMS, build_part

ImageInput = str | os.PathLike | Image.Image


class Hit(NamedTuple):
    """One image found: its position in the gallery, its final score, and its stage-1 cosine."""

    index: int
    score: float
    cosine: float


class Retriever:
    """A model with the image transforms it was tested with. Make one with :func:`load_retriever`.

    Args:
        model: in eval mode, on the device it is to run on.
        image_transforms: test-time transforms between a uint8 image (3, H, W) and the model's preprocessor.
        rerank_topk, cosine_weight: of stage 2 in :meth:`search`, as in ``RetrievalTestLoop``.
    """

    def __init__(
        self, model: TextImageRetriever, image_transforms: Sequence, rerank_topk: int = 32, cosine_weight: float = 1.0
    ) -> None:
        self.model, self.image_transforms = model, list(image_transforms)
        self.rerank_topk, self.cosine_weight = rerank_topk, cosine_weight

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def encode_image(self, images: ImageInput | Iterable[ImageInput], batch_size: int = 64) -> ImageFeatures:
        """Paths or PIL images -> ``embed`` (B, D) on the CPU and ``tokens`` (B, 1+N, C) for matching, or None.

        Raises:
            ImageError: a file is missing, damaged, not an image or too large; it is named.
        """
        images = [images] if isinstance(images, str | os.PathLike | Image.Image) else list(images)
        if not images:
            raise ConfigError("encode_image got no image: give at least one path or PIL image")
        batches = []
        for start in range(0, len(images), batch_size):
            stack = torch.stack([self._prepare(image) for image in images[start : start + batch_size]])
            inputs = self.model.data_preprocessor({"inputs": {"images": stack}}, False)["inputs"]
            embed, tokens = self.model.encode_image(inputs["images"])
            batches.append(ImageFeatures(embed.cpu(), tokens.cpu() if self.model.can_match else None))
        tokens = torch.cat([b.tokens for b in batches]) if self.model.can_match else None
        return ImageFeatures(torch.cat([b.embed for b in batches]), tokens)

    @torch.no_grad()
    def encode_text(self, captions: str | Iterable[str], batch_size: int = 256) -> TextFeatures:
        """Sentences -> ``embed`` (Q, D), ids and mask (Q, T), on the CPU. Too long ones are cut, which is logged."""
        captions = [captions] if isinstance(captions, str) else list(captions)
        if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
            raise ConfigError("encode_text needs sentences: give one non-empty string or several")
        tokenizer = self.model.tokenizer
        if cut := tokenizer.count_truncated(captions):
            limit = tokenizer.max_length
            print_log(f"{cut} of {len(captions)} sentences are longer than the model reads: cut at {limit} tokens")
        encoded = [torch.tensor(tokenizer.encode(caption).input_ids) for caption in captions]
        lengths = torch.tensor([len(ids) for ids in encoded])
        ids, mask = pad_sequence(encoded, batch_first=True), torch.arange(int(lengths.max())) < lengths[:, None]
        embeds = [
            self.model.encode_text(i.to(self.device), m.to(self.device)).embed.cpu()
            for i, m in zip(ids.split(batch_size), mask.split(batch_size), strict=True)
        ]
        return TextFeatures(torch.cat(embeds), ids, mask)

    def match(self, texts: TextFeatures, images: ImageFeatures, pairs: Tensor | None = None) -> Tensor:
        """Raw match logits: (Q, I) of every sentence with every image, or (P,) of ``pairs`` (P, 2) of their rows.

        Raises:
            ConfigError: the model has no trained match head.
        """
        if not self.model.can_match or images.tokens is None:
            raise ConfigError(f"{type(self.model).__name__} was trained without matching: rank by the cosine alone")
        num_images = len(images.tokens)
        if pairs is None:
            everything = torch.arange(num_images).expand(len(texts.embed), num_images)
            return self._match_shortlists(texts, images, everything)
        one = TextFeatures(*(field[pairs[:, 0]] for field in texts))
        return self._match_shortlists(one, images, pairs[:, 1:]).squeeze(1)

    def search(self, captions: str | Iterable[str], gallery: ImageFeatures, topk: int = 10) -> list[list[Hit]]:
        """The ``topk`` best images of the gallery for each sentence, best first.

        Shortlisted by cosine; where the model can match, the best ``rerank_topk`` are ordered by match logit +
        ``cosine_weight`` * cosine and the others follow in their stage-1 order.
        """
        texts = self.encode_text(captions)
        cosine = cosine_similarity(texts.embed, gallery.embed)  # (Q, G)
        scores = cosine
        shortlist_size = min(self.rerank_topk, len(gallery.embed))
        if self.model.can_match and gallery.tokens is not None and shortlist_size:
            shortlist = stage_one_shortlist(texts.embed, gallery.embed, shortlist_size)
            logits = self._match_shortlists(texts, gallery, shortlist)
            scores = final_scores(cosine, shortlist, logits, self.cosine_weight)
        best = scores.topk(min(topk, len(gallery.embed)))
        return [
            [Hit(i, s, float(cosine[query, i])) for i, s in zip(indices, values, strict=True)]
            for query, (indices, values) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        ]

    def _match_shortlists(self, texts: TextFeatures, images: ImageFeatures, shortlist: Tensor) -> Tensor:
        texts = TextFeatures(*(field.to(self.device) for field in texts))
        rows = torch.arange(len(images.tokens))
        return match_shortlists(self.model, texts, images.tokens, rows, shortlist, progress=False)

    def _prepare(self, image: ImageInput) -> Tensor:
        pil = to_rgb(image) if isinstance(image, Image.Image) else load_person_image(image)
        item = {"image": functional.pil_to_tensor(pil)}
        for transform in self.image_transforms:
            item = transform(item)
        return item["image"]


def load_retriever(
    config: str | os.PathLike | Config, checkpoint: str | os.PathLike | None = None, device: str | torch.device = "cpu"
) -> Retriever:
    """A :class:`Retriever` from a training config and a checkpoint.

    Args:
        config: config file, or a loaded ``Config``.
        checkpoint: any format of :mod:`cada_plugin.checkpoints`. None takes the config's own start weights
            (``init_cfg`` or ``load_from``).
        device: such as ``cpu`` or ``cuda:0``.

    Raises:
        ConfigError: there are no weights to load. CheckpointError: they do not fit.
    """
    if not isinstance(config, Config):
        if not os.path.isfile(config):
            raise ConfigError(f"no config file {config}: give a path such as configs/cada_procedural.py")
        config = Config.fromfile(config)
    model_cfg = ConfigDict(config.model)
    init_cfg = model_cfg.pop("init_cfg", None) or {}
    checkpoint = checkpoint or init_cfg.get("checkpoint") or config.get("load_from")
    if not checkpoint:
        raise ConfigError("a retriever needs weights: give checkpoint=PATH, the config has no init_cfg or load_from")
    model = build_part(MODELS, model_cfg)
    print_log(str(load_checkpoint(model, checkpoint)))
    steps = config.test_dataloader.dataset.pipeline
    image_steps = [step for step in steps if step["type"].removeprefix("cada_plugin.").startswith("torchvision/")]
    test_cfg = config.get("test_cfg") or {}
    return Retriever(
        model.to(device).eval(),
        [build_part(TRANSFORMS, step) for step in image_steps],
        rerank_topk=test_cfg.get("rerank_topk", 32),
        cosine_weight=test_cfg.get("cosine_weight", 1.0),
    )
