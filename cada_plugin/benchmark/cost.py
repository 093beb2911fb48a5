"""Measures the cost of a model: parameters, FLOP, speed and memory, on batches of its config's own loaders.

    cada cost cada_procedural --out cost.json

No checkpoint is needed, because the cost does not depend on the values of the weights.

*GFLOPs* are counted by :mod:`cada_plugin.benchmark.resources`. *Images/s* are those of the model alone, with its
batches in memory. *Query latency* is the time of one ``search`` of :mod:`cada_plugin.apis`: tokenising, encoding, the
cosine with a gallery as large as that of the test split, and for a model that re-ranks the matching of the best k
images. Times are medians after warm-up.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

from cada_plugin.apis import Retriever
from cada_plugin.benchmark.machine import machine
from cada_plugin.benchmark.resources import count_flop, peak_so_far
from cada_plugin.engine.runner import config_errors
from cada_plugin.engine.start import build_runner
from cada_plugin.errors import ConfigError
from cada_plugin.models.retriever import ImageFeatures, TextFeatures, TextImageRetriever

_BATCHES = 3
_WARM_UP, _LEAST, _MOST, _SECONDS = 2, 3, 50, 3.0  # repetitions: warm-up, at least, at most; seconds to spend


def measure_cost(config: Config) -> dict:
    """The cost of one config, ready for JSON. A number that does not apply or cannot be measured is None.

    The keys are ``parameters`` (all) and ``parameters_trained``; ``gflops_image``, ``gflops_caption`` (of a caption of
    about mean length, with ``caption_tokens`` tokens) and ``gflops_pair`` (re-ranking one image for one query,
    including the keys and values of the image); ``train_images_per_s`` (forward, backward, optimiser step) and
    ``gallery_images_per_s``; ``query_ms`` and ``query_reranked_ms`` with a gallery of ``gallery_images``;
    ``peak_memory_mb`` of all these measurements, where ``peak_memory_of`` says what was measured.
    """
    where = machine()
    runner = build_runner(config)
    model = runner.model
    device = next(model.parameters()).device
    with config_errors():
        test_loader = Runner.build_dataloader(config.test_dataloader, seed=0)
    batches = _first(test_loader)
    if not batches:
        raise ConfigError("the test loader gives no batch, so there is nothing to measure: look at test_dataloader")
    amp = bool((config.get("test_cfg") or {}).get("amp"))
    model.eval()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=amp):
        result = _retrieval(
            model, batches, len(test_loader.dataset), (config.get("test_cfg") or {}).get("rerank_topk", 0)
        )
    result["train_images_per_s"] = _training(runner, config) if config.get("train_dataloader") else None
    parameters = list(model.parameters())
    return {
        "machine": where,
        "parameters": sum(p.numel() for p in parameters),
        "parameters_trained": sum(p.numel() for p in parameters if p.requires_grad),
        **result,
        **_peak_memory(device),
    }


def _first(loader: object) -> list[dict]:
    return list(itertools.islice(loader, _BATCHES))


def _retrieval(model: TextImageRetriever, batches: list[dict], gallery_images: int, rerank_topk: int) -> dict:
    inputs = [model.data_preprocessor(batch, False)["inputs"] for batch in batches]
    images = [some["images"] for some in inputs]
    times = repeat(lambda i: model.encode_image(images[i % len(images)]))
    captions = [
        row[real] for some in inputs for row, real in zip(some["input_ids"], some["attention_mask"], strict=True)
    ]
    mean = statistics.fmean(len(ids) for ids in captions)
    ids = min(captions, key=lambda ids: abs(len(ids) - mean))[None]
    reranks = model.can_match and rerank_topk > 0
    sentences = [caption for batch in batches for sample in batch["data_samples"] for caption in sample.captions]
    features = model.encode_image(images[0][:1])
    return {
        **count_gflops(model, images[0][:1], ids, reranks),
        "caption_tokens": ids.shape[1],
        "gallery_images_per_s": _rate([len(some) for some in images], times),
        "query_ms": _latency(model, sentences, features, gallery_images, 0),
        "query_reranked_ms": _latency(model, sentences, features, gallery_images, rerank_topk) if reranks else None,
        "gallery_images": gallery_images,
        "rerank_topk": rerank_topk if reranks else None,
    }


def count_gflops(model: TextImageRetriever, image: Tensor, ids: Tensor, reranks: bool) -> dict[str, float | None]:
    """``gflops_image``, ``gflops_caption``, ``gflops_pair`` of one image (1, 3, H, W) and one caption (1, T)."""
    mask = torch.ones_like(ids, dtype=torch.bool)
    features = model.encode_image(image)
    embed = model.encode_text(ids, mask).embed

    def pair() -> None:
        model.match(TextFeatures(embed, ids, mask), model.image_memory(features.tokens), torch.zeros_like(ids[:, 0]))

    return {
        "gflops_image": count_flop(lambda: model.encode_image(image)) / 1e9,
        "gflops_caption": count_flop(lambda: model.encode_text(ids, mask)) / 1e9,
        "gflops_pair": count_flop(pair) / 1e9 if reranks else None,
    }


def _latency(
    model: TextImageRetriever, sentences: list[str], image: ImageFeatures, gallery_images: int, rerank_topk: int
) -> float:
    """Milliseconds of one search in a gallery of the given size. To save encoding that gallery, its embeddings are
    random, and all images share the tokens of one."""
    embed = F.normalize(torch.randn(gallery_images, image.embed.shape[1]), dim=-1)
    tokens = image.tokens[:1].cpu().expand(gallery_images, -1, -1) if rerank_topk else None
    gallery = ImageFeatures(embed, tokens)
    retriever = Retriever(model, [], rerank_topk=rerank_topk)
    return 1000 * statistics.median(repeat(lambda i: retriever.search(sentences[i % len(sentences)], gallery)))


def _training(runner: Runner, config: Config) -> float:
    """Training speed in images per second, over full training steps."""
    with config_errors():
        batches = _first(Runner.build_dataloader(config.train_dataloader, seed=0))
        optim_wrapper = runner.build_optim_wrapper(config.optim_wrapper)
    if not batches:
        raise ConfigError("the training loader gives no batch: is batch_size larger than the data set, with drop_last?")
    runner.model.train()
    runner.model.train_without_hooks()
    times = repeat(lambda i: runner.model.train_step(batches[i % len(batches)], optim_wrapper))
    return _rate([len(batch["inputs"]["images"]) for batch in batches], times)


def _rate(sizes: list[int], times: list[float]) -> float:
    """Median images per second, given that batches of ``sizes`` were used in turn."""
    return statistics.median(sizes[i % len(sizes)] / time for i, time in enumerate(times))


def repeat(action: Callable[[int], object]) -> list[float]:
    """Seconds of each of the calls ``action(0)``, ``action(1)``, ... after a warm-up."""
    times: list[float] = []
    for i in range(-_WARM_UP, _MOST):
        if i >= _LEAST and math.fsum(times) > _SECONDS:
            break
        begin = _now()
        action(max(i, 0))
        if i >= 0:
            times.append(_now() - begin)
    return times


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_memory(device: torch.device) -> dict[str, float | str | None]:
    peak = peak_so_far(device)
    if peak is None:
        return {"peak_memory_mb": None, "peak_memory_of": "not measured on this system"}
    of = "GPU, tensors" if device.type == "cuda" else "process, with its libraries"
    return {"peak_memory_mb": peak / 2**20, "peak_memory_of": of}
