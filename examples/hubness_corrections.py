"""What corrections of hubness are worth: some images are near to captions in general, and are found too often.

    python examples/hubness_corrections.py CONFIG CHECKPOINT [CHECKPOINT ...]

compares them on the test split of CONFIG, for each checkpoint, beside no correction:

- *NNN*, nearest neighbour normalisation (Chowdhury et al., EMNLP 2024): from the cosine with an image, alpha times the
  mean of its k largest cosines with the training captions is subtracted;
- *QB-Norm* (Bogolin et al., CVPR 2022): the score is exp(beta cosine) over the sum of the same for all training
  captions; only for queries whose first image is the first one of some training caption;
- *all test captions*: QB-Norm for every query, with the other test captions in place of the training captions. It uses
  all queries at once, which nobody has who searches, and is shown for comparison alone.

alpha, k and beta are those with the largest mAP of stage 1 on the validation split. Stage 2 re-ranks the corrected
shortlist; its score adds the corrected cosine (NNN), or the plain one where a correction gives no cosine.
p-values are of a paired bootstrap over people.
"""

import sys
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from cada_plugin.apis import Retriever, load_retriever
from cada_plugin.engine.config import read_config
from cada_plugin.evaluation import paired_bootstrap, rank_queries
from cada_plugin.evaluation.ranking import mean_metrics
from cada_plugin.evaluation.result import BEYOND_SHORTLIST
from cada_plugin.portable.hubness import hubness
from cada_plugin.registry import DATASETS
from cada_plugin.tables import markdown_table

ALPHAS, NEIGHBOURS, BETAS = (0.25, 0.5, 0.75, 1.0), (8, 32, 128), (5.0, 10.0, 20.0, 40.0)
Ranks = dict[str, np.ndarray]


class Split:
    """The captions of a split, encoded, and its images where they are needed."""

    def __init__(self, retriever: Retriever, dataset: object, with_images: bool = True) -> None:
        self.texts = retriever.encode_text([caption for record in dataset.records for caption in record["captions"]])
        people = [record["person_id"] for record in dataset.records]
        counts = [len(record["captions"]) for record in dataset.records]
        self.query_ids, self.gallery_ids = np.repeat(people, counts), np.array(people)
        if with_images:
            self.images = retriever.encode_image([record["img_path"] for record in dataset.records])
            self.cosine = self.texts.embed @ self.images.embed.T  # (Q, G)
            self.logits = torch.full_like(self.cosine, torch.nan)  # of the pairs that were matched so far

    def ranks(self, scores: Tensor) -> Ranks:
        return rank_queries(scores, self.query_ids, self.gallery_ids)


def nnn(split: Split, captions: Tensor, alpha: float, k: int) -> Tensor:
    """(Q, G), given the embeddings (B, D) of the training captions."""
    return split.cosine - alpha * torch.from_numpy(hubness(split.images.embed.numpy(), captions.numpy(), k))


def qb_norm(cosine: Tensor, bank: Tensor, beta: float, only_hubs: bool = True) -> Tensor:
    """Scores (Q, G), in the order of the logarithm of QB-Norm's, given the cosines (Q, G) of the queries and (B, G) of
    the bank; queries that meet no hub keep their cosines."""
    corrected = beta * cosine - (beta * bank).logsumexp(0)
    if not only_hubs:
        return corrected
    hubs = torch.zeros(cosine.shape[1], dtype=torch.bool)
    hubs[bank.argmax(1)] = True
    return torch.where(hubs[cosine.argmax(1)][:, None], corrected, cosine)


def reranked(retriever: Retriever, split: Split, scores: Tensor, cosine: Tensor) -> Tensor:
    """(Q, G): match logit + weight * ``cosine`` for the first k images by ``scores``, the others after them."""
    shortlist = scores.topk(min(retriever.rerank_topk, scores.shape[1])).indices  # (Q, K)
    queries = torch.arange(len(shortlist)).repeat_interleave(shortlist.shape[1])
    pairs = torch.stack([queries, shortlist.flatten()], 1)
    pairs = pairs[split.logits[tuple(pairs.T)].isnan()]  # most are in the shortlists of all corrections
    if len(pairs):
        split.logits[tuple(pairs.T)] = retriever.match(split.texts, split.images, pairs)
    final = split.logits.gather(1, shortlist) + retriever.cosine_weight * cosine.gather(1, shortlist)
    return (scores - scores.max() + BEYOND_SHORTLIST).scatter(1, shortlist, final)


def best(split: Split, candidates: dict[tuple, Tensor]) -> tuple:
    """The parameters whose scores have the largest mAP."""
    return max(candidates, key=lambda key: split.ranks(candidates[key])["ap"].mean())


def compare(retriever: Retriever, val: Split, test: Split, captions: Tensor) -> dict[str, tuple[Ranks, Ranks | None]]:
    """For each correction the ranks of stage 1 and, of a model that matches, of stage 2."""
    own, bank = (captions @ split.images.embed.T for split in (val, test))  # (B, G)
    alpha, k = best(val, {(a, k): nnn(val, captions, a, k) for a, k in product(ALPHAS, NEIGHBOURS)})
    (beta,) = best(val, {(b,): qb_norm(val.cosine, own, b) for b in BETAS})
    less_hubs = nnn(test, captions, alpha, k)
    kinds = {
        "none": (test.cosine, test.cosine),
        f"NNN, alpha {alpha:g}, k {k}": (less_hubs, less_hubs),
        f"QB-Norm, beta {beta:g}": (qb_norm(test.cosine, bank, beta), test.cosine),
        f"all test captions, beta {beta:g}": (qb_norm(test.cosine, test.cosine, beta, only_hubs=False), test.cosine),
    }
    return {
        name: (
            test.ranks(scores),
            test.ranks(reranked(retriever, test, scores, cosine)) if retriever.can_match else None,
        )
        for name, (scores, cosine) in kinds.items()
    }


def cells(ranks: Ranks, plain: Ranks, people: Sequence[int]) -> list[str]:
    metrics = mean_metrics(ranks, (1,))
    gain = paired_bootstrap(plain["first_rank"] == 0, ranks["first_rank"] == 0, groups=np.asarray(people))
    p_value = "" if ranks is plain else f"{gain['p_value']:.3f}"
    return [f"{metrics['R1']:.2f}", f"{metrics['mAP']:.2f}", p_value]


def main(config: str, *checkpoints: str) -> None:
    cfg = read_config(config)
    of_split = {
        name: DATASETS.build({**cfg[f"{name}_dataloader"].dataset, "pipeline": []}) for name in ("train", "val", "test")
    }
    for checkpoint in checkpoints:
        retriever = load_retriever(config, checkpoint)
        val, test = (Split(retriever, of_split[name]) for name in ("val", "test"))
        bank = Split(retriever, of_split["train"], with_images=False).texts.embed
        found = compare(retriever, val, test, bank)
        plain, rows = found["none"], []
        for name, both in found.items():
            rows.append([name])
            for ranks, without in zip(both, plain, strict=True):
                rows[-1] += ["", "", ""] if ranks is None else cells(ranks, without, test.query_ids)
        print(f"{checkpoint}: {len(bank):,} training captions, {len(test.query_ids):,} queries")
        head = ["correction", "stage 1 R@1", "mAP", "p", "re-ranked R@1", "mAP", "p"]
        print(markdown_table(head, rows), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
