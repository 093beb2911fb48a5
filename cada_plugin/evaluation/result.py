"""The outcome of a two-stage retrieval, as scores that are made in chunks and never all at once."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cada_plugin.evaluation.ranking import CHUNK_ELEMENTS

# Puts images below every shortlisted one, in their stage-1 order (released value). For ordering only, never shown.
BEYOND_SHORTLIST = -100.0


class RankedImage(NamedTuple):
    """One image of a ranked list: its gallery index, its cosine, and its raw match logit, None where it was not matched
    (stage 1 alone, or beyond the shortlist)."""

    index: int
    cosine: float
    match: float | None


@dataclass
class RetrievalResult:
    """Q captions against G images.

    Attributes:
        text_embed: (Q, D) and image_embed: (G, D), l2-normalised, on the CPU.
        query_ids: (Q,) and gallery_ids: (G,), person ids.
        query_images: (Q,) gallery index of the image that a caption was written for.
        query_twins: (Q,) bool, the person has a near-twin in the gallery.
        captions, img_paths: Q and G strings.
        shortlist: (Q, K) gallery indices of the K best by cosine; None without re-ranking.
        match_logits: (Q, K) raw match logits of the shortlist.
        cosine_weight: of the cosine beside the match logit in the final score; 1 in the released code.
    """

    text_embed: Tensor
    image_embed: Tensor
    query_ids: Tensor
    gallery_ids: Tensor
    query_images: Tensor
    query_twins: Tensor
    captions: list[str]
    img_paths: list[str]
    shortlist: Tensor | None = None
    match_logits: Tensor | None = None
    cosine_weight: float = 1.0

    def cosine(self, start: int, stop: int) -> Tensor:
        """Stage-1 scores (n, G) of queries [start, stop)."""
        return cosine_similarity(self.text_embed[start:stop], self.image_embed)

    def reranked(self, start: int, stop: int) -> Tensor:
        """Final scores (n, G): match logit + weight * cosine on the shortlist, cosine - 100 beyond it."""
        return self._with_shortlist(start, stop, self.cosine_weight)

    def match_only(self, start: int, stop: int) -> Tensor:
        """As ``reranked`` with the match logit alone: added to the cosine, a dead match head hides."""
        return self._with_shortlist(start, stop, 0.0)

    def _with_shortlist(self, start: int, stop: int, cosine_weight: float) -> Tensor:
        rows = slice(start, stop)
        return final_scores(self.cosine(start, stop), self.shortlist[rows], self.match_logits[rows], cosine_weight)

    def top(self, query: int, k: int) -> list[RankedImage]:
        """The k best images of one query, in their final order."""
        rows = slice(query, query + 1)
        second_stage = () if self.shortlist is None else (self.shortlist[rows], self.match_logits[rows])
        return ranked_images(self.cosine(query, query + 1), k, *second_stage, cosine_weight=self.cosine_weight)[0]


def ranked_images(
    cosine: Tensor,
    k: int,
    shortlist: Tensor | None = None,
    match_logits: Tensor | None = None,
    cosine_weight: float = 1.0,
) -> list[list[RankedImage]]:
    """The k best of G images for each of Q queries: the shortlist by match logit + weight * cosine, then the others by
    cosine.

    Args:
        cosine: (Q, G).
        shortlist, match_logits: (Q, K); None without a second stage.
    """
    scores, logits_of = cosine, [{}] * len(cosine)
    if shortlist is not None:
        scores = final_scores(cosine, shortlist, match_logits, cosine_weight)
        rows = zip(shortlist.tolist(), match_logits.tolist(), strict=True)
        logits_of = [dict(zip(images, logits, strict=True)) for images, logits in rows]
    best = scores.topk(min(k, cosine.shape[1])).indices
    return [
        [RankedImage(i, c, logits.get(i)) for i, c in zip(images, cosines, strict=True)]
        for images, cosines, logits in zip(best.tolist(), cosine.gather(1, best).tolist(), logits_of, strict=True)
    ]


def final_scores(cosine: Tensor, shortlist: Tensor, match_logits: Tensor, cosine_weight: float) -> Tensor:
    """(Q, G) scores: match logit + weight * cosine on the shortlist (Q, K), cosine - 100 beyond it."""
    matched = match_logits + cosine_weight * cosine.gather(1, shortlist)
    return (cosine + BEYOND_SHORTLIST).scatter_(1, shortlist, matched)


def cosine_similarity(text_embed: Tensor, image_embed: Tensor) -> Tensor:
    """(Q, G) of l2-normalised embeddings; in full precision also under autocast, which would tie close images."""
    with torch.autocast(text_embed.device.type, enabled=False):
        return text_embed @ image_embed.T


def stage_one_shortlist(text_embed: Tensor, image_embed: Tensor, k: int) -> Tensor:
    """(Q, K) gallery indices of the k largest cosines, best first; made in chunks."""
    chunk = max(1, CHUNK_ELEMENTS // len(image_embed))
    return torch.cat([cosine_similarity(rows, image_embed).topk(k).indices for rows in text_embed.split(chunk)])
