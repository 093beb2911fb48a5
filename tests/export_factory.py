"""Tiny retrievers to export, and a check of what an exported one gives against the one in PyTorch."""

from pathlib import Path

import clip_factory
import numpy as np
import torch
from checkpoint_factory import shake
from mmengine.config import Config
from PIL import Image

from cada_plugin.apis import Retriever, load_retriever
from cada_plugin.checkpoints import write_weights
from cada_plugin.registry import MODELS, build_part

TOKENIZER = {"type": "CaptionTokenizer", "vocab": "procedural", "max_length": 73}
BERT = {"width": 16, "depth": 1, "heads": 2, "max_positions": 80}
VISION = {"type": "ViTEncoder", "image_size": (32, 16), "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
PREPROCESSOR = {"type": "PersonDataPreprocessor", "mean": (123.0, 117.0, 104.0), "std": (68.0, 67.0, 70.0)}
FUSION = {"text_encoder": {"type": "CrossModalBert", **BERT}, "visual_encoder": VISION, "embed_dim": 8}
DUAL = {"text_encoder": {"type": "BertTextEncoder", **BERT}, "visual_encoder": VISION, "embed_dim": 8}
ITC, ITM = {"loss_itc": {"type": "InfoNCELoss"}}, {"loss_itm": {"type": "MatchingLoss"}}
TAL = {"loss_tal": {"type": "TripletAlignmentLoss", "margin": 0.1, "temperature": 0.015}, "selection_dim": 8}
IRRA = {"num_classes": 4, "loss_sdm": {"type": "SDMLoss"}, "loss_id": {"type": "IdentityLoss"}, "reasoning_heads": 2}
MODELS_OF_THE_TABLE = {
    "CADA": {"type": "CADA", **FUSION, "loss_atp": {"type": "MatchingLoss"}},
    "CADA without match head": {"type": "CADA", **FUSION, "loss_global": {"type": "GlobalAssociationLoss"}},
    "CADA that asks phrases": {
        "type": "CADA",
        **FUSION,
        "loss_atp": {"type": "MatchingLoss"},
        "loss_phrases": {"type": "PhraseMatchingLoss"},
        "phrase_weight": 2.0,
    },
    "BLIP": {"type": "BLIP", **FUSION, **ITC, **ITM},
    "CLIP loss": {"type": "CLIPRetriever", **DUAL, **ITC},
    "IRRA": {"type": "IRRA", **DUAL, **IRRA, "loss_irr": {"type": "MaskedAttributeLoss", "weight": 1.0}},
    "RDE": {"type": "RDE", **DUAL, **TAL},
}


def config(model: dict, image_size: tuple[int, int] = (32, 16)) -> Config:
    model = {"tokenizer": TOKENIZER, "data_preprocessor": PREPROCESSOR, **model}
    pipeline = [
        {"type": "LoadPersonImage"},
        {"type": "torchvision/Resize", "size": image_size},
        {"type": "EncodeCaptions", "tokenizer": model["tokenizer"]},
        {"type": "PackPersonInputs"},
    ]
    dataset = {"type": "ProceduralPEDES", "pipeline": pipeline}
    return Config(
        {
            "model": model,
            "train_dataloader": {"batch_size": 8, "dataset": {"type": "ProceduralPEDES"}},
            "test_dataloader": {"dataset": dataset},
            "test_cfg": {"type": "RetrievalTestLoop", "rerank_topk": 3, "cosine_weight": 2.0},
        }
    )


def retriever(folder: Path, model: dict, image_size: tuple[int, int] = (32, 16), seed: int = 1) -> Retriever:
    """A retriever with random weights, all of which matter; its checkpoint is ``folder/weights.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = config(model, image_size)
    built = shake(build_part(MODELS, cfg.model), seed)
    write_weights(built.state_dict(), folder / "weights.safetensors")
    return load_retriever(cfg, folder / "weights.safetensors")


def rde_of_clip(folder: Path) -> dict:
    """RDE with CLIP's encoders and tokenizer, as published. Its embedding contains that of ``CLIPRetriever``."""
    clip_factory.write_clip(folder)
    parts = clip_factory.retriever_cfg(folder)
    del parts["loss_itc"]
    return {**parts, "type": "RDE", **TAL}


def pictures(number: int, size: tuple[int, int] = (40, 80), seed: int = 0) -> list[Image.Image]:
    """Random pictures of coarse spots, ``size`` (W, H)."""
    random = np.random.default_rng(seed)
    return [
        Image.fromarray(random.integers(0, 256, (8, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for _ in range(number)
    ]


def sentences(lengths: list[int]) -> list[str]:
    """Sentences of so many ids, start and end included."""
    words = ["a", "man", "in", "red", "coat", "and", "blue", "jeans", "with", "black", "bag"]
    return [" ".join(words[place % len(words)] for place in range(length - 2)) for length in lengths]


def assert_agree(ours: Retriever, exported: object, number: int, lengths: list[int]) -> None:
    """The gates of an export: cosine of the embeddings from 0.999 on, match logits within 1e-3."""
    images, captions = pictures(number), sentences(lengths)
    with torch.no_grad():
        theirs, mine = exported.encode_image(images), ours.encode_image(images)
        their_texts, my_texts = exported.encode_text(captions), ours.encode_text(captions)
    np.testing.assert_array_equal(their_texts.input_ids, my_texts.input_ids.numpy())
    np.testing.assert_array_equal(their_texts.attention_mask, my_texts.attention_mask.numpy())
    assert their_texts.input_ids.shape == (len(lengths), max(lengths))
    for one, other in ((theirs.embed, mine.embed), (their_texts.embed, my_texts.embed)):
        assert one.shape == tuple(other.shape)
        assert (one * other.numpy()).sum(1).min() >= 0.999
    if ours.can_match:
        # the same tokens on both sides, so that rounding of pixels is not part of the comparison
        np.testing.assert_allclose(
            exported.match(their_texts, mine), ours.match(my_texts, mine).numpy(), rtol=0, atol=1e-3
        )
