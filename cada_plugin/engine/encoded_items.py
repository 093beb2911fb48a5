"""The encoded items of an evaluation: collected batch by batch, then joined over all processes.

Shapes: n items (images) and q captions of one process, G and Q of all.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, all_gather_object, get_rank, get_world_size
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cada_plugin.errors import ConfigError
from cada_plugin.evaluation.result import RetrievalResult, TwoStageScores
from cada_plugin.models.retriever import ImageFeatures, TextFeatures, TextImageRetriever

_BATCH = 256  # captions encoded at once
_META = ("sample_index", "person_id", "captions", "img_path")


class EncodedItems:
    """What evaluation keeps of the items that one process has encoded.

    Embeddings stay on the model's device. Patch tokens are moved to host memory, because those of a whole gallery do
    not fit on most GPUs.

    Args:
        keep_tokens: keep patch tokens, which a second stage needs.
        amp: keep tokens in bf16. Matrix products under autocast would round them to bf16 anyway.
        capacity: number of items of this process.
    """

    def __init__(self, keep_tokens: bool, amp: bool, capacity: int) -> None:
        self._keep_tokens, self._amp, self._capacity = keep_tokens, amp, capacity
        self._meta: list[dict] = []
        self._captions: list[Tensor] = []  # ids without padding, on the host
        self._image_embed: list[Tensor] = []
        self._text_embed: list[Tensor] = []
        self._tokens: Tensor | None = None

    def add(self, batch: dict, images: ImageFeatures, texts: TextFeatures) -> None:
        """Add one batch of the loader with its features."""
        if self._keep_tokens:
            if self._tokens is None:  # allocated once, because concatenating batches would need twice the memory
                dtype = torch.bfloat16 if self._amp else images.tokens.dtype
                self._tokens = torch.empty((self._capacity, *images.tokens.shape[1:]), dtype=dtype)
            begin = len(self._meta)
            self._tokens[begin : begin + len(images.tokens)] = images.tokens
        self._meta += [
            {key: getattr(sample, key) for key in _META} | {"slices": getattr(sample, "slices", None)}
            for sample in batch["data_samples"]
        ]
        ids, mask = batch["inputs"]["input_ids"].cpu(), batch["inputs"]["attention_mask"].cpu()
        self._captions += [row[real] for row, real in zip(ids, mask, strict=True)]
        self._image_embed.append(images.embed)
        self._text_embed.append(texts.embed)

    def gathered(self, size: int) -> "EncodedSplit":
        """The joined items of all processes, each of the ``size`` items once, ordered by ``sample_index``.

        Raises:
            ConfigError: an item is missing, or a run of a single process has one twice.
        """
        parts = all_gather_object((self._meta, self._captions))
        meta = [one for part, _ in parts for one in part]
        captions = [ids for _, part in parts for ids in part]
        mine = sum(len(part) for part, _ in parts[: get_rank()]), len(self._meta)  # my items: start, number
        # A sampler repeats some items so that all processes get the same number; the first copy counts.
        first: dict[int, int] = {}
        for place, item in enumerate(meta):
            first.setdefault(item["sample_index"], place)
        _check_complete(meta, first, size)
        places = torch.tensor([first[index] for index in sorted(first)])  # (G,)

        counts = [len(item["captions"]) for item in meta]
        rows = torch.arange(sum(counts)).split(counts)  # of the captions of each item
        queries = torch.cat([rows[place] for place in places.tolist()])  # (Q,)
        image_embed, text_embed = (gather_rows(torch.cat(x)) for x in (self._image_embed, self._text_embed))
        own = places - mine[0]
        return EncodedSplit(
            [meta[place] for place in places.tolist()],
            ImageFeatures(image_embed[places.to(image_embed.device)], self._tokens),
            joined_texts([captions[query] for query in queries.tolist()], text_embed[queries.to(text_embed.device)]),
            own.where((own >= 0) & (own < mine[1]), -1),
        )


class EncodedSplit:
    """All items of a split. They are the same in all processes, except that each process holds its own image tokens.

    Args:
        meta: G dicts with the annotation of each image.
        images: embeddings (G, D) of all images, and the tokens that this process holds.
        texts: features of all Q captions.
        token_rows: (G,) long, for each image the row of its tokens, or -1 where another process holds them.
    """

    def __init__(self, meta: list[dict], images: ImageFeatures, texts: TextFeatures, token_rows: Tensor) -> None:
        self.meta, self.images, self.texts, self.token_rows = meta, images, texts, token_rows

    def result(self, scores: TwoStageScores) -> RetrievalResult:
        """The scores together with the annotation of queries and gallery."""
        counts = torch.tensor([len(item["captions"]) for item in self.meta])
        images = torch.arange(len(self.meta)).repeat_interleave(counts)  # (Q,)
        gallery_ids = torch.tensor([item["person_id"] for item in self.meta])
        return RetrievalResult(
            **vars(scores),
            query_ids=gallery_ids[images],
            gallery_ids=gallery_ids,
            query_images=images,
            query_slices=self._slices(),
            captions=[caption for item in self.meta for caption in item["captions"]],
            img_paths=[item["img_path"] for item in self.meta],
        )

    def _slices(self) -> list[tuple[str, ...]] | None:
        """The slices of each caption; None if no image has any."""
        if all(item["slices"] is None for item in self.meta):
            return None
        return [tuple(names) for item in self.meta for names in item["slices"] or [()] * len(item["captions"])]


def _check_complete(meta: Sequence[dict], first: dict[int, int], size: int) -> None:
    if (get_world_size() == 1 and len(meta) != len(first)) or sorted(first) != list(range(size)):
        raise ConfigError(
            f"evaluation needs each of the {size} items of the data set once, got {len(meta)} items of which "
            f"{len(first)} differ: use an unshuffled DefaultSampler and drop_last=False"
        )


def gather_rows(x: Tensor) -> Tensor:
    """(n, D) of each process -> (N, D) of all, in rank order; n may differ between processes."""
    if get_world_size() == 1:
        return x
    sizes = torch.cat(all_gather(torch.tensor([len(x)], device=x.device))).tolist()
    padded = all_gather(F.pad(x, (0, 0, 0, max(sizes) - len(x))))
    return torch.cat([part[:size] for part, size in zip(padded, sizes, strict=True)])


def joined_texts(captions: list[Tensor], embed: Tensor) -> TextFeatures:
    """Features of captions, given the ids of each, without padding, and all embeddings (Q, D)."""
    lengths = torch.tensor([len(ids) for ids in captions])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = pad_sequence(captions, batch_first=True)
    return TextFeatures(embed, ids.to(embed.device), mask.to(embed.device))


def encode_captions(model: TextImageRetriever, captions: Sequence[str]) -> TextFeatures:
    """Features of captions, encoded with the model's own tokenizer; the model is in eval mode."""
    device = next(model.parameters()).device
    ids = [torch.tensor(model.tokenizer.encode(caption).input_ids) for caption in captions]
    embeds = []
    for start in range(0, len(ids), _BATCH):
        some = joined_texts(ids[start : start + _BATCH], torch.empty(0, device=device))
        embeds.append(model.encode_text(some.input_ids, some.attention_mask).embed)
    return joined_texts(ids, torch.cat(embeds))
