"""How well phrases could be judged by somebody who was told all attributes: a ceiling for ``phrase_evidence.py``.

    python examples/attribute_ceiling.py CONFIG CHECKPOINT [STEPS [residual]]

takes the image encoder of a trained model and trains it on with the true attributes of the training people, which no
caption tells completely: for each attribute, attention with a query of its own pools the tokens, and a linear layer
tells its value. Then the classifier judges the phrases of ``phrase_evidence.py``, of the same wrong people: the first
by the cosine of the model as it was, and random ones. A phrase has the log-probability of what it claims. With
``residual`` an image encoder with a residual stem, trained from nothing, takes the place of the model's.
"""

import math
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from phrase_evidence import (
    area_under_curve,
    area_within,
    least_is_false,
    phrase_claims,
    phrase_truths,
    split_of,
    wrong_people,
)
from PIL import Image
from torch import Tensor, nn

from cada_plugin.apis import load_retriever
from cada_plugin.models.encoders import ResidualStem
from cada_plugin.progress import progress_bar
from cada_plugin.registry import MODELS, build_part

BATCH, RATE, PADDING = 64, 6e-4, 4  # those of configs/cada_procedural.py
FIRST_RATE = 2e-3  # from nothing, as it rises and falls


class Classifier(nn.Module):
    """One distribution for each attribute, from images."""

    def __init__(self, encoder: nn.Module, values: Sequence[Sequence[str]]) -> None:
        super().__init__()
        width = encoder.width
        self.encoder = encoder
        self.queries = nn.Parameter(0.05 * torch.randn(len(values), width))
        self.pool, self.norm = nn.MultiheadAttention(width, 4, batch_first=True), nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, len(known)) for known in values)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits (B, values) of each attribute."""
        tokens = self.encoder(images)
        pooled = self.pool(self.queries.expand(len(tokens), -1, -1), tokens, tokens)[0]
        return [head(state) for head, state in zip(self.heads, self.norm(pooled).unbind(1), strict=True)]


def read_pictures(paths: Sequence[str]) -> Tensor:
    """(N, 3, H, W) uint8."""
    return torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) for path in paths])


def train(
    model: Classifier, images: Tensor, targets: Tensor, normalise: Callable[[Tensor], Tensor], steps: int
) -> None:
    """Cross-entropy over all attributes; images are shifted as in the training of the config."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule: torch.optim.lr_scheduler.LRScheduler
    if isinstance(model.encoder.patch_embed, ResidualStem):
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, FIRST_RATE, steps, pct_start=0.1)
    else:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order: list[int] = []
    for _ in progress_bar(range(steps), desc="steps"):
        order = order if len(order) >= BATCH else torch.randperm(len(images)).tolist()
        rows, order = order[:BATCH], order[BATCH:]
        padded = F.pad(normalise(images[rows]), (PADDING,) * 4)
        down, right = torch.randint(2 * PADDING + 1, (2,)).tolist()
        logits = model(padded[..., down : down + images.shape[2], right : right + images.shape[3]])
        losses = [F.cross_entropy(each, targets[rows, k]) for k, each in enumerate(logits)]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()


def main(config: str, checkpoint: str, steps: int | str = 560, residual: str = "", captions: int = 1000) -> None:
    torch.manual_seed(0)
    retriever = load_retriever(config, checkpoint)
    (people, paths), (others, other_paths) = (split_of(config, split) for split in ("train", "test"))
    wrong = wrong_people(retriever, others, retriever.encode_image(other_paths), captions)  # before the encoder changes
    slots = sorted(people[0]["attributes"])
    values = [sorted({str(record["attributes"][slot]) for record in people}) for slot in slots]
    place = {(slot, value): k for slot, known in zip(slots, values, strict=True) for k, value in enumerate(known)}
    targets = torch.tensor([[place[slot, str(record["attributes"][slot])] for slot in slots] for record in people])
    preprocessor = retriever.model.data_preprocessor

    def normalise(images: Tensor) -> Tensor:
        return (images.float() - preprocessor.mean.view(-1, 1, 1)) / preprocessor.std.view(-1, 1, 1)

    encoder = retriever.model.visual_encoder
    if residual == "residual":
        encoder = build_part(MODELS, {**retriever.config.model.visual_encoder, "stem": "residual"})
    model = Classifier(encoder, values).train()
    train(model, read_pictures(paths), targets, normalise, int(steps))
    model.eval()
    with torch.no_grad():
        found = [model(normalise(some)) for some in read_pictures(other_paths).split(250)]
    likely = [torch.cat(each).softmax(1) for each in zip(*found, strict=True)]

    def likelihood(row: int, slot: str, said: Sequence) -> float:
        return sum(float(likely[slots.index(slot)][row, place[slot, str(x)]]) for x in said if (slot, str(x)) in place)

    for name, rows in wrong.items():
        claims = [phrase_claims(record) for record in others[: len(rows)]]
        true = [
            is_true for record, row in zip(others, rows, strict=False) for is_true in phrase_truths(record, others[row])
        ]
        scores = [
            sum(math.log(max(likelihood(row, slot, said), 1e-9)) for slot, said in claim.items())
            for row, of_caption in zip(rows, claims, strict=True)
            for claim in of_caption
        ]
        about = [tuple(sorted(claim)) for of_caption in claims for claim in of_caption]
        least = least_is_false(scores, true, [len(of_caption) for of_caption in claims])
        print(
            f"wrong person {name}: area under the curve {area_under_curve(scores, true):.3f}, about the same "
            f"{area_within(scores, true, about):.3f}, the least one is false {100 * least:.1f} %"
        )


if __name__ == "__main__":
    main(*sys.argv[1:5])
