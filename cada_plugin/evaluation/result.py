"""The result of a two-stage retrieval. Its scores are computed in chunks of queries, never as one (Q, G) matrix."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cada_plugin.evaluation.ranking import CHUNK_ELEMENTS

# Added to the cosine of images outside the shortlist, so that they rank below every shortlisted image and keep their
# stage-1 order. The value is that of the released code. Only the order uses it; no user sees these scores.
BEYOND_SHORTLIST = -100.0


class RankedImage(NamedTuple):
    """One image of a ranked list: its gallery index, its cosine, and its raw match logit. The logit is None if the
    match head did not score the image (no second stage, or outside the shortlist)."""

    index: int
    cosine: float
    match: float | None


@dataclass(kw_only=True)
class TwoStageScores:
    """Scores of Q captions against G images: cosines for all pairs, match logits for the K best images of each caption.

    Attributes:
        text_embed: (Q, D) and image_embed: (G, D), l2-normalised, on one device.
        shortlist: (Q, K) gallery indices of the K images of largest cosine; None without a second stage.
        match_logits: (Q, K) raw match logits of the shortlist.
        cosine_weight: weight of the cosine that is added to the match logit in the final score; 1 in the released code.
    """

    text_embed: Tensor
    image_embed: Tensor
    shortlist: Tensor | None = None
    match_logits: Tensor | None = None
    cosine_weight: float = 1.0

    def cosine(self, start: int, stop: int) -> Tensor:
        """Stage-1 scores (n, G) of queries [start, stop)."""
        return cosine_similarity(self.text_embed[start:stop], self.image_embed)

    def reranked(self, start: int, stop: int) -> Tensor:
        """Final scores (n, G): match logit + weight * cosine for shortlisted images, cosine - 100 for the others."""
        return self._with_shortlist(self.cosine(start, stop), slice(start, stop), self.cosine_weight)

    def match_only(self, start: int, stop: int) -> Tensor:
        """The scores of :meth:`reranked` with the match logit alone on the shortlist.

        This is a diagnostic: a sum of cosine and match logit can look good although the match head has learned nothing.
        """
        return self._with_shortlist(self.cosine(start, stop), slice(start, stop), 0.0)

    def _with_shortlist(self, cosine: Tensor, rows: slice, cosine_weight: float) -> Tensor:
        shortlist = self.shortlist[rows]
        matched = self.match_logits[rows] + cosine_weight * cosine.gather(1, shortlist)
        return (cosine + BEYOND_SHORTLIST).scatter_(1, shortlist, matched)

    def ranked(self, k: int, start: int = 0, stop: int | None = None) -> list[list[RankedImage]]:
        """The k best images of queries [start, stop): the shortlist by final score, then the others by cosine."""
        rows = slice(start, len(self.text_embed) if stop is None else stop)
        cosine = self.cosine(rows.start, rows.stop)  # (n, G)
        scores, logits = cosine, [{}] * len(cosine)
        if self.shortlist is not None:
            scores = self._with_shortlist(cosine, rows, self.cosine_weight)
            pairs = zip(self.shortlist[rows].tolist(), self.match_logits[rows].tolist(), strict=True)
            logits = [dict(zip(*pair, strict=True)) for pair in pairs]
        best = scores.topk(min(k, cosine.shape[1])).indices  # (n, k)
        found = zip(best.tolist(), cosine.gather(1, best).tolist(), logits, strict=True)
        return [
            [RankedImage(i, c, match.get(i)) for i, c in zip(images, cosines, strict=True)]
            for images, cosines, match in found
        ]


@dataclass(kw_only=True)
class RetrievalResult(TwoStageScores):
    """The scores of an evaluation, together with the annotation of its queries and gallery.

    Attributes:
        query_ids: (Q,) and gallery_ids: (G,), person ids.
        query_images: (Q,) gallery index of the image that a caption was written for.
        captions, img_paths: Q strings and G strings.
        query_slices: for each of the Q captions the names of its slices, such as ``("twins", "names hat")``: groups of
            queries that get metrics of their own. None if the annotation has no slices.
    """

    query_ids: Tensor
    gallery_ids: Tensor
    query_images: Tensor
    captions: list[str]
    img_paths: list[str]
    query_slices: list[tuple[str, ...]] | None = None

    @property
    def slices(self) -> dict[str, Tensor]:
        """For each slice a mask (Q,) of its captions; empty without slices."""
        return slice_masks(self.query_slices or [])


def slice_masks(query_slices: list[tuple[str, ...]]) -> dict[str, Tensor]:
    """For each slice a mask (Q,) of its captions, given the slices of Q captions. Names of one word come first, then
    those of families such as ``names hat``, each in alphabetical order."""
    order = sorted({name for names in query_slices for name in names}, key=lambda name: (" " in name, name))
    return {name: torch.tensor([name in names for names in query_slices]) for name in order}


def cosine_similarity(text_embed: Tensor, image_embed: Tensor) -> Tensor:
    """Cosines (Q, G) of l2-normalised embeddings, in full precision even under autocast, where similar images would
    get equal scores."""
    with torch.autocast(text_embed.device.type, enabled=False):
        return text_embed @ image_embed.T


def stage_one_shortlist(text_embed: Tensor, image_embed: Tensor, k: int) -> Tensor:
    """(Q, K) gallery indices of the k largest cosines, best first; computed in chunks of queries."""
    chunk = max(1, CHUNK_ELEMENTS // len(image_embed))
    return torch.cat([cosine_similarity(rows, image_embed).topk(k).indices for rows in text_embed.split(chunk)])
