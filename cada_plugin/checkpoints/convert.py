"""Convert the parameter names of other models to CADA's, and CADA's to those of Hugging Face's BLIP.

CADA uses BLIP's names, so most of this module is about Hugging Face's BLIP, which renamed the image encoder, about its
CLIP, and about plain BERT, which has token types where BLIP's BERT has none. The names of OpenAI's CLIP are in
:mod:`cada_plugin.checkpoints.openai_clip`. All functions are pure functions on state dicts. Shapes are fitted in
:mod:`cada_plugin.checkpoints.fit`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Literal

from torch import Tensor

from cada_plugin.checkpoints.openai_clip import from_openai_clip, is_openai_clip
from cada_plugin.errors import CheckpointError

Format = Literal["cada", "blip", "hf-blip", "hf-clip", "openai-clip", "bert", "plain"]
FORMAT_NAMES = {
    "cada": "CADA",
    "blip": "BLIP",
    "hf-blip": "Hugging Face BLIP",
    "hf-clip": "Hugging Face CLIP",
    "openai-clip": "OpenAI CLIP",
    "bert": "BERT",
    "plain": "the model's own",
}

# BLIP's pre-training keeps momentum copies, queues of negatives and a temperature
_TRAINING_ONLY = re.compile(
    r"(visual_encoder|text_encoder|vision_proj|text_proj)_m\.|(temp|image_queue|text_queue|idx_queue|queue_ptr|ptr_queue)$"
)
_BERT_PREFIX = re.compile(r"^(0\.)?(auto_model\.|bert\.)")  # sentence-transformers, BertForMaskedLM
_BERT_UNUSED = re.compile(r"pooler\.|cls\.seq_relationship\.|embeddings\.position_ids$")
_WORDS, _POSITIONS, _TYPES = (f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type"))
_VISION = (  # Hugging Face, CADA
    ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision_model.embeddings.patch_embedding.", "visual_encoder.patch_embed.proj."),
    ("vision_model.post_layernorm.", "visual_encoder.norm."),
    ("vision_model.encoder.layers.", "visual_encoder.blocks."),
    (".layer_norm1.", ".norm1."),
    (".layer_norm2.", ".norm2."),
    (".self_attn.qkv.", ".attn.qkv."),
    (".self_attn.projection.", ".attn.proj."),
)
_CLIP = (  # Hugging Face, our CLIP models
    ("vision_model.", "visual_encoder.model."),
    ("text_model.", "text_encoder.model."),
    ("visual_projection.", "vision_proj."),
    ("text_projection.", "text_proj."),
    ("logit_scale", "loss_itc.logit_scale"),
)
_HF_BLIP_PARTS = ("visual_encoder.", "text_encoder.", "vision_proj.", "text_proj.", "itm_head.")


@dataclass
class Conversion:
    """A converted state dict: ``state`` under its new names, the ``format`` of the source, the source names that were
    ``dropped`` on purpose, and ``notes`` on values that changed. ``tall``: the source takes tall images, although
    others of its format take square ones."""

    state: dict[str, Tensor]
    format: Format
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tall: bool = False


def has_update(name: str) -> bool:
    """Whether a weight is part of a low-rank update (LoRA)."""
    return ".lora_A." in name or ".lora_B." in name


def detect_format(state: Mapping[str, Tensor]) -> Format:
    """The format that the parameter names belong to. ``plain`` means an unknown format, whose names are kept."""
    parts = {name.split(".")[0] for name in state}
    if "vision_model" in parts:
        return "hf-clip" if "text_model" in parts else "hf-blip"
    if is_openai_clip(state):
        return "openai-clip"
    if "visual_encoder" in parts and "itm_local_head" in parts:
        return "cada"
    if "visual_encoder" in parts and parts & {"itm_head", "text_decoder", "visual_encoder_m"}:
        return "blip"
    bare = {_BERT_PREFIX.sub("", name) for name in state}
    if _WORDS in bare and "encoder.layer.0.attention.self.query.weight" in bare:
        return "bert"
    return "plain"


def to_cada(state: Mapping[str, Tensor]) -> Conversion:
    """Convert weights of any known format to CADA's names.

    Momentum copies, queues, poolers and the like are dropped. BERT's embedding of token type 0 is added to every
    position embedding; our text encoder, which has no token types, then gives the same hidden states. No foreign format
    has ``itm_local_head``, so it stays absent; the released code trains it from scratch too.
    """
    kind = detect_format(state)
    return _CONVERTERS[kind](state, kind)


def to_hf_blip(state: Mapping[str, Tensor]) -> Conversion:
    """Convert weights from CADA's names to those of ``transformers.BlipForImageTextRetrieval``.

    The group match head and the attribute decoder are dropped, because that model has no such parts.

    Raises:
        CheckpointError: there is no image encoder, or one that Hugging Face's BLIP does not support: its images are not
            square, or it has a convolutional stem; or there are low-rank updates.
    """
    if any(map(has_update, state)):
        raise CheckpointError(
            "these weights have low-rank updates (LoRA), which Hugging Face's BLIP does not know: `cada export` keeps "
            "them with --format folder, onnx or torch-export"
        )
    positions = state.get("visual_encoder.pos_embed")
    if positions is None:
        raise CheckpointError("these weights have no image encoder (visual_encoder.*): Hugging Face's BLIP needs one")
    patches = positions.shape[1] - 1
    if isqrt(patches) ** 2 != patches:
        raise CheckpointError(
            f"the image encoder has {patches} patches, not a square number, but Hugging Face's BLIP takes square "
            "images only: convert weights of a square image size"
        )
    if "visual_encoder.patch_embed.proj.weight" not in state:
        stem = "visual_encoder.patch_embed.proj.0.weight" in state
        reason = "has a convolutional stem" if stem else "is not that of CADA or BLIP"
        raise CheckpointError(f"the image encoder {reason}: Hugging Face's BLIP cannot hold it")
    result = Conversion({}, "cada")
    for name, tensor in state.items():
        if not name.startswith(_HF_BLIP_PARTS) or name.endswith(".position_ids"):
            result.dropped.append(name)
            continue
        result.state[_rename(name, ((cada, hf) for hf, cada in _VISION), "visual_encoder.")] = tensor
    return result


def _rename(name: str, pairs, only_below: str) -> str:
    if name.startswith(only_below):
        for old, new in pairs:
            name = name.replace(old, new)
    return name


def _from_blip(state: Mapping[str, Tensor], kind: Format) -> Conversion:
    kept = {name: tensor for name, tensor in state.items() if not _TRAINING_ONLY.match(name)}
    return Conversion(kept, kind, [name for name in state if name not in kept])


def _from_hf_blip(state: Mapping[str, Tensor], kind: Format) -> Conversion:
    return Conversion({_rename(name, _VISION, "vision_model."): tensor for name, tensor in state.items()}, kind)


def _from_hf_clip(state: Mapping[str, Tensor], kind: Format) -> Conversion:
    result = Conversion({}, kind)
    for name, tensor in state.items():
        if name.endswith("embeddings.position_ids"):  # a constant of older files
            result.dropped.append(name)
        elif name == "vision_model.embeddings.position_embedding.weight":
            result.state["visual_encoder.pos_embed"] = tensor[None]
        else:
            new = next((ours + name.removeprefix(theirs) for theirs, ours in _CLIP if name.startswith(theirs)), name)
            result.state[new] = tensor
    return result


def _from_openai_clip(state: Mapping[str, Tensor], kind: Format) -> Conversion:
    renamed, dropped = from_openai_clip(dict(state))
    return Conversion(renamed, kind, dropped, tall=any(name.startswith("base_model.") for name in state))


def _from_bert(state: Mapping[str, Tensor], kind: Format) -> Conversion:
    result = Conversion({}, kind)
    bare = {}
    for name, tensor in state.items():
        short = _BERT_PREFIX.sub("", name)
        short = short.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if _BERT_UNUSED.match(short):
            result.dropped.append(name)
        else:
            bare[short] = tensor
    types = bare.pop(_TYPES, None)
    if types is not None and _POSITIONS in bare:
        positions = bare[_POSITIONS]
        if types.ndim != 2 or len(types) == 0 or positions.ndim != 2 or types.shape[1] != positions.shape[1]:
            raise CheckpointError(
                f"the token-type embedding {tuple(types.shape)} and the position embedding {tuple(positions.shape)} of "
                "a BERT have to be tables of the same width: this file is damaged"
            )
        bare[_POSITIONS] = bare[_POSITIONS] + types[0]
        result.notes.append("the token-type embedding of type 0 was added to the position embeddings")
    for name, tensor in bare.items():
        result.state[("text_decoder." if name.startswith("cls.") else "text_encoder.") + name] = tensor
    return result


def _as_is(state: Mapping[str, Tensor], kind: Format) -> Conversion:
    return Conversion(dict(state), kind)


_CONVERTERS: dict[Format, Callable[[Mapping[str, Tensor], Format], Conversion]] = {
    "cada": _from_blip,
    "blip": _from_blip,
    "hf-blip": _from_hf_blip,
    "hf-clip": _from_hf_clip,
    "openai-clip": _from_openai_clip,
    "bert": _from_bert,
    "plain": _as_is,
}
