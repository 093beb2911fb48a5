"""Inputs of the speed benchmark: models of the shipped configs with random weights, random images, and random captions
with realistic lengths. Costs depend on shapes and lengths, not on the values of the numbers.

Lengths follow CUHK-PEDES: 23.5 words on average, up to 60. We counted three more numbers on a few captions of that
style: a standard deviation of 8.5 words, 1.08 word pieces per word (most words are one piece, and commas are pieces
too), and 18 % masked pieces (46 % are attribute words, of which the released recipe masks 40 %).
"""

import json
import math
import tempfile
from importlib import resources
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cada_plugin.benchmark.speed.plain_path import PlainPath
from cada_plugin.engine.config import read_config
from cada_plugin.models import CADA
from cada_plugin.registry import MODELS, build_part
from cada_plugin.structures import PersonDataSample
from cada_plugin.text import CaptionTokenizer

GROUPINGS = {"tokens": "TokenGroups", "position": "PositionGroups"}
CONFIGS = {"base": "cada_cuhk", "tiny": "cada_procedural"}
MEAN_WORDS, FEWEST_WORDS, MOST_WORDS = 23.5, 12, 60
_DEVIATION = 8.5
_PIECES_PER_WORD = 1.08
_MASKED = 0.18
_VOCABULARY = 30_522  # of bert-base-uncased; the tokenizer adds [DEC] and [ENC]


def build_model(size: str, grouping: str = "tokens") -> CADA:
    """The model of a config with random weights from seed 0. It uses the hardest negatives of the batch, because
    the plain path implements no others."""
    cfg = read_config(CONFIGS[size]).model
    cfg.update(init_cfg=None, grouping={"type": GROUPINGS[grouping], "num_groups": 2}, negatives="hardest")
    cfg.false_captions = 0.0
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        if size == "base":  # the tiny config already uses the shipped vocabulary of the procedural pedestrians
            cfg.tokenizer.vocab = str(write_vocabulary(Path(folder)))
        return build_part(MODELS, cfg)


def write_vocabulary(folder: Path) -> Path:
    """Write a ``vocab.txt`` as large as BERT's: the shipped words of person captions, then numbered words."""
    words = known_words()
    path = folder / "vocab.txt"
    path.write_text("\n".join(words + [f"w{i}" for i in range(len(words), _VOCABULARY)]), encoding="utf-8")
    return path


def known_words() -> list[str]:
    """The vocabulary of the procedural pedestrians, special tokens and word endings (``##``) included."""
    return resources.files("cada_plugin.text").joinpath("procedural_vocab.txt").read_text(encoding="utf-8").splitlines()


def plain_path(model: CADA) -> PlainPath:
    """The plain path on the weights of ``model``: it gives the same losses and scores, but shares no computation and
    computes all padding."""
    return PlainPath(model).train(model.training)


def caption_words(count: int) -> Tensor:
    """Numbers of words (count,) of captions: evenly spaced quantiles of a log-normal distribution, in random order.
    Eight captions therefore have about the same mean length as eight thousand."""
    variance = math.log(1 + (_DEVIATION / MEAN_WORDS) ** 2)
    normal = NormalDist(math.log(MEAN_WORDS) - variance / 2, variance**0.5)
    words = torch.tensor([math.exp(normal.inv_cdf((i + 0.5) / count)) for i in range(count)])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return words.clamp(FEWEST_WORDS, MOST_WORDS).round().long()[order]


def random_captions(words: Tensor, tokenizer: CaptionTokenizer) -> tuple[Tensor, Tensor]:
    """Ids (Q, T) and mask (Q, T) of captions with ``words`` (Q,) words each."""
    lengths = ((words * _PIECES_PER_WORD).round().long() + 2).clamp_max(tokenizer.max_length)[:, None]
    position = torch.arange(int(lengths.max()))
    pool = torch.tensor(tokenizer.word_ids)
    ids = pool[torch.randint(len(pool), (len(words), len(position)))]
    ids[:, 0], end = tokenizer.encode("").input_ids
    ids = ids.masked_fill(position == lengths - 1, end).masked_fill(position >= lengths, tokenizer.pad_id)
    return ids, position < lengths


def image_size(model: CADA) -> tuple[int, int]:
    return model.visual_encoder.patch_embed.img_size


def training_batch(model: CADA, words: Tensor) -> tuple[dict[str, Tensor], list[PersonDataSample]]:
    """The arguments of ``CADA.loss`` for B people, with one normalised image and a caption of ``words[b]`` words
    each."""
    ids, mask = random_captions(words, model.tokenizer)
    inside = mask & mask.roll(-1, 1)  # all but the last token
    inside[:, 0] = False
    masked = inside & (torch.rand(ids.shape) < _MASKED)
    inputs = {
        "images": torch.randn(len(words), 3, *image_size(model)),
        "input_ids": ids,
        "attention_mask": mask,
        "masked_positions": masked,
        "masked_ids": ids.masked_fill(masked, model.tokenizer.mask_id),
    }
    return inputs, [PersonDataSample(metainfo={"person_id": person}) for person in range(len(words))]


def write_people(folder: Path, images: int) -> float:
    """Write JPEG crops of 250x90 (H, W) with two captions each in the layout of ``CustomPEDES``; returns their mean
    size in kB.

    The images are smooth blobs with a little noise. Their files are about as large as photographs of people, so they
    take about as much work to decode.
    """
    rng = np.random.default_rng(0)
    words = [word for word in known_words() if word.isalpha()]
    lengths = caption_words(2 * images).tolist()
    records, total = [], 0
    for i in range(images):
        blobs = Image.fromarray(rng.integers(0, 256, (25, 9, 3), np.uint8)).resize((90, 250), Image.Resampling.BICUBIC)
        pixels = np.asarray(blobs, np.float32) + rng.normal(0, 8, (250, 90, 3))
        path = folder / f"{i}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        total += path.stat().st_size
        captions = [" ".join(rng.choice(words, n)) for n in lengths[2 * i : 2 * i + 2]]
        records.append({"file_path": path.name, "captions": captions, "id": i // 4, "split": "train"})
    (folder / "annotations.json").write_text(json.dumps(records), encoding="utf-8")
    return total / images / 1000
