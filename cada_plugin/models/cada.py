"""CADA, Cross-Modal Adaptive Dual Association (Lin et al., arXiv 2312.01745), on one page.

CADA learns three associations between images and captions:

- *global*: embeddings of images and captions of one person are pulled together. It ranks a whole gallery (stage 1).
- *ATP*, association of text tokens to image patches: in a fusion decoder the tokens of a caption attend to the patches
  of an image, and a match head says whether they belong together, for the whole caption and for groups of its tokens.
  At test time this head re-orders the top of the stage-1 list (stage 2).
- *ARA*, association of image regions to attribute words: a second decoder predicts masked attribute words from the
  image. It is used in training only.

Shape letters: B pairs of this process, A pairs of all processes, T text tokens, S image tokens, C width, D embedding.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import inf, isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.errors import ConfigError
from cada_plugin.models.cross_modal import (
    ImageMemory,
    init_bert_weights,
    masked_places,
    moved_places,
)
from cada_plugin.models.distributed import get_rank, mean_over_processes
from cada_plugin.models.fusion import EncodedPairs, FusedPairs, FusionRetriever
from cada_plugin.models.groupings import Grouping, group_means
from cada_plugin.models.low_rank import add_low_rank
from cada_plugin.models.negatives import further_negatives, hardest_negatives, sampled_negatives, similarities
from cada_plugin.models.renamed import accept_old_names
from cada_plugin.models.retriever import TextFeatures
from cada_plugin.portable.phrases import phrase_numbers
from cada_plugin.registry import MODELS, build_part
from cada_plugin.text import CaptionTokenizer

NEGATIVES = ("hardest", "sampled")
RELEASED_GROUPING = {"type": "PositionGroups", "num_groups": 2}


@MODELS.register_module()
class CADA(FusionRetriever):
    """The model. Its parts are given as configs.

    Args:
        visual_encoder, text_encoder, tokenizer, embed_dim, data_preprocessor, init_cfg: see :class:`FusionRetriever`.
        text_decoder: the attribute decoder of ARA, see ``AttributeDecoder``; None together with ``loss_ara``.
        loss_global: such as ``GlobalAssociationLoss``; None leaves the global association out.
        loss_atp: see ``MatchingLoss``. With None, ATP is left out and the model does not re-rank.
        loss_ara: see ``MaskedAttributeLoss``; None leaves ARA out.
        loss_ranking: see ``MatchRankingLoss``: the match head also learns to put true pairs before wrong ones.
        loss_phrases: see ``PhraseMatchingLoss``. With it the model also says of each attribute phrase alone whether it
            is true of an image (:meth:`phrase_logits`). Needs ``TagAttributes`` and ``FalsifyPhrases`` in the pipeline.
        phrase_weight: :meth:`match` adds this many times the mean log-odds of the phrases of a caption to its match
            logit, which takes about as long again. The phrases are those of the plugin's word list. Needs
            ``loss_phrases``; 0 asks captions as a whole alone.
        grouping: which tokens ATP classifies together, see :mod:`cada_plugin.models.groupings`: ``PositionGroups``
            (released), ``TokenGroups`` or ``PhraseGroups``. None classifies whole captions alone.
        shared_head: classify groups with the match head of whole captions, as MARS does (Ergasti et al., arXiv
            2407.04287), in place of a head of their own (released).
        negatives: ``hardest`` (released: the largest product of projections that are *not* normalised) or ``sampled``
            (with probability softmax(scale * cosine)).
        negative_scale: for ``sampled``, the scale at the start and at the end of training, linear in between. If the
            two differ, training needs ``TrainingProgressHook``.
        false_captions: share of the wrong captions of ATP that are false copies of the true one, in which a word or
            two are exchanged or replaced (see ``FalsifyCaption``); the others come from the batch. Released: 0.
        lora: ``dict(rank=..., alpha=...)`` trains low-rank updates of the encoders and of the decoders alone, and the
            heads, see :func:`~cada_plugin.models.low_rank.add_low_rank`. None trains all weights.
        old_names: ``num_groups`` and ``negative_temperature`` of version 0.1, with a warning.
    """

    def __init__(
        self,
        *,
        text_decoder: dict | None = None,
        loss_global: dict | None = None,
        loss_atp: dict | None = None,
        loss_ara: dict | None = None,
        loss_ranking: dict | None = None,
        loss_phrases: dict | None = None,
        phrase_weight: float = 0.0,
        grouping: dict | None = RELEASED_GROUPING,
        shared_head: bool = False,
        negatives: str = "hardest",
        negative_scale: tuple[float, float] = (0.0, 20.0),
        false_captions: float = 0.0,
        lora: dict | None = None,
        visual_encoder: dict,
        text_encoder: dict,
        tokenizer: dict,
        embed_dim: int = 256,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
        **old_names: object,
    ) -> None:
        given = {"grouping": grouping, "negatives": negatives, "negative_scale": negative_scale}
        grouping, negatives, negative_scale = accept_old_names(given, old_names).values()
        _check_options(negatives, negative_scale, text_decoder, loss_ara)
        if shared_head and grouping is None:
            raise ConfigError("shared_head=True is about groups of tokens, and grouping is None: set one of them")
        super().__init__(
            visual_encoder,
            text_encoder,
            tokenizer,
            embed_dim,
            group_head=grouping is not None and not shared_head,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.grouping: Grouping | None = None if grouping is None else build_part(MODELS, grouping)
        self.text_decoder = (
            None if text_decoder is None else build_part(MODELS, {**self.decoder_defaults(), **text_decoder})
        )
        self.loss_global, self.loss_atp, self.loss_ara = (
            None if cfg is None else build_part(MODELS, cfg) for cfg in (loss_global, loss_atp, loss_ara)
        )
        self.loss_ranking, self.loss_phrases = (
            None if cfg is None else build_part(MODELS, cfg) for cfg in (loss_ranking, loss_phrases)
        )
        for name in ("loss_ranking", "loss_phrases"):
            if getattr(self, name) is not None and self.loss_atp is None:
                raise ConfigError(f"{name} needs the fusion decoder of ATP, and loss_atp is None: set one of them")
        if self.loss_phrases is not None:
            self.itm_phrase_head = nn.Linear(self.text_encoder.width, 2)
            init_bert_weights(self.itm_phrase_head)
        _check_phrase_weight(phrase_weight, loss_phrases)
        self.phrase_weight = phrase_weight
        if lora is not None:
            parts = (self.visual_encoder, self.text_encoder, self.text_decoder)
            add_low_rank([part for part in parts if part is not None], lora)
        self._freeze_unused()
        self.can_match = self.loss_atp is not None  # an untrained match head must not re-rank
        self.negatives, self.negative_scale = negatives, tuple(negative_scale)
        if not 0 <= false_captions <= 1:
            raise ConfigError(f"false_captions={false_captions}: use a share from 0 to 1")
        self.false_captions = false_captions
        self.progress: float | None = None  # set by TrainingProgressHook

    def _freeze_unused(self) -> None:
        """Freeze what no loss trains: distributed training would wait for its gradients for ever."""
        unused = []
        if self.loss_global is None:  # the choice of negatives gives no gradient
            unused += [self.vision_proj, self.text_proj]
        if self.loss_atp is None:
            unused += [head for head in (self.itm_head, self.itm_local_head) if head is not None]
            unused += [layer.crossattention for layer in self.text_encoder.encoder.layer]
        if self.loss_global is None and self.loss_atp is None:
            unused.append(self.text_encoder)
        for part in unused:
            part.requires_grad_(False)

    def set_progress(self, progress: float) -> None:
        self.progress = progress

    def loss(self, inputs: dict, data_samples: list) -> dict[str, Tensor]:
        """``loss_global``, ``loss_atp``, ``loss_ara``, ``loss_ranking`` and ``loss_phrases`` of one batch, those that
        are configured.

        Args:
            inputs: ``images`` (B, 3, H, W), ``input_ids`` (B, T), ``attention_mask`` (B, T); for ARA ``masked_ids`` and
                ``masked_positions`` (B, T); for phrases ``phrase_index`` (B, T); for ``false_captions`` ``false_ids``
                (B, F); for ``loss_phrases`` ``false_phrase_ids`` and ``false_phrase_index`` (B, E).
            data_samples: B samples with ``person_id``.
        """
        if self.loss_global is None and self.loss_atp is None and self.loss_ara is None:
            raise ConfigError("no loss is configured: set loss_global, loss_atp or loss_ara")
        pairs = self.encode_pairs(inputs, data_samples)
        losses = {}
        if self.loss_global is not None:
            losses["loss_global"] = self.contrast(self.loss_global, pairs)
        if self.loss_atp is not None:
            losses["loss_atp"], logits, fused = self._associate_tokens(inputs, pairs)
        if self.loss_ara is not None:
            losses["loss_ara"] = self._associate_regions(inputs, pairs.image_tokens)
        if self.loss_ranking is not None:
            losses["loss_ranking"] = self._rank_pairs(logits[:, 1], inputs, pairs, fused)
        if self.loss_phrases is not None:
            losses["loss_phrases"] = self._judge_phrases(inputs, fused.memory)
        return losses

    def _associate_tokens(self, inputs: dict, pairs: EncodedPairs) -> tuple[Tensor, Tensor, FusedPairs]:
        """ATP: match or no match, for whole captions and for each group of their tokens. Also gives the logits (3B, 2)
        of the captions, and the pairs."""
        grouping = self.grouping
        if grouping is None:
            fused = self.fuse_with_negatives(inputs, pairs, first_only=True)
            logits = self.itm_head(fused.states[:, 0])
            return self.loss_atp(logits, fused.matched), logits, fused
        if grouping.needs_phrases and "phrase_index" not in inputs:
            raise ConfigError(
                f"{type(grouping).__name__} needs phrase_index: add dict(type='TagAttributes') to the pipeline"
            )
        fused = self.fuse_with_negatives(inputs, pairs, padded=grouping.needs_padding)
        means, exists = grouping.means(fused.states, fused.attention_mask, fused.phrase_index)  # (3B, G, C), (3B, G)
        total = mean_over_processes(exists.sum())
        group_head = self.itm_head if self.itm_local_head is None else self.itm_local_head
        logits = self.itm_head(fused.states[:, 0])
        return self.loss_atp(logits, fused.matched, group_head(means), exists, total), logits, fused

    def _rank_pairs(self, match: Tensor, inputs: dict, pairs: EncodedPairs, fused: FusedPairs) -> Tensor:
        """True pairs before wrong ones, by match logits (3B,) in the order of ``FusedPairs``, and those of the further
        wrong images that the loss asks for."""
        texts = F.normalize(pairs.text_proj.float(), dim=-1)
        images, all_images = (F.normalize(x.float(), dim=-1) for x in (pairs.image_proj, pairs.all_images))
        true, wrong_images, wrong_text = match.float().chunk(3)
        cosines = [(texts * all_images.index_select(0, fused.wrong_image)).sum(1, keepdim=True)]
        logits = [wrong_images[:, None]]
        if self.loss_ranking.negatives > 1:
            further, exists = self._further_images(pairs, fused.wrong_image)  # (B, N - 1)
            cosines.append((texts @ images.T).gather(1, further))
            logits.append(self._match_further(inputs, fused.memory, further).masked_fill(~exists, -torch.inf))
        return self.loss_ranking(true, torch.cat(logits, 1), wrong_text, (texts * images).sum(1), torch.cat(cosines, 1))

    def _further_images(self, pairs: EncodedPairs, wrong_image: Tensor) -> tuple[Tensor, Tensor]:
        """More wrong images of each caption, see ``further_negatives``: of this process, as its keys and values are at
        hand."""
        B = len(pairs.text_proj)
        rows = torch.arange(B, device=wrong_image.device) + get_rank() * B
        barred = (pairs.person_ids[:, None] == pairs.person_ids) | (wrong_image[:, None] == rows)
        sampled = self.negatives == "sampled"
        similarity = similarities(pairs.text_proj, pairs.image_proj, normalise=sampled)
        scale = self.sampling_scale() if sampled else None
        return further_negatives(similarity, barred, self.loss_ranking.negatives - 1, scale)

    def _match_further(self, inputs: dict, memory: ImageMemory, further: Tensor) -> Tensor:
        """Match logits (B, N) of each caption with N images."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        (B, T), N = ids.shape, further.shape[1]
        places = None
        if "token_places" in inputs:
            places = torch.cat([inputs["token_places"] + number * B * T for number in range(N)])
        asked = memory.select(further.T.flatten())
        states = self.fuse(ids.repeat(N, 1), mask.repeat(N, 1), asked, first_only=True, places=places)
        return self.itm_head(states[:, 0])[:, 1].float().view(N, B).T

    def _associate_regions(self, inputs: dict, image_tokens: Tensor) -> Tensor:
        """ARA: predict masked attribute words; only masked positions reach the vocabulary head."""
        if "masked_ids" not in inputs:
            raise ConfigError(
                "loss_ara needs masked captions: add dict(type='MaskAttributes') to the pipeline, or set loss_ara=None"
            )
        masked = masked_places(inputs)  # (M,)
        memory = self.text_decoder.bert.image_memory(image_tokens)
        logits = self.text_decoder(
            inputs["masked_ids"], inputs["attention_mask"], memory, masked, inputs.get("token_places")
        )  # (M, V)
        words = inputs["input_ids"].flatten().index_select(0, masked)
        return self.loss_ara(logits, words, mean_over_processes(inputs["masked_positions"].sum()))

    def _judge_phrases(self, inputs: dict, memory: ImageMemory) -> Tensor:
        """Match or no match of single phrases: those of the true captions, and those of their false copies."""
        if "phrase_index" not in inputs or "false_phrase_index" not in inputs:
            raise ConfigError(
                "loss_phrases needs phrases that are known to be true or false: add dict(type='TagAttributes') and "
                "dict(type='FalsifyPhrases') to the pipeline, or set loss_phrases=None"
            )
        true, false = inputs["phrase_index"], inputs["false_phrase_index"]  # (B, T), (B, E)
        width = max(true.shape[1], false.shape[1])
        pad = self.tokenizer.pad_id
        ids = torch.cat([_wide(inputs["input_ids"], width, pad), _wide(inputs["false_phrase_ids"], width, pad)])
        phrases = torch.cat([_wide(true, width, -1), _wide(false, width, -1)])  # (2B, width)
        places = None
        if {"phrase_places", "false_phrase_places"} <= inputs.keys():
            first = moved_places(inputs["phrase_places"], true.shape[1], width)
            second = moved_places(inputs["false_phrase_places"], false.shape[1], width)
            places = torch.cat([first, second + len(true) * width])
        own = torch.arange(len(true), device=ids.device).repeat(2)
        logits, exists = self._phrase_logits(ids, phrases, memory.select(own), places)  # (2B, G, 2), (2B, G)
        totals = (mean_over_processes(kind.sum()) for kind in exists.chunk(2))
        matched = torch.arange(len(ids), device=ids.device) < len(true)
        return self.loss_phrases(logits, matched, exists, *totals)

    def _phrase_logits(
        self,
        input_ids: Tensor,
        phrase_index: Tensor,
        memory: ImageMemory,
        places: Tensor | None = None,
        images: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (P, G, 2) of the phrases of P texts, each read alone, and which of the phrases exist (P, G).
        ``places`` are those of the tokens of phrases, if they are known; ``images`` (P,) is the image of each text."""
        inside = phrase_index >= 0
        states = self.fuse(input_ids, inside, memory, images, places=places, segments=phrase_index)  # (P, T, C)
        means, exists = group_means(states, phrase_index, input_ids.shape[1] - 2)
        return self.itm_phrase_head(means), exists

    def phrase_logits(self, texts: TextFeatures, phrase_index: Tensor, memory: ImageMemory) -> Tensor:
        """Log-odds (P, G) that each phrase of a text is true of its image, for each phrase alone; 0 where a text has no
        such phrase.

        Args:
            texts: P texts.
            phrase_index: (P, T) long, the phrases of each text numbered from 0, -1 outside of them.
            memory: of P images, or of one for all texts.

        Raises:
            ConfigError: the model was not built with ``loss_phrases``.
        """
        if self.loss_phrases is None:
            raise ConfigError("this model judges no phrases: it was built without loss_phrases")
        logits, exists = self._phrase_logits(texts.input_ids, phrase_index, memory)
        return (logits[..., 1] - logits[..., 0]).float() * exists

    def match(
        self, texts: TextFeatures, memory: ImageMemory, images: Tensor, phrase_index: Tensor | None = None
    ) -> Tensor:
        """Raw match logits (P,), with the evidence of the phrases if there is a ``phrase_weight``.

        Args:
            phrase_index: (P, T) long, as in :meth:`phrase_logits`. By default the phrases are found by word list.
        """
        logits = super().match(texts, memory, images)
        if not self.phrase_weight:
            return logits
        ids = texts.input_ids
        if phrase_index is None:
            phrase_index = torch.tensor([_phrases_of(self.tokenizer, tuple(row)) for row in ids.tolist()])
            if not (phrase_index >= 0).any():
                return logits
            phrase_index = phrase_index.to(ids.device)
        each, exists = self._phrase_logits(ids, phrase_index, memory, images=images)
        log_odds = (each[..., 1] - each[..., 0]).float() * exists  # (P, G)
        return logits + self.phrase_weight * log_odds.sum(1) / exists.sum(1).clamp_min(1)

    def choose_negatives(self, own: Tensor, others: Tensor, same: Tensor) -> Tensor:
        if self.negatives == "hardest":
            return hardest_negatives(similarities(own, others, normalise=False), same)
        return sampled_negatives(similarities(own, others, normalise=True), same, self.sampling_scale())

    def sampling_scale(self) -> float:
        """The scale by which negatives are sampled at this point of the training.

        Raises:
            ConfigError: it changes during the run, and no hook has said how much of the run is done.
        """
        start, end = self.negative_scale
        if start == end:
            return start
        if self.progress is None:  # it would stay at its start for the whole run
            raise ConfigError(
                f"negative_scale goes from {start} to {end} over the run, but nothing tells the model how much of the "
                "run is done: add custom_hooks=[dict(type='cada_plugin.TrainingProgressHook')] to the config, or give "
                "both scales the same value"
            )
        return start + (end - start) * self.progress


@lru_cache(maxsize=1 << 16)
def _phrases_of(tokenizer: CaptionTokenizer, ids: tuple[int, ...]) -> list[int]:
    """The phrase of each token; in re-ranking, the same caption is asked for with many images."""
    return phrase_numbers(tokenizer.decode(list(ids)))


def _wide(x: Tensor, width: int, value: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[1]), value=value)


def _check_phrase_weight(weight: float, loss_phrases: dict | None) -> None:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < inf:
        raise ConfigError(f"phrase_weight={weight!r}: use a number from 0, such as 1.0")
    if weight and loss_phrases is None:
        raise ConfigError(
            f"phrase_weight={weight} asks for the evidence of phrases, which a model learns with loss_phrases: set "
            "loss_phrases, or phrase_weight=0"
        )


def _check_options(
    negatives: str, negative_scale: tuple[float, float], text_decoder: dict | None, loss_ara: dict | None
) -> None:
    if negatives not in NEGATIVES:
        raise ConfigError(f"negatives={negatives!r}: use one of {', '.join(NEGATIVES)}")
    if (text_decoder is None) != (loss_ara is None):
        raise ConfigError("text_decoder and loss_ara belong together: set both or neither")
    numbers = isinstance(negative_scale, Sequence) and not isinstance(negative_scale, str)
    if (
        not numbers
        or len(negative_scale) != 2
        or not all(type(scale) in (int, float) and isfinite(scale) for scale in negative_scale)
    ):
        raise ConfigError(
            f"negative_scale={negative_scale!r}: expected two numbers, at the start and at the end of training"
        )
