"""Searching a gallery: the stages of a search, and what a hit is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cada_plugin.errors import ConfigError
from cada_plugin.gallery.query import Query, combined_logits, joined, stage_one_vectors
from cada_plugin.gallery.store import GalleryRow, Store
from cada_plugin.gallery.tokens import TokenFiles
from cada_plugin.portable.explanation import Explanation
from cada_plugin.portable.features import ImageFeatures, TextFeatures
from cada_plugin.portable.stages import FINAL, STAGE_ONE

if TYPE_CHECKING:
    from cada_plugin.apis import Retriever


@dataclass(frozen=True)
class GalleryHit:
    """One image found.

    Attributes:
        rank: from 1.
        path: of the file, absolute.
        cosine: the stage-1 score; a cosine where one sentence was searched for, else combined as in
            :mod:`cada_plugin.gallery.query`.
        row: what is known of the image: id, camera, time, person, columns.
        match: the match logit of stage 2, combined over the sentences as there; None where the image was not matched,
            and for searches by pictures alone.
        score: the probability that the image shows the person, see :mod:`cada_plugin.evaluation.calibration`; None
            if the model was not calibrated, or the query has more than sentences.
    """

    rank: int
    path: str
    cosine: float
    row: GalleryRow
    match: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Searcher:
    """Searches the rows of ``store``.

    Attributes:
        place: of the gallery, as in ``Gallery.create``.
        root: the folder of the pictures.
        store: what holds the rows.
        retriever: the model that encoded them.
        tokens: where tokens for stage 2 are kept, if its mode is not ``none``; else pictures are encoded again.
    """

    place: str
    root: Path
    store: Store
    retriever: "Retriever"
    tokens: TokenFiles

    @property
    def reranks(self) -> bool:
        """Whether the model has a stage 2."""
        return self.retriever.can_match and self.retriever.rerank_topk > 0

    @property
    def calibrated(self) -> bool:
        """Whether the scores of all stages of the model are calibrated. A calibration that was made without re-ranking
        says nothing of re-ranked images."""
        calibration = self.retriever.calibration
        return calibration is not None and {STAGE_ONE, *([FINAL] if self.reranks else [])} <= calibration.stages.keys()

    def search(self, query: Query | str, **options: object) -> list[GalleryHit]:
        """See ``Gallery.search``."""
        if isinstance(query, str):
            query = Query([query], **options)
        elif options:
            raise ConfigError(f"{', '.join(options)} beside a Query: write them into the query")
        self._check(query)
        captions = self._captions(query)
        texts = self.retriever.encode_text(captions) if captions else None
        vectors = self._vectors(query, texts)
        second = query.rerank and bool(captions) and not query.right and self.reranks
        marked = {*query.right, *query.wrong}

        def nearest(k: int) -> list[GalleryHit]:
            hits = self._nearest(vectors, k + len(marked), query)
            return [hit for hit in hits if hit.row.id not in marked][:k]

        k = max(query.topk, self.retriever.rerank_topk if second else 0)
        hits = nearest(k)
        least = -np.inf if query.min_cosine is None else query.min_cosine
        most = self.store.most_found - len(marked)
        while query.per_person and len(hits) == k < most and hits[-1].cosine >= least:
            if len(_one_per_person(hits)) >= query.topk:
                break
            k = min(4 * k, most)  # many images of few people came first: look further until there are enough people
            hits = nearest(k)
        hits = [hit for hit in hits if hit.cosine >= least]
        if second and hits:
            hits = self._rerank(query, texts, hits)
        if self.calibrated and query.of_sentences_alone:
            hits = self._scored(query, hits)
        if query.min_score is not None:
            hits = [hit for hit in hits if hit.score >= query.min_score]
        if query.per_person:
            hits = _one_per_person(hits)
        return [replace(hit, rank=rank) for rank, hit in enumerate(hits[: query.topk], 1)]

    def explain(self, query: Query | str, row_id: str) -> list[Explanation]:
        """See ``Gallery.explain``."""
        if isinstance(query, str):
            query = Query([query])
        if not query.sentences:
            raise ConfigError("an explanation is about sentences, and this query has none: describe the person")
        (row,), embed = self.store.get([row_id])
        if self.tokens.mode != "none":
            image = ImageFeatures(embed, self.tokens.read(row.hash)[None])
        else:
            image = self.retriever.encode_image(self.root / row.path)
        images = self.store.count(query.only)
        return [self.retriever.explain(one, image, gallery_images=images) for one in self._captions(query)]

    def _check(self, query: Query) -> None:
        if query.min_score is not None and not self.calibrated:
            raise ConfigError(
                "a least score needs a calibrated model: make its calibration with `cada calibrate CONFIG CHECKPOINT`, "
                "or cut off by the cosine (min_cosine)"
            )
        if query.min_score is not None and not query.of_sentences_alone:
            raise ConfigError(
                "a least score is calibrated for sentences alone: with pictures, without, feedback or hubness, cut off "
                "by the cosine (min_cosine)"
            )
        if query.hubness_weight and not self.store.meta().get("hubness_of"):
            raise ConfigError(
                f"the images of {self.place} have no hubness: give `cada index` the option --captions, or leave "
                "hubness_weight at 0"
            )

    def _captions(self, query: Query) -> list[str]:
        """The texts that are encoded and matched for the sentences of a query."""
        if query.combine == "and" and len(query.sentences) > 1:
            one = joined(query.sentences)
            if not self.retriever.tokenizer.count_truncated([one]):
                return [one]
        return list(query.sentences)

    def _vectors(self, query: Query, texts: TextFeatures | None) -> np.ndarray:
        """The stage-1 vectors (V, D) of a query."""
        wanted = []
        if texts is not None:
            embed = np.asarray(texts.embed, np.float32)
            wanted.append(embed.mean(0, keepdims=True) if query.combine == "and" else embed)
        if query.like:
            wanted.append(np.asarray(self.retriever.encode_image(list(query.like)).embed, np.float32))
        none = np.zeros((0, 0))
        unwanted = np.asarray(self.retriever.encode_text(query.without).embed, np.float32) if query.without else none
        right, wrong = (self.store.get(list(ids))[1] if ids else none for ids in (query.right, query.wrong))
        return stage_one_vectors(query, np.concatenate(wanted), unwanted, right, wrong)

    def _nearest(self, vectors: np.ndarray, k: int, query: Query) -> list[GalleryHit]:
        best: dict[str, GalleryHit] = {}
        for vector in vectors:
            for row, score in self.store.nearest(vector, k, query.only, query.hubness_weight):
                if row.id not in best or best[row.id].cosine < score:
                    best[row.id] = GalleryHit(0, str(self.root / row.path), score, row)
        return sorted(best.values(), key=lambda hit: (-hit.cosine, hit.row.id))[:k]

    def _rerank(self, query: Query, texts: TextFeatures, hits: list[GalleryHit]) -> list[GalleryHit]:
        """Stage 2 on the first ``rerank_topk`` hits; pictures that are gone keep their place behind them."""
        head = hits[: self.retriever.rerank_topk]
        tokens, there = self._tokens_of([hit.row for hit in head])
        head = [hit for hit, is_there in zip(head, there, strict=True) if is_there]
        if not head:
            return hits
        logits = np.asarray(self.retriever.match(texts, ImageFeatures(None, tokens)))
        match = combined_logits(query, logits)
        matched = [replace(hit, match=float(logit)) for hit, logit in zip(head, match, strict=True)]
        matched.sort(key=lambda hit: -self._final(hit))
        ids = {hit.row.id for hit in matched}
        return matched + [hit for hit in hits if hit.row.id not in ids]

    def _final(self, hit: GalleryHit) -> float:
        return hit.match + self.retriever.cosine_weight * hit.cosine

    def _scored(self, query: Query, hits: list[GalleryHit]) -> list[GalleryHit]:
        """The hits with the probability that each shows the person."""
        calibration, images = self.retriever.calibration, self.store.count(query.only)
        scores = calibration.probability(STAGE_ONE, np.array([hit.cosine for hit in hits]), images)
        matched = [place for place, hit in enumerate(hits) if hit.match is not None]
        if matched:
            finals = np.array([self._final(hits[place]) for place in matched])
            scores[matched] = calibration.probability(FINAL, finals, images)
        return [replace(hit, score=score) for hit, score in zip(hits, scores.tolist(), strict=True)]

    def _tokens_of(self, rows: Sequence[GalleryRow]) -> tuple[np.ndarray, list[bool]]:
        """Tokens (I, 1+N, C) of those pictures that have them, and which those are."""
        if self.tokens.mode != "none":
            return np.stack([self.tokens.read(row.hash) for row in rows]), [True] * len(rows)
        encoded, bad = self.retriever.encode_readable([self.root / row.path for row in rows])
        there = [place not in bad for place in range(len(rows))]
        return np.asarray(encoded.tokens if encoded is not None else ()), there


def _one_per_person(hits: Iterable[GalleryHit]) -> list[GalleryHit]:
    seen: set[str] = set()
    kept = []
    for hit in hits:
        person = hit.row.person
        if person and person in seen:
            continue
        seen.add(person)
        kept.append(hit)
    return kept
