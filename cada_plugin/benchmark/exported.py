"""Compare the ONNX graphs of a retriever with the same retriever in PyTorch: speed and ranking, in one run.

Both sides do the same work with the same number of threads, in alternation, so that a machine that slows down slows
down both. A time is the median over the rounds; the first round of each side is not counted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from cada_plugin.apis import Retriever
from cada_plugin.datasets import TextPersonDataset
from cada_plugin.export.runtime import OnnxRetriever
from cada_plugin.tables import text_table

_ROUNDS = 5
_SENTENCE = "a woman with long dark hair in a red coat, blue jeans and white shoes carries a black backpack"


@dataclass(frozen=True)
class Work:
    """One kind of work: seconds on each side, and how much it is."""

    name: str
    torch: float
    onnx: float

    @property
    def ratio(self) -> float:
        """How many times as fast as PyTorch the graphs are."""
        return self.torch / self.onnx


def compare_speed(ours: Retriever, exported: OnnxRetriever, rounds: int = _ROUNDS) -> list[Work]:
    """Times of encoding pictures and sentences, and of matching one sentence with 32 pictures."""
    random = np.random.default_rng(0)
    height, width = exported.manifest.image_size
    pictures = [Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(32)]
    sentences = [f"{_SENTENCE} {'and a bag ' * (place % 3)}" for place in range(32)]
    works: dict[str, Callable[[Retriever | OnnxRetriever], object]] = {
        "encode 1 picture": lambda one: one.encode_image(pictures[0]),
        "encode 32 pictures": lambda one: one.encode_image(pictures),
        "encode 1 sentence": lambda one: one.encode_text(sentences[0]),
        "encode 32 sentences": lambda one: one.encode_text(sentences),
    }
    if ours.can_match:
        with torch.no_grad():
            sides = {id(one): (one.encode_text(sentences[0]), one.encode_image(pictures)) for one in (ours, exported)}
        works["match 1 sentence, 32 pictures"] = lambda one: one.match(*sides[id(one)])
    return [Work(name, *_alternating(work, ours, exported, rounds)) for name, work in works.items()]


def _alternating(work: Callable, ours: Retriever, exported: OnnxRetriever, rounds: int) -> tuple[float, float]:
    seconds = np.zeros((rounds + 1, 2))
    for count in range(rounds + 1):
        for side, one in enumerate((ours, exported)):
            start = time.perf_counter()
            with torch.no_grad():
                work(one)
            seconds[count, side] = time.perf_counter() - start
    return tuple(np.median(seconds[1:], axis=0))


def speed_table(works: list[Work]) -> str:
    """The times in milliseconds as a text table."""
    rows = [[one.name, f"{1e3 * one.torch:.1f}", f"{1e3 * one.onnx:.1f}", f"{one.ratio:.2f}"] for one in works]
    return text_table(["", "PyTorch ms", "ONNX ms", "times as fast"], rows)


def rank_split(retriever: Retriever | OnnxRetriever, dataset: TextPersonDataset) -> float:
    """R@1 in percent of the final list, for all captions of a split in test mode."""
    owner = np.array([record["person_id"] for record in dataset.records])
    captions = [(caption, record["person_id"]) for record in dataset.records for caption in record["captions"]]
    gallery = retriever.encode_image([record["img_path"] for record in dataset.records])
    hits = retriever.search([caption for caption, _ in captions], gallery, topk=1)
    right = [owner[found[0].index] == person for found, (_, person) in zip(hits, captions, strict=True)]
    return 100 * float(np.mean(right))
