"""What CADA and BLIP share: two encoders, and a text encoder that can also *fuse* a caption with an image.

The same BERT serves twice. Without an image it is the text encoder of stage 1. With the keys and values of an image (an
:class:`ImageMemory`) its cross-attention layers let each text token look at the image patches; the state of the first
token, ``[ENC]``, then says through the match head whether caption and image belong together (ITM). That is stage 2.

Shape letters: B pairs of this process, A pairs of all processes, T text tokens, S image tokens, C width, D embedding.
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.errors import ConfigError
from cada_plugin.models.cross_modal import ImageMemory, counting_is_free, init_bert_weights, moved_places
from cada_plugin.models.distributed import gather, get_world_size, max_over_processes
from cada_plugin.models.retriever import ImageFeatures, TextFeatures, TextImageRetriever
from cada_plugin.registry import MODELS, TASK_UTILS, build_part


class EncodedPairs(NamedTuple):
    """A training batch after both encoders. Projections are not normalised."""

    image_tokens: Tensor
    """(B, S, C_image) of this process."""
    image_proj: Tensor
    """(B, D)."""
    text_proj: Tensor
    """(B, D)."""
    person_ids: Tensor
    """(B,)."""
    all_images: Tensor
    """(A, D) projections of all processes, fp32, with gradient."""
    all_texts: Tensor
    """(A, D)."""
    all_people: Tensor
    """(A,)."""
    one_person: bool
    """The B pairs of this process show one person."""


class FusedPairs(NamedTuple):
    """Captions fused with images: B true pairs, B captions with a wrong image, B images with a wrong caption."""

    states: Tensor
    """(3B, T, C), or (3B, 1, C) if only the first token is computed."""
    attention_mask: Tensor
    """(3B, T) bool."""
    phrase_index: Tensor
    """(3B, T) long, -1 outside of phrases."""
    matched: Tensor
    """(3B,) bool, True for the true pairs."""
    memory: ImageMemory
    """Keys and values; the first B images are those of the batch."""
    wrong_image: Tensor
    """(B,) long, the wrong image of each caption among those of all processes."""


class FusionRetriever(TextImageRetriever):
    """Base of models with a fusion decoder. Subclasses write ``loss`` and :meth:`choose_negatives`.

    Args:
        visual_encoder: gives tokens (B, S, C_image), the pooled one first, and has ``width``; see ``ViTEncoder``.
        text_encoder: text encoder and fusion decoder in one; see ``CrossModalBert``. ``vocab_size`` and ``image_width``
            are filled in from the tokenizer and the image encoder.
        tokenizer: see ``CaptionTokenizer``; the data pipeline uses the same.
        embed_dim: size D of the common space of stage 1.
        group_head: build a second match head, for groups of tokens.
        data_preprocessor: see ``PersonDataPreprocessor``.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` or None.
    """

    can_match = True
    false_captions = 0.0
    """Share of the wrong captions of :meth:`fuse_with_negatives` that are false copies of the true one."""

    def __init__(
        self,
        visual_encoder: dict,
        text_encoder: dict,
        tokenizer: dict,
        embed_dim: int = 256,
        group_head: bool = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.tokenizer = build_part(TASK_UTILS, tokenizer)
        self.visual_encoder = build_part(MODELS, visual_encoder)
        self.text_encoder = build_part(MODELS, {**self.decoder_defaults(), **text_encoder})
        width = self.text_encoder.width
        self.vision_proj = nn.Linear(self.visual_encoder.width, embed_dim)
        self.text_proj = nn.Linear(width, embed_dim)
        self.itm_head = nn.Linear(width, 2)  # the released names of BLIP and CADA
        self.itm_local_head = nn.Linear(width, 2) if group_head else None
        for head in (self.vision_proj, self.text_proj, self.itm_head, self.itm_local_head):
            if head is not None:
                init_bert_weights(head)

    def decoder_defaults(self) -> dict[str, int]:
        """Arguments that every decoder of this model takes from its tokenizer and image encoder."""
        return {"vocab_size": len(self.tokenizer), "image_width": self.visual_encoder.width}

    # ------------------------------------------------------------------ retrieval

    def encode_image(self, images: Tensor) -> ImageFeatures:
        tokens = self.visual_encoder(images)  # (B, S, C_image)
        return ImageFeatures(F.normalize(self.vision_proj(tokens[:, 0]).float(), dim=-1), tokens)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> TextFeatures:
        states = self.text_encoder(input_ids, attention_mask, first_only=True)  # (Q, 1, C)
        embed = F.normalize(self.text_proj(states[:, 0]).float(), dim=-1)
        return TextFeatures(embed, input_ids, attention_mask)

    def image_memory(self, tokens: Tensor) -> ImageMemory:
        return self.text_encoder.image_memory(tokens)

    def match(self, texts: TextFeatures, memory: ImageMemory, images: Tensor) -> Tensor:
        """Raw logits (P,) of the class "match". Fastest if all images have about equally many texts."""
        fused = self.fuse(texts.input_ids, texts.attention_mask, memory, images, first_only=True)
        return self.itm_head(fused[:, 0])[:, 1].float()

    def match_with_maps(self, texts: TextFeatures, memory: ImageMemory) -> tuple[Tensor, list[Tensor]]:
        """Match logit (1,) of one caption with one image, and the cross-attention weights (1, H, T, S) of each layer,
        of which the logit has a gradient. In the last layer only the first token attends: (1, H, 1, S)."""
        maps: list[Tensor] = []
        fused = self.fuse(texts.input_ids, texts.attention_mask, memory, first_only=True, maps=maps)
        return self.itm_head(fused[:, 0])[:, 1].float(), maps

    def fuse(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        memory: ImageMemory,
        images: Tensor | None = None,
        first_only: bool = False,
        compute_padding: bool = False,
        maps: list[Tensor] | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """States (P, T, C) of captions that attend to ``images`` (P,) of ``memory``; their first token becomes
        ``[ENC]``.

        The other arguments are those of ``CrossModalBert.forward``.
        """
        input_ids = torch.cat([torch.full_like(input_ids[:, :1], self.tokenizer.enc_id), input_ids[:, 1:]], 1)
        return self.text_encoder(
            input_ids,
            attention_mask,
            memory,
            images,
            first_only=first_only,
            compute_padding=compute_padding,
            maps=maps,
            places=places,
        )

    # ------------------------------------------------------------------ steps of a training

    def encode_pairs(self, inputs: dict, data_samples: list) -> EncodedPairs:
        """Both encoders on a batch; projections and person ids are gathered from all processes."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        people = [int(sample.person_id) for sample in data_samples]
        person_ids = torch.tensor(people).to(ids.device, non_blocking=True)  # (B,)
        image_tokens = self.visual_encoder(inputs["images"])  # (B, S, C_image)
        image_proj = self.vision_proj(image_tokens[:, 0])  # (B, D)
        states = self.text_encoder(ids, mask, first_only=True, places=inputs.get("token_places"))  # (B, 1, C)
        text_proj = self.text_proj(states[:, 0])  # (B, D)
        return EncodedPairs(
            image_tokens,
            image_proj,
            text_proj,
            person_ids,
            gather(image_proj.float()),
            gather(text_proj.float()),
            gather(person_ids),
            len(set(people)) == 1,
        )

    @staticmethod
    def contrast(loss: nn.Module, pairs: EncodedPairs) -> Tensor:
        """Apply a contrastive loss to the normalised embeddings and person ids of all processes."""
        images, texts = (F.normalize(x, dim=-1) for x in (pairs.all_images, pairs.all_texts))
        return loss(images, texts, pairs.all_people)

    @abstractmethod
    def choose_negatives(self, own: Tensor, others: Tensor, same: Tensor) -> Tensor:
        """Column (B,) of a wrong partner for every row.

        Args:
            own, others: projections (B, D) and (A, D), not normalised.
            same: (B, A) bool, True for the row's own person.
        """

    def fuse_with_negatives(
        self, inputs: dict, pairs: EncodedPairs, first_only: bool = False, padded: bool = False
    ) -> FusedPairs:
        """True pairs, captions with a wrong image and images with a wrong caption, fused as one batch of 3 B.

        Args:
            inputs: ``input_ids`` (B, T), ``attention_mask`` (B, T), ``phrase_index`` (B, T) if there are phrases, and
                ``false_ids`` (B, F) if ``false_captions`` is not 0.
            first_only: compute only the state of the first token in the last layer.
            padded: pad to the tokenizer's ``max_length``, and compute the states of padding too.

        Raises:
            ConfigError: the batch shows one person only, so that there is no wrong partner.
        """
        # Looked up on the CPU first, so that the normal case, a batch of many people, does not wait for the device.
        if pairs.one_person and bool((pairs.all_people == pairs.all_people[0]).all()):
            raise ConfigError(
                f"all {len(pairs.all_people)} pairs of the batch show person {int(pairs.all_people[0])}, so matching "
                "has no negatives: use a larger batch_size, a shuffling sampler, or IdentitySampler with more than one "
                "identity a batch"
            )
        same = pairs.person_ids[:, None] == pairs.all_people[None, :]  # (B, A)
        wrong_image = self.choose_negatives(pairs.text_proj, pairs.all_images, same)
        wrong_text = self.choose_negatives(pairs.image_proj, pairs.all_texts, same)

        B = len(pairs.image_tokens)
        own = torch.arange(B, device=pairs.image_tokens.device)
        texts = self._padded_texts(inputs, padded)  # ids, mask, phrases: (B, T) each
        wrong = [gather(x)[wrong_text] for x in texts]
        if self.false_captions:
            wrong = self._with_false_captions(inputs, texts, wrong)
        ids, mask, phrases = (torch.cat([x, x, other]) for x, other in zip(texts, wrong, strict=True))  # (3B, T)
        asked_image = wrong_image
        if get_world_size() == 1:
            memory = self.text_encoder.image_memory(pairs.image_tokens)
        else:  # wrong images of other processes arrive as tokens: their keys and values are made here
            memory = self.text_encoder.image_memory(
                torch.cat([pairs.image_tokens, gather(pairs.image_tokens)[wrong_image]])
            )
            asked_image = own + B
        # Keys and values are copied for every text. Shared ones would pad every image to as many query tokens as the
        # most popular image has, and one hard negative can be the wrong image of most captions.
        asked = memory.select(torch.cat([own, asked_image, own]))
        places = None if counting_is_free(mask) else _places_without_counting(inputs, mask)
        states = self.fuse(ids, mask, asked, first_only=first_only, compute_padding=padded, places=places)
        return FusedPairs(states, mask, phrases, torch.arange(3 * B, device=ids.device) < B, memory, wrong_image)

    def _with_false_captions(self, inputs: dict, own: tuple[Tensor, ...], wrong: list[Tensor]) -> list[Tensor]:
        """The wrong texts, a share of them replaced by false copies of the rows' own captions.

        A false copy has the tokens of the caption but for a few, so mask and phrases are the caption's.
        """
        if "false_ids" not in inputs:
            raise ConfigError(
                "false_captions needs false copies of the captions: add dict(type='FalsifyCaption') to the pipeline, "
                "or set false_captions=0"
            )
        ids = inputs["false_ids"]
        exists = (ids != self.tokenizer.pad_id).any(1)
        chosen = (exists & (torch.rand(len(ids), device=ids.device) < self.false_captions))[:, None]  # (B, 1)
        ids = F.pad(ids, (0, own[0].shape[1] - ids.shape[1]), value=self.tokenizer.pad_id)
        return [torch.where(chosen, false, other) for false, other in zip((ids, *own[1:]), wrong, strict=True)]

    def _padded_texts(self, inputs: dict, padded: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and phrase numbers at a length that all processes share."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        phrases = inputs.get("phrase_index", torch.full_like(ids, -1))
        longest = self.tokenizer.max_length
        if ids.shape[1] > longest:
            raise ConfigError(
                f"texts have {ids.shape[1]} tokens, but the model's tokenizer has max_length={longest}: "
                "give the pipeline and the model the same tokenizer"
            )
        length = longest if padded else max_over_processes(ids.shape[1], ids.device)
        missing = length - ids.shape[1]
        pad = self.tokenizer.pad_id
        return F.pad(ids, (0, missing), value=pad), F.pad(mask, (0, missing)), F.pad(phrases, (0, missing), value=-1)


def _places_without_counting(inputs: dict, mask: Tensor) -> Tensor | None:
    """Places of the tokens of 3 B texts (3B, T), of which the first two thirds are the batch's own captions.

    The lengths of the wrong captions are known to the device alone, and to ask it for them would stop the host in
    every step. So the states of their padding, which nothing reads, are computed too.
    """
    if "token_places" not in inputs:
        return None
    length, width = mask.shape[1], inputs["input_ids"].shape[1]
    own = moved_places(inputs["token_places"], width, length)  # the texts may have been padded meanwhile
    size = len(mask) // 3 * length
    return torch.cat([own, own + size, torch.arange(2 * size, 3 * size, device=mask.device)])
