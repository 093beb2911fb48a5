"""Tiny models and foreign weights for the tests of checkpoints."""

from pathlib import Path

import torch
from torch import nn
from transformers import BlipConfig, BlipForImageTextRetrieval

from cada_plugin.models import CADA, CrossModalBert
from cada_plugin.registry import MODELS

DATA = Path(__file__).parent / "data" / "official_tiny"
RELEASED = DATA / "checkpoint.pth"
TEXT = {"width": 24, "depth": 2, "heads": 2, "max_positions": 96}


def cada_cfg(image_size=(32, 32), **changes) -> dict:
    cfg = {
        "type": "cada_plugin.CADA",
        "visual_encoder": {
            "type": "cada_plugin.ViTEncoder",
            "image_size": image_size,
            "patch_size": 8,
            "width": 32,
            "depth": 2,
            "heads": 4,
        },
        "text_encoder": {"type": "cada_plugin.CrossModalBert", **TEXT},
        "text_decoder": {"type": "cada_plugin.AttributeDecoder", **TEXT},
        "tokenizer": {"type": "cada_plugin.CaptionTokenizer", "vocab": str(DATA / "vocab.txt")},
        "loss_global": {"type": "cada_plugin.GlobalAssociationLoss"},
        "loss_atp": {"type": "cada_plugin.MatchingLoss"},
        "loss_ara": {"type": "cada_plugin.MaskedAttributeLoss", "weight": 1.0},
    }
    return cfg | changes


def tiny_cada(image_size=(32, 32), **changes) -> CADA:
    torch.manual_seed(0)
    return MODELS.build(cada_cfg(image_size, **changes)).eval()


def shake(model: nn.Module, seed: int = 1) -> nn.Module:
    """Set random weights so large that a single wrong one changes every output; norms stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_norm else 0.4 * noise)
    return model.eval()


def tiny_hf_blip() -> BlipForImageTextRetrieval:
    text = {"vocab_size": 86, "hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 96, "bos_token_id": 84, "sep_token_id": 3}
    vision = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6}
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=256)
    return shake(BlipForImageTextRetrieval(config))


def blip_like(source: CADA, decoder: bool = True) -> dict:
    """A state dict with BLIP's names, momentum copies and queues."""
    state = {n: t for n, t in source.state_dict().items() if not n.startswith("itm_local_head")}
    if not decoder:
        state = {n: t for n, t in state.items() if not n.startswith("text_decoder")}
    parts = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
    momentum = {n.replace(p, f"{p}_m", 1): t + 1 for n, t in state.items() for p in parts if n.startswith(f"{p}.")}
    queues = {"image_queue": torch.randn(256, 8), "text_queue": torch.randn(256, 8), "queue_ptr": torch.zeros(1)}
    return state | momentum | queues | {"temp": torch.tensor(0.07)}


def plain_bert(vocab_size: int = 84, prefix: str = "") -> dict:
    encoder = shake(CrossModalBert(vocab_size=vocab_size, image_width=32, **TEXT))
    state = {n: t for n, t in encoder.state_dict().items() if "crossattention" not in n and "position_ids" not in n}
    state |= {"embeddings.token_type_embeddings.weight": torch.randn(2, 24), "pooler.dense.weight": torch.eye(24)}
    return {prefix + name: tensor for name, tensor in state.items()}
