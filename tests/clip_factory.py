"""A tiny random CLIP in a Hugging Face folder, with a byte-pair tokenizer of a few merges."""

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizerFast, CLIPVisionConfig
from transformers.convert_slow_tokenizer import bytes_to_unicode

IMAGE, PATCH = 32, 8  # pixels
SIZES = {"width": 32, "depth": 2, "heads": 4}
TEXT_SIZES = {"width": 24, "depth": 3, "heads": 2}
DIM = 16
MERGES = ("m a", "a n</w>", "r e", "re d</w>", "b l", "i n", "i t", "o r")


def write_tokenizer(folder: Path) -> int:
    """Returns the size of its vocabulary."""
    marks = list(bytes_to_unicode().values())
    words = [*marks, *(mark + "</w>" for mark in marks), *("".join(merge.split()) for merge in MERGES)]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizerFast(vocab=vocab, merges=[tuple(merge.split()) for merge in MERGES])
    tokenizer.save_pretrained(folder)
    return len(vocab)


def write_clip(folder: Path) -> CLIPModel:
    """The model, in eval mode; ``folder`` then holds its config, weights and tokenizer, as a download does."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = write_tokenizer(folder)

    def sizes(width: int, depth: int, heads: int) -> dict:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
        }

    ids = {"bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1, "pad_token_id": vocab_size - 1}
    config = CLIPConfig(
        text_config=CLIPTextConfig(vocab_size=vocab_size, max_position_embeddings=40, **sizes(**TEXT_SIZES), **ids),
        vision_config=CLIPVisionConfig(image_size=IMAGE, patch_size=PATCH, **sizes(**SIZES)),
        projection_dim=DIM,
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    with torch.no_grad():  # the initialisation is so small that everything looks alike
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "clip"
    return model


def tokenizer_cfg(folder: Path) -> dict:
    return {"type": "CLIPCaptionTokenizer", "vocab": str(folder), "max_length": 40}


def retriever_cfg(folder: Path, image_size: tuple[int, int] = (IMAGE, IMAGE), **changes: object) -> dict:
    """Config of a ``CLIPRetriever`` of these sizes, without its weights."""
    return {
        "type": "cada_plugin.CLIPRetriever",
        "visual_encoder": {"type": "CLIPVisionEncoder", "image_size": image_size, "patch_size": PATCH, **SIZES},
        "text_encoder": {"type": "CLIPTextEncoder", "max_positions": 40, **TEXT_SIZES},
        "tokenizer": tokenizer_cfg(folder),
        "embed_dim": DIM,
        "loss_itc": {"type": "InfoNCELoss"},
    } | changes
