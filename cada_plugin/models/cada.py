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
from torch import Tensor

from cada_plugin.errors import ConfigError
from cada_plugin.models.cross_modal import ImageMemory, Packing, masked_places
from cada_plugin.models.distributed import get_rank, mean_over_processes
from cada_plugin.models.fusion import EncodedPairs, FusedPairs, FusionRetriever
from cada_plugin.models.groupings import Grouping, group_means
from cada_plugin.models.low_rank import add_low_rank
from cada_plugin.models.negatives import further_negatives, hardest_negatives, sampled_negatives, similarities
from cada_plugin.models.phrase_head import PhraseHead, Questions
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
        loss_phrases: see ``PhraseMatchingLoss``. With it a ``PhraseHead`` says of each attribute phrase alone whether
            it is true of an image (:meth:`phrase_logits`). Needs ``ReadPhrases`` in the pipeline.
        phrase_weight: :meth:`match` adds this many times the mean log-odds of the phrases of a caption to its match
            logit. The phrases are those of the plugin's word list. Needs ``loss_phrases``; 0 asks captions as a whole
            alone.
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
        if self.loss_ranking is not None and self.loss_atp is None:
            raise ConfigError("loss_ranking needs the fusion decoder of ATP, and loss_atp is None: set one of them")
        self.phrase_head = None
        if self.loss_phrases is not None:
            text = self.text_encoder
            self.phrase_head = PhraseHead(text.width, text.heads, self.visual_encoder.width)
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
                (B, F); for ``loss_phrases`` ``said_ids`` (N, W) and ``said_truths`` (B, N).
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
            losses["loss_phrases"] = self._judge_phrases(inputs, pairs.image_tokens)
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

    def _judge_phrases(self, inputs: dict, image_tokens: Tensor) -> Tensor:
        """All phrases of the batch are judged with all its images."""
        if "said_ids" not in inputs:
            raise ConfigError(
                "loss_phrases needs phrases that are known to be true or false: add dict(type='ReadPhrases') to the "
                "pipeline, or set loss_phrases=None"
            )
        ids, truths = inputs["said_ids"], inputs["said_truths"]  # (N, W), (B, N)
        one = torch.where(ids == self.tokenizer.pad_id, -1, 0)
        questions = self.phrase_head.ask(self._phrase_means(ids, one, 1)[0].transpose(0, 1))  # (1, N, C)
        log_odds = self.phrase_head.judge(questions, *self.phrase_head.memory(image_tokens))
        return self.loss_phrases(log_odds, truths, mean_over_processes((truths == 1).sum()))

    def _phrase_means(self, ids: Tensor, phrase_index: Tensor, phrases: int) -> tuple[Tensor, Tensor]:
        """Mean word embedding (P, G, C) of each phrase of P texts, and which of the phrases exist (P, G)."""
        return group_means(self.text_encoder.embeddings.word_embeddings(ids), phrase_index, phrases)

    def image_memory(self, tokens: Tensor) -> ImageMemory:
        """That of the fusion decoder, and keys and values of the phrase head behind those of its last layer."""
        memory = super().image_memory(tokens)
        if self.phrase_head is None:
            return memory
        key, value = self.phrase_head.memory(tokens)
        return ImageMemory([*memory.keys, key], [*memory.values, value])

    def phrase_logits(
        self, texts: TextFeatures, phrase_index: Tensor, memory: ImageMemory, images: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-odds (P, G) that each phrase of a text is true of its image, each phrase judged for itself, 0 where a
        text has no such phrase; and which of the phrases exist (P, G).

        Args:
            texts: P texts.
            phrase_index: (P, T) long, the phrases of each text numbered from 0, -1 outside of them.
            memory: of I images.
            images: (P,) long, the image of each text. None: text p asks image p, or if there is one image, all ask it.

        Raises:
            ConfigError: the model was not built with ``loss_phrases``.
        """
        if self.phrase_head is None:
            raise ConfigError("this model judges no phrases: it was built without loss_phrases")
        P, T = phrase_index.shape
        fixed = self.text_encoder.padded  # no shape may depend on the data
        G = T if fixed else max(int(phrase_index.max()) + 1, 1)
        means, exists = self._phrase_means(texts.input_ids, phrase_index, G)
        questions = self.phrase_head.ask(means)
        key, value = memory.keys[-1], memory.values[-1]
        if images is None:
            log_odds = self.phrase_head.judge(questions, key.expand(P, -1, -1, -1), value.expand(P, -1, -1, -1))
        elif fixed:
            log_odds = self.phrase_head.judge(questions, key.index_select(0, images), value.index_select(0, images))
        else:  # all that is asked of one image is a row, so that its keys and values are not copied
            rows = Packing.of_rows(images.repeat_interleave(G), memory.num_images)
            laid_out = Questions(*(rows.unpack(x.flatten(0, 1)) for x in questions))
            log_odds = rows.pack(self.phrase_head.judge(laid_out, key, value)[..., None]).view(P, G)
        return log_odds * exists, exists

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
            found = [_phrases_of(self.tokenizer, tuple(row)) for row in ids.tolist()]
            phrase_index = torch.tensor(found, device=ids.device)
        log_odds, exists = self.phrase_logits(texts, phrase_index, memory, images)  # (P, G)
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
