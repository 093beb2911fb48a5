"""The works of the speed benchmark that time our code alone: data loading, and a whole two-stage evaluation."""

import logging
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.evaluator import Evaluator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cada_plugin.benchmark.resources import peak_of
from cada_plugin.benchmark.speed.inputs import (
    CONFIGS,
    build_model,
    caption_words,
    image_size,
    random_captions,
    write_people,
    write_vocabulary,
)
from cada_plugin.benchmark.speed.measure import interleave, synchronize
from cada_plugin.benchmark.speed.work import IMAGES_PER_PERSON, train
from cada_plugin.datasets import CustomPEDES
from cada_plugin.datasets.collate import person_collate
from cada_plugin.engine.config import read_config
from cada_plugin.engine.loops import RetrievalTestLoop
from cada_plugin.errors import ConfigError
from cada_plugin.evaluation import TextToImageRetrieval
from cada_plugin.models import CADA
from cada_plugin.structures import PersonDataSample

_DISTINCT_IMAGES = 256  # the gallery repeats them: content does not change the cost


def load(
    workers: list[int], images: int, rounds: int, size: str, batch_size: int, device: str, amp: str | None
) -> dict:
    """Images per second that the loader of ``configs/cada_cuhk.py`` delivers, and that training consumes.

    ``images`` files are written to a temporary folder. They are read from the page cache, so the measurement includes
    decoding, but no disk access.
    """
    step = train(size, batch_size, "tokens", device, amp, "none")
    step_seconds = interleave({"ours": step.sides["ours"].action}, rounds, step.device)["ours"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kilobytes, vocabulary = write_people(folder, images), write_vocabulary(folder)
        config = read_config(CONFIGS["base"]).train_dataloader
        for transform in config.dataset.pipeline:
            if "tokenizer" in transform:
                transform.tokenizer.vocab = str(vocabulary)
            if "tagger" in transform:  # NLTK's needs a download; either tagger runs before training
                transform.tagger = {"type": "LexiconTagger"}
        dataset = CustomPEDES(folder, pipeline=config.dataset.pipeline, verify_images=False)
        dataset.set_epoch(0, seed=0)
        actions = {
            n: partial(
                _epoch,
                DataLoader(
                    dataset,
                    config.batch_size,
                    shuffle=True,
                    num_workers=n,
                    collate_fn=person_collate,
                    drop_last=True,
                    persistent_workers=n > 0,
                    pin_memory=device.startswith("cuda"),
                ),
            )
            for n in workers
        }
        times = interleave(actions, rounds, step.device)
    amount = len(dataset) // config.batch_size * config.batch_size
    return {
        "title": f"data loading, JPEG crops of 250x90, {kilobytes:.1f} kB, pipeline of configs/cada_cuhk.py",
        "rounds": rounds,
        "workers": {
            n: {"seconds": seconds, "images_per_s": amount / statistics.median(seconds)} for n, seconds in times.items()
        },
        "training": {
            "title": step.title,
            "seconds": step_seconds,
            "images_per_s": batch_size / statistics.median(step_seconds),
        },
    }


def _epoch(loader: DataLoader) -> None:
    for _ in loader:
        pass


def evaluate(size: str, queries: int, gallery: int, k: int, device: str, amp: str | None) -> dict:
    """Time of ``RetrievalTestLoop`` on decoded images: encoding, shortlist, matching, metrics of the three lists."""
    if gallery > queries:
        raise ConfigError(f"--gallery {gallery} exceeds --queries {queries}: every gallery image has a caption or more")
    if k > gallery:
        raise ConfigError(f"--k {k} exceeds the gallery ({gallery} images): lower it or raise --gallery")
    model = build_model(size).to(device).eval()
    gpu = device.startswith("cuda")
    if gpu:
        _run_loop(model, _Gallery(model, k, k), k, amp)  # warm-up
    dataset = _Gallery(model, queries, gallery)
    seconds: dict[str, float] = {}
    memory: dict[str, int | None] = {}

    def run() -> None:
        seconds.update(_run_loop(model, dataset, k, amp))

    def run_and_look_at_host() -> None:
        memory["host"] = peak_of(run, torch.device("cpu"))

    if gpu:
        memory["GPU"] = peak_of(run_and_look_at_host, torch.device(device))
    else:
        run_and_look_at_host()
    return {
        "title": f"two-stage evaluation, {size}, {queries:,} captions x {gallery:,} images, k = {k}, "
        f"{'bf16' if amp else 'fp32'}, images decoded beforehand",
        "seconds": seconds,
        "peak_memory_mb": {name: None if used is None else used / 2**20 for name, used in memory.items()},
    }


class _Gallery(Dataset):
    """A data set of decoded images with captions, in the form that the test pipeline gives."""

    test_mode = True

    def __init__(self, model: CADA, queries: int, gallery: int) -> None:
        self.images = torch.randint(0, 256, (min(gallery, _DISTINCT_IMAGES), 3, *image_size(model)), dtype=torch.uint8)
        ids, mask = random_captions(caption_words(queries), model.tokenizer)
        captions: list[Tensor] = [row[real] for row, real in zip(ids, mask, strict=True)]
        self.captions = [captions[i::gallery] for i in range(gallery)]

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> dict:
        captions = self.captions[index]
        meta = {
            "sample_index": index,
            "person_id": index // IMAGES_PER_PERSON,
            "captions": [""] * len(captions),
            "img_path": "",
        }
        inputs = {"image": self.images[index % len(self.images)], "input_ids": captions}
        return {"inputs": inputs, "data_samples": PersonDataSample(metainfo=meta)}


def _run_loop(model: CADA, dataset: Dataset, k: int, amp: str | None) -> dict[str, float]:
    """Seconds of each part of one evaluation, and in total."""
    device = next(model.parameters()).device
    loader = DataLoader(dataset, 64, collate_fn=person_collate, pin_memory=device.type == "cuda")
    times: dict[str, float] = {}

    def mark(name: str, **_: object) -> None:
        synchronize(device)
        times[name] = time.perf_counter()

    class Timed(Evaluator):
        def process(self, *args: object, **kwargs: object) -> None:
            mark("matched")
            super().process(*args, **kwargs)

    with tempfile.TemporaryDirectory() as folder:
        runner = SimpleNamespace(model=model, call_hook=mark, logger=logging.getLogger("speed"), work_dir=folder)
        loop = RetrievalTestLoop(runner, loader, Timed(TextToImageRetrieval()), rerank_topk=k, amp=amp is not None)
        loop.run()
    begin, encoded, matched, end = (times[n] for n in ("before_test", "after_test_iter", "matched", "after_test"))
    return {"encode": encoded - begin, "match": matched - encoded, "metrics": end - matched, "all": end - begin}
