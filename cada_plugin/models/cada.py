"""CADA, Cross-Modal Adaptive Dual Association (Lin et al., arXiv 2312.01745), on one page.

Three associations of images and captions: *global*, between the embeddings of the two encoders; *ATP*, text tokens to
image patches, a decoder in which a caption asks an image and says whether they match, as a whole and group by group;
*ARA*, image regions to attribute words, a second decoder that names masked words from the image. The first ranks a
whole gallery, the match head of the second re-ranks its head, the third only teaches.

Shape letters: B pairs of this process, A pairs of all processes, T text tokens, S image tokens, C width, D embedding.
"""

from collections.abc import Sequence
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.errors import ConfigError
from cada_plugin.models.cross_modal import ImageMemory, init_bert_weights
from cada_plugin.models.distributed import gather, get_world_size, max_over_processes, mean_over_processes
from cada_plugin.models.grouping import GROUPINGS, group_means, phrase_groups, position_groups, token_groups
from cada_plugin.models.negatives import STRATEGIES, choose_negatives
from cada_plugin.models.retriever import ImageFeatures, TextFeatures, TextImageRetriever
from cada_plugin.registry import MODELS, TASK_UTILS, build_part


@MODELS.register_module()
class CADA(TextImageRetriever):
    """The model. Sub-modules are given as configs.

    Args:
        visual_encoder: gives tokens (B, S, C_image) and has ``width``; see ``ViTEncoder``.
        text_encoder: text encoder and fusion decoder; see ``CrossModalBert``. ``vocab_size`` and ``image_width`` come
            from the tokenizer and the image encoder.
        tokenizer: see ``CaptionTokenizer``; the data pipeline uses the same.
        text_decoder: attribute decoder of ARA, see ``AttributeDecoder``; None together with ``loss_ara``.
        embed_dim: size D of the common space.
        loss_global, loss_atp, loss_ara: see ``cada_plugin.losses``; None leaves the association out.
        grouping: ``position`` (released), ``tokens`` or ``phrases``, see :mod:`cada_plugin.models.grouping`; None
            leaves ATP with the whole caption alone.
        num_groups: number of token groups; with ``phrases``, None makes each phrase one.
        negatives: ``hardest`` (released: largest similarity of *unnormalised* projections) or ``drawn`` (with
            probability softmax(temperature * cosine)).
        negative_temperature: for ``drawn``, its value at the start and at the end of the run, linear in between. Where
            the two differ, training needs ``TrainingProgressHook``.
        data_preprocessor: see ``PersonDataPreprocessor``.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` or None.
    """

    def __init__(
        self,
        visual_encoder: dict,
        text_encoder: dict,
        tokenizer: dict,
        text_decoder: dict | None = None,
        embed_dim: int = 256,
        loss_global: dict | None = None,
        loss_atp: dict | None = None,
        loss_ara: dict | None = None,
        grouping: str | None = "position",
        num_groups: int | None = 2,
        negatives: str = "hardest",
        negative_temperature: tuple[float, float] = (0.0, 20.0),
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        _check_options(grouping, num_groups, negatives, text_decoder, loss_ara)
        _check_temperature(negative_temperature)
        self.tokenizer = build_part(TASK_UTILS, tokenizer)
        self.visual_encoder = build_part(MODELS, visual_encoder)
        shared = {"vocab_size": len(self.tokenizer), "image_width": self.visual_encoder.width}
        self.text_encoder = build_part(MODELS, {**shared, **text_encoder})
        width = self.text_encoder.width
        self.vision_proj = nn.Linear(self.visual_encoder.width, embed_dim)
        self.text_proj = nn.Linear(width, embed_dim)
        self.itm_head = nn.Linear(width, 2)
        self.itm_local_head = None if grouping is None else nn.Linear(width, 2)
        for head in (self.vision_proj, self.text_proj, self.itm_head, self.itm_local_head):
            if head is not None:
                init_bert_weights(head)
        self.text_decoder = None if text_decoder is None else build_part(MODELS, {**shared, **text_decoder})
        self.loss_global, self.loss_atp, self.loss_ara = (
            None if cfg is None else build_part(MODELS, cfg) for cfg in (loss_global, loss_atp, loss_ara)
        )
        self._freeze_unused()
        self.can_match = self.loss_atp is not None  # an untrained head must not re-rank
        self.grouping, self.num_groups = grouping, num_groups
        self.negatives, self.negative_temperature = negatives, tuple(negative_temperature)
        self.progress: float | None = None  # nobody has told it yet

    def _freeze_unused(self) -> None:
        """What no loss trains is frozen: distributed training would wait for its gradients."""
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

    def match(self, texts: TextFeatures, memory: ImageMemory, pairs: Tensor) -> Tensor:
        """Raw "match" logits (P,). Fastest where all images are asked by about as many texts."""
        text, image = pairs.unbind(1)
        fused = self.fuse(texts.input_ids[text], texts.attention_mask[text], memory, image, first_only=True)
        return self.itm_head(fused[:, 0])[:, 1].float()

    def fuse(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        memory: ImageMemory,
        images: Tensor | None = None,
        first_only: bool = False,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """States (P, T, C) of captions that start with ``[ENC]`` and ask images (P,) of ``memory``."""
        input_ids = torch.cat([torch.full_like(input_ids[:, :1], self.tokenizer.enc_id), input_ids[:, 1:]], 1)
        padding = self.grouping == "position" and not first_only  # these groups average padded positions as well
        return self.text_encoder(
            input_ids, attention_mask, memory, images, first_only=first_only, compute_padding=padding, maps=maps
        )

    # ------------------------------------------------------------------ training

    def set_progress(self, progress: float) -> None:
        self.progress = progress

    def loss(self, inputs: dict, data_samples: list) -> dict[str, Tensor]:
        """``loss_global``, ``loss_atp`` and ``loss_ara`` of one batch, as far as they are configured.

        Args:
            inputs: ``images`` (B, 3, H, W), ``input_ids`` (B, T), ``attention_mask`` (B, T), for ARA ``masked_ids`` and
                ``masked_positions`` (B, T), for phrase groups ``phrase_index`` (B, T).
            data_samples: B samples with ``person_id``.
        """
        if self.loss_global is None and self.loss_atp is None and self.loss_ara is None:
            raise ConfigError("no loss is configured: set loss_global, loss_atp or loss_ara")
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        ids_on_cpu = torch.tensor([sample.person_id for sample in data_samples])
        person_ids = ids_on_cpu.to(ids.device, non_blocking=True)  # (B,)
        image_tokens = self.visual_encoder(inputs["images"])  # (B, S, C_image)
        image_proj = self.vision_proj(image_tokens[:, 0])  # (B, D)
        text_proj = self.text_proj(self.text_encoder(ids, mask, first_only=True)[:, 0])  # (B, D)
        images, texts = gather(image_proj.float()), gather(text_proj.float())  # (A, D)
        people = gather(person_ids)  # (A,)

        losses = {}
        if self.loss_global is not None:
            losses["loss_global"] = self.loss_global(F.normalize(images, dim=-1), F.normalize(texts, dim=-1), people)
        if self.loss_atp is not None:
            # looked up on the CPU first: a batch of many people, the normal case, costs no synchronisation
            if bool((ids_on_cpu == ids_on_cpu[0]).all()) and bool((people == people[0]).all()):
                raise ConfigError(
                    f"all {len(people)} pairs of the batch show person {int(people[0])}, so ATP has no negatives: use "
                    "a larger batch_size, a shuffling sampler, or IdentitySampler with more than one identity a batch"
                )
            same = person_ids[:, None] == people[None, :]  # (B, A)
            hard_image = self._choose(text_proj, images, same)
            hard_text = self._choose(image_proj, texts, same)
            losses["loss_atp"] = self._associate_tokens(inputs, image_tokens, hard_image, hard_text)
        if self.loss_ara is not None:
            losses["loss_ara"] = self._associate_regions(inputs, image_tokens)
        return losses

    def _choose(self, own: Tensor, others: Tensor, same: Tensor) -> Tensor:
        own, others = own.detach().float(), others.detach()
        with torch.autocast(own.device.type, enabled=False):  # half precision would tie the hardest
            if self.negatives == "hardest":
                return choose_negatives(own @ others.T, same)
            cosine = F.normalize(own, dim=-1) @ F.normalize(others, dim=-1).T
            return choose_negatives(cosine, same, "drawn", self.draw_temperature())

    def draw_temperature(self) -> float:
        """Of the negatives to be drawn, now.

        Raises:
            ConfigError: it changes during the run, and no hook has said how much of the run is done.
        """
        start, end = self.negative_temperature
        if start == end:
            return start
        if self.progress is None:  # it would stay at its start for the whole run
            raise ConfigError(
                f"negative_temperature goes from {start} to {end} over the run, but nothing tells the model how "
                "much of the run is done: add custom_hooks=[dict(type='cada_plugin.TrainingProgressHook')] to the "
                "config, or give both temperatures the same value"
            )
        return start + (end - start) * self.progress

    def _associate_tokens(self, inputs: dict, image_tokens: Tensor, hard_image: Tensor, hard_text: Tensor) -> Tensor:
        """ATP: true pairs, captions with a wrong image, images with a wrong caption, fused as one batch of 3 B."""
        B = len(image_tokens)
        own = torch.arange(B, device=image_tokens.device)
        ids, mask, phrases = self._padded_texts(inputs)  # (B, T) each
        wrong_ids, wrong_mask, wrong_phrases = (gather(x)[hard_text] for x in (ids, mask, phrases))
        if get_world_size() == 1:
            memory = self.image_memory(image_tokens)
        else:  # wrong images of other processes come as tokens: their keys and values are made here
            memory = self.image_memory(torch.cat([image_tokens, gather(image_tokens)[hard_image]]))
            hard_image = own + B
        ids, mask, phrases = (
            torch.cat(x) for x in ((ids, ids, wrong_ids), (mask, mask, wrong_mask), (phrases, phrases, wrong_phrases))
        )  # (3B, T)
        # copied, as some image may be the hardest of most captions, and all rows would be as long as its row
        memory = memory.select(torch.cat([own, hard_image, own]))
        states = self.fuse(ids, mask, memory, first_only=self.grouping is None)  # (3B, T, C)
        pair_logits = self.itm_head(states[:, 0])
        matched = torch.arange(3 * B, device=ids.device) < B
        if self.grouping is None:
            return self.loss_atp(pair_logits, matched)
        means, exists = self.group_states(states, mask, phrases)
        total = mean_over_processes(exists.sum())
        return self.loss_atp(pair_logits, matched, self.itm_local_head(means), exists, total)

    def group_states(self, states: Tensor, mask: Tensor, phrases: Tensor) -> tuple[Tensor, Tensor]:
        """Mean states (P, G, C) of the token groups of fused captions (P, T, C), and which groups exist (P, G)."""
        if self.grouping == "phrases" and self.num_groups is None:
            return group_means(states, phrases, self.tokenizer.max_length - 2)  # every word may be a phrase
        if self.grouping == "phrases":
            return group_means(states, phrase_groups(phrases, self.num_groups), self.num_groups)
        if self.grouping == "tokens":
            return group_means(states, token_groups(mask, self.num_groups), self.num_groups)
        return group_means(states, position_groups(mask, self.num_groups), self.num_groups)

    def _padded_texts(self, inputs: dict) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and phrase numbers at a length that all processes share and ``position`` groups are cut from."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        phrases = inputs.get("phrase_index", torch.full_like(ids, -1))
        longest = self.tokenizer.max_length
        if ids.shape[1] > longest:
            raise ConfigError(
                f"texts have {ids.shape[1]} tokens, but the model's tokenizer has max_length={longest}: "
                "give the pipeline and the model the same tokenizer"
            )
        if self.grouping == "phrases" and "phrase_index" not in inputs:
            raise ConfigError("grouping='phrases' needs phrase_index: add dict(type='TagAttributes') to the pipeline")
        if self.grouping == "position":
            length = longest
        else:
            length = max_over_processes(ids.shape[1], ids.device)
        missing = length - ids.shape[1]
        pad = self.tokenizer.pad_id
        return F.pad(ids, (0, missing), value=pad), F.pad(mask, (0, missing)), F.pad(phrases, (0, missing), value=-1)

    def _associate_regions(self, inputs: dict, image_tokens: Tensor) -> Tensor:
        """ARA: the vocabulary head sees masked positions only."""
        if "masked_ids" not in inputs:
            raise ConfigError(
                "loss_ara needs masked captions: add dict(type='MaskAttributes') to the pipeline, or set loss_ara=None"
            )
        where = inputs["masked_positions"]
        memory = self.text_decoder.bert.image_memory(image_tokens)
        logits = self.text_decoder(inputs["masked_ids"], inputs["attention_mask"], memory, where)  # (M, V)
        return self.loss_ara(logits, inputs["input_ids"][where], mean_over_processes(where.sum()))


def _check_options(
    grouping: str | None, num_groups: int | None, negatives: str, text_decoder: dict | None, loss_ara: dict | None
) -> None:
    if grouping not in (*GROUPINGS, None):
        raise ConfigError(f"grouping={grouping!r}: use one of {', '.join(GROUPINGS)}, or None")
    if (grouping in ("position", "tokens") and num_groups is None) or (grouping is None and num_groups is not None):
        raise ConfigError(
            f"grouping={grouping!r} with num_groups={num_groups}: position and tokens need a number, phrases take one "
            "or None (each phrase is a group), and no grouping has none"
        )
    if num_groups is not None and num_groups < 1:
        raise ConfigError(f"num_groups={num_groups}: use 1 or more")
    if negatives not in STRATEGIES:
        raise ConfigError(f"negatives={negatives!r}: use one of {', '.join(STRATEGIES)}")
    if (text_decoder is None) != (loss_ara is None):
        raise ConfigError("text_decoder and loss_ara belong together: set both or neither")


def _check_temperature(temperature: tuple[float, float]) -> None:
    numbers = isinstance(temperature, Sequence) and all(type(t) in (int, float) and isfinite(t) for t in temperature)
    if not numbers or len(temperature) != 2:
        raise ConfigError(
            f"negative_temperature={temperature!r}: expected two numbers, at the start and at the end of the run"
        )
