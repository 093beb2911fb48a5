"""The works of the speed benchmark that have two sides: ours, and the plain path or torchreid's evaluator.

Both sides use the same model, weights, inputs and optimiser; the plain path is that of ``plain_path.py``. Arguments are
those of the command line; ``amp`` says which side uses bf16: ``ours``, ``both``, or None for neither.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from cada_plugin.benchmark.speed.inputs import (
    CONFIGS,
    build_model,
    caption_words,
    image_size,
    plain_path,
    random_captions,
    training_batch,
)
from cada_plugin.benchmark.speed.measure import Side, Work
from cada_plugin.benchmark.speed.plain_path import PlainPath
from cada_plugin.compat import import_torchreid
from cada_plugin.engine.config import read_config
from cada_plugin.evaluation.ranking import rank_metrics
from cada_plugin.evaluation.result import stage_one_shortlist
from cada_plugin.models.retriever import TextFeatures
from cada_plugin.retrieval import match_shortlists

IMAGES_PER_PERSON = 20  # ICFG-PEDES' test split: 19,848 images of 1,000 people
TOPK = (1, 5, 10)
_EMBED_DIM = 256


def train(
    size: str, batch_size: int, grouping: str, device: str, amp: str | None, against: str, words: int | None = None
) -> Work:
    """Full training steps: forward, backward, optimiser. ``words``, if given, is the length of all captions."""
    lengths = caption_words(batch_size) if words is None else torch.full((batch_size,), words)
    model = build_model(size, grouping).to(device).train()
    inputs, samples = training_batch(model, lengths)
    inputs = {key: value.to(device) for key, value in inputs.items()}
    optimizer = build_optim_wrapper(model, read_config(CONFIGS[size]).optim_wrapper)
    plain = plain_path(model) if against == "reference" else None

    def step(path: nn.Module, dtype: torch.dtype) -> None:
        with _autocast(device, dtype):
            losses = path.loss(inputs, samples)
        optimizer.update_params(sum(losses.values()))

    @torch.no_grad()
    def difference() -> float:
        """The largest relative difference of any loss, without dropout (absolute for losses below 1)."""
        plain.eval()  # this includes the model, whose weights it shares
        ours, expected = model.loss(inputs, samples), plain.loss(inputs, samples)
        plain.train()
        return max(float((ours[key] - loss).abs() / loss.abs().clamp_min(1)) for key, loss in expected.items())

    sides = {"ours": Side(partial(step, model, _dtype(amp, "ours")), batch_size, _dtype(amp, "ours"))}
    if plain is not None:
        dtype = _dtype(amp, "reference")
        sides["reference"] = Side(partial(step, plain, dtype), batch_size, dtype)
    title = f"training step, {size}, batch {batch_size}, grouping {grouping}, {_captions(lengths)}"
    return Work(
        title,
        "images",
        torch.device(device),
        sides,
        None if plain is None else difference,
        calls=2,  # the first step allocates the optimiser's state, so memory peaks in the second
    )


def encode_images(size: str, batch_size: int, device: str, amp: str | None, against: str) -> Work:
    """Embeddings and tokens of images. There is only our side, because the plain path has the same image encoder."""
    model = build_model(size).to(device).eval()
    images = torch.randn(batch_size, 3, *image_size(model), device=device)
    side = _inference(lambda: model.encode_image(images), batch_size, device, _dtype(amp, "ours"))
    return Work(f"encode_image, {size}, batch {batch_size}", "images", torch.device(device), {"ours": side})


def encode_captions(size: str, batch_size: int, device: str, amp: str | None, against: str) -> Work:
    """Embeddings of captions."""
    model = build_model(size).to(device).eval()
    lengths = caption_words(batch_size)
    ids, mask = (x.to(device) for x in random_captions(lengths, model.tokenizer))

    def ours() -> Tensor:
        return model.encode_text(ids, mask).embed

    def plain() -> Tensor:
        states = path.bert(model.text_encoder, path.pad(ids), path.pad(mask))
        return F.normalize(model.text_proj(states[:, 0]).float(), dim=-1)

    @torch.no_grad()
    def difference() -> float:
        return float((ours() - plain()).abs().max())

    sides = {"ours": _inference(ours, batch_size, device, _dtype(amp, "ours"))}
    if against == "reference":
        path = plain_path(model)
        sides["reference"] = _inference(plain, batch_size, device, _dtype(amp, "reference"))
    title = f"encode_text, {size}, batch {batch_size}, {_captions(lengths)}"
    return Work(title, "captions", torch.device(device), sides, difference if "reference" in sides else None)


def rerank(
    size: str, k: int, queries: int, gallery: int, images: int, device: str, amp: str | None, against: str
) -> Work:
    """Match scores of ``queries`` captions with their shortlists of k images.

    Our side processes pairs image by image. It scores only the pairs with the first ``images`` gallery images, as one
    of several processes would. The plain path works caption by caption, so it gets whole shortlists with about as many
    pairs in total. ``against="blip"`` adds a third side, the same with transformers' decoder.
    """
    model = build_model(size).to(device).eval()
    lengths = caption_words(queries)
    ids, mask = (x.to(device) for x in random_captions(lengths, model.tokenizer))
    texts = TextFeatures(torch.zeros(queries, _EMBED_DIM, device=device), ids, mask)
    tokens = torch.randn(gallery, 1 + model.visual_encoder.patch_embed.num_patches, model.visual_encoder.width)
    shortlist = stage_one_shortlist(torch.randn(queries, _EMBED_DIM), torch.randn(gallery, _EMBED_DIM), k)
    own = shortlist < images  # (Q, K)
    rows = torch.arange(gallery).where(torch.arange(gallery) < images, -1)
    pairs = int(own.sum())
    whole = -(-pairs // k)  # captions

    def ours() -> Tensor:
        return match_shortlists(model, texts, tokens[:images], rows, shortlist, progress=False)

    def plain(path: PlainPath, queries: range, chosen: list[Tensor]) -> Tensor:
        return torch.cat([path.rerank(ids[[q]], mask[[q]], tokens, chosen[q][None])[0] for q in queries])

    @torch.no_grad()
    def difference() -> float:
        """The largest difference of any score, in units of the scores' standard deviation, because random weights give
        almost the same score to all pairs."""
        chosen = [row[mine] for row, mine in zip(shortlist, own, strict=True)]
        expected = torch.stack([plain(path, range(queries), chosen) for path in paths.values()])  # (paths, pairs)
        return float((ours()[own] - expected).abs().max() / expected.std())

    sides = {"ours": _inference(ours, pairs, device, _dtype(amp, "ours"))}
    paths = {} if against == "none" else {"reference": plain_path(model)}
    if against == "blip":
        from cada_plugin.benchmark.speed.blip_path import BlipPath  # transformers' models take seconds to import

        paths["blip"] = BlipPath(model).eval()
    for name, path in paths.items():
        action = partial(plain, path, range(whole), list(shortlist))
        sides[name] = _inference(action, whole * k, device, _dtype(amp, "reference"))
    title = (
        f"re-ranking, {size}, k = {k}, {queries} captions x {gallery} images, pairs of {images} of them, "
        f"{_captions(lengths)}"
    )
    return Work(title, "pairs", torch.device(device), sides, difference if paths else None)


def rank(queries: int, gallery: int, sides: tuple[str, ...], device: str) -> Work:
    """R@n, mAP and mINP (torchreid: without mINP) from embeddings."""
    torch.manual_seed(0)
    people = torch.arange(gallery) // IMAGES_PER_PERSON
    query_people = people[torch.linspace(0, gallery - 1, queries).long()]
    looks = torch.randn(int(people[-1]) + 1, _EMBED_DIM)  # the common part of all images of a person
    images, texts = (
        F.normalize(looks[who] + 2 * torch.randn(len(who), _EMBED_DIM), dim=-1).to(device)
        for who in (people, query_people)
    )

    def ours() -> None:
        found["ours"] = rank_metrics(lambda start, stop: texts[start:stop] @ images.T, query_people, people, TOPK)

    def torchreid() -> None:
        cameras = np.zeros(queries, np.int64), np.ones(gallery, np.int64)
        distances = -(texts @ images.T).cpu().numpy()
        cmc, mean_ap = evaluate_rank(distances, query_people.numpy(), people.numpy(), *cameras, max_rank=max(TOPK))
        found["torchreid"] = {f"R{k}": float(cmc[k - 1] * 100) for k in TOPK} | {"mAP": float(mean_ap * 100)}

    def difference() -> float:
        """The largest difference of any metric, in percentage points."""
        return max(abs(value - found["ours"][key]) for key, value in found["torchreid"].items())

    found: dict[str, dict[str, float]] = {}
    if "torchreid" in sides:
        evaluate_rank = import_torchreid().metrics.evaluate_rank
    actions = {"ours": ours, "torchreid": torchreid}
    title = f"metrics of {queries:,} x {gallery:,}, {IMAGES_PER_PERSON} images a person, from embeddings"
    return Work(
        title,
        "queries",
        torch.device(device),
        {name: Side(actions[name], queries) for name in sides},
        difference if len(sides) > 1 else None,
        tolerance=1e-3,
        counted=False,
    )


def _dtype(amp: str | None, side: str) -> torch.dtype:
    return torch.bfloat16 if amp in (side, "both") else torch.float32


def _autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def _inference(action: Callable[[], object], amount: int, device: str, dtype: torch.dtype) -> Side:
    def run() -> None:
        with torch.no_grad(), _autocast(device, dtype):
            action()

    return Side(run, amount, dtype)


def _captions(words: Tensor) -> str:
    return f"captions of {words.float().mean():.1f} words, at most {int(words.max())}"
