"""A gallery that is kept: index a folder of pictures once, bring it up to date, and search it by sentences."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cada_plugin import load_retriever
from cada_plugin.errors import ConfigError, GalleryError
from cada_plugin.export.manifest import is_exported
from cada_plugin.files import SHIPPED
from cada_plugin.gallery.facts import Facts, NamePattern, read_facts
from cada_plugin.gallery.hubness import CaptionBank
from cada_plugin.gallery.index import Changes, File, compare, digest_or_none, row_id
from cada_plugin.gallery.query import Query, combined_logits, joined, stage_one_vectors
from cada_plugin.gallery.store import GalleryRow, Store
from cada_plugin.gallery.tokens import MODES, TokenFiles
from cada_plugin.portable.explanation import Explanation
from cada_plugin.portable.features import ImageFeatures, TextFeatures
from cada_plugin.portable.hubness import hubness
from cada_plugin.portable.stages import FINAL, STAGE_ONE
from cada_plugin.progress import progress_bar

if TYPE_CHECKING:
    from cada_plugin.apis import Retriever

_FORMAT = 2
_CHUNK = 256  # pictures decoded, encoded and added at once: a kill loses at most their encoding


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


class Gallery:
    """Encoded pictures of one folder, and the model that encoded them. :func:`Gallery.create` makes one, and
    :func:`Gallery.open` opens it again.

    A folder or a Milvus address holds the rows; tokens for stage 2 are files beside a local gallery. Where no tokens
    are kept (``tokens="none"``), the shortlisted pictures are encoded again at every search.
    """

    def __init__(self, place: str, store: Store, retriever: "Retriever") -> None:
        self.place, self.store, self.retriever = place, store, retriever
        meta = store.meta()
        self.root, self.mode = Path(meta["root"]), meta["tokens"]
        self._tokens = TokenFiles(Path(place) / "tokens", self.mode)
        mine = retriever.fingerprint()
        if mine != meta["fingerprint"]:
            raise GalleryError(
                f"the gallery {place} was made by {meta['fingerprint']}, and this model is {mine}: embeddings of two "
                "models cannot be compared. Use the model of the gallery, or index into a new one"
            )

    @classmethod
    def create(
        cls,
        place: str | os.PathLike,
        folder: str | os.PathLike,
        config: str,
        checkpoint: str | None = None,
        tokens: str = "none",
        device: str = "cpu",
    ) -> "Gallery":
        """An empty gallery at a new place.

        Args:
            place: a folder, or the address of a Milvus collection (``http://host:19530/name``).
            folder: of the pictures.
            config, checkpoint: of the model, as in ``load_retriever``. They are kept, so that a search finds them.
            tokens: ``none``, ``fp16`` or ``int8``, what is kept for stage 2.

        Raises:
            ConfigError: there is no such folder, or ``tokens`` cannot be kept there.
            GalleryError: there is a gallery at this place.
        """
        place, folder = os.fspath(place), Path(folder).expanduser().resolve()
        if not folder.is_dir():
            raise ConfigError(f"no folder {folder}: give the folder of the pictures")
        if cls.exists(place):
            raise GalleryError(f"{place} holds a gallery already: open it, or give another place")
        if tokens not in MODES:
            raise ConfigError(f"tokens={tokens!r}: use one of {', '.join(MODES)}")
        if _is_remote(place) and tokens != "none":
            raise ConfigError(f"tokens={tokens} are files, which a gallery at {place} has no place for: use none")
        retriever = load_retriever(config, checkpoint, device)
        if tokens != "none" and not retriever.can_match:
            raise ConfigError(f"{retriever.name} does not re-rank and has no tokens: use tokens=none")
        dim = len(retriever.encode_text("a person").embed[0])
        store = _open_store(place, dim, create=True)
        store.set_meta(
            {
                "format": _FORMAT,
                "fingerprint": retriever.fingerprint(),
                "config": _lasting(config) if Path(config).is_file() or is_exported(config) else config,
                "checkpoint": None if checkpoint is None else _lasting(checkpoint),
                "dim": dim,
                "tokens": tokens,
                "root": str(folder),
            }
        )
        return cls(place, store, retriever)

    @staticmethod
    def exists(place: str | os.PathLike) -> bool:
        """Whether there is a gallery at a place. A server that cannot be reached has none; making one says so."""
        place = os.fspath(place)
        if not _is_remote(place):
            return (Path(place) / "gallery.json").exists()
        try:
            with contextlib.closing(_open_store(place, None, create=False)) as store:
                return bool(store.meta())
        except GalleryError:
            return False

    @classmethod
    def open(cls, place: str | os.PathLike, retriever: "Retriever | None" = None, device: str = "cpu") -> "Gallery":
        """A gallery with the model that encoded it, or with ``retriever``, which must be the same model.

        Raises:
            GalleryError: there is no gallery, or the model is another one; both fingerprints are named.
        """
        place = os.fspath(place)
        store = _open_store(place, None, create=False)
        meta = store.meta()
        if meta.get("format") != _FORMAT:
            raise GalleryError(f"{place} holds no gallery that this version reads: make a new one with `cada index`")
        return cls(place, store, retriever or load_retriever(meta["config"], meta["checkpoint"], device))

    def __len__(self) -> int:
        return self.store.count()

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

    # ------------------------------------------------------------------ indexing

    def remember_facts(self, name_pattern: str | None = None, table: str | os.PathLike | None = None) -> None:
        """Take camera, time and person from file names and from a CSV, now and whenever the gallery is indexed again.

        Args:
            name_pattern: see ``NamePattern``; None keeps the one that was given before.
            table: a CSV, see ``read_facts``; None keeps the one that was given before. Where it lists a path, it wins
                over the pattern.

        Raises:
            ConfigError: they cannot be used.
        """
        table = None if table is None else str(Path(table).expanduser().resolve())
        given = {"name_pattern": name_pattern, "csv": table}
        meta = self.store.meta() | {key: value for key, value in given.items() if value is not None}
        _read_facts(meta.get("name_pattern"), meta.get("csv"))
        self.store.set_meta(meta)

    def remember_captions(self, captions: str | os.PathLike) -> None:
        """Give every image its hubness among captions, now and whenever the gallery is indexed again.

        Args:
            captions: a text file with one caption in a line, such as the captions of the training set.

        Raises:
            ConfigError: it cannot be used.
        """
        path = Path(captions).expanduser().resolve()
        CaptionBank(path)
        self.store.set_meta(self.store.meta() | {"captions": str(path)})

    def index(
        self, facts: Callable[[str], Facts | None] | None = None, batch_size: int = 64, progress: bool = True
    ) -> Changes:
        """Bring the gallery up to date with its folder.

        Only new and changed files are decoded. A picture that cannot be read is reported and left out; the rest is
        indexed. A process that is killed at any time can be followed by another, and the gallery ends as if it had not
        been killed.

        Args:
            facts: what is known of the picture at a path. By default that of :meth:`remember_facts`.

        Raises:
            ConfigError: the folder is gone or without any picture, or another process is indexing into this gallery.
        """
        if not self.root.is_dir():
            raise ConfigError(f"the folder {self.root} of the gallery {self.place} is gone: nothing was changed")
        if facts is None:
            meta = self.store.meta()
            facts = _read_facts(meta.get("name_pattern"), meta.get("csv"))
        with self.store.only_writer():
            return self._index(facts, batch_size, progress)

    def _index(self, facts: Callable[[str], Facts | None], batch_size: int, progress: bool) -> Changes:
        bank = self._caption_bank()
        stale = bank is not None and self.store.meta().get("hubness_of") != bank.digest
        changes = compare(self.root, self.store.rows())
        if changes.removed and not (changes.new or changes.moved or changes.touched or changes.unchanged):
            raise ConfigError(
                f"the folder {self.root} holds no picture any more, and the gallery {self.place} has "
                f"{len(changes.removed):,}: is its disk mounted? Nothing was changed. To empty a gallery, delete it"
            )
        if self.mode != "none":  # a token file that was lost, or removed because it was damaged, is made again
            lost = [row for row in changes.unchanged if not self._tokens.has(row.hash)]
            changes.new += [File(row.path, row.size, row.mtime_ns) for row in lost]
        again = [(row, replace(row, **_facts(facts, row.path))) for row in changes.unchanged]
        kept = [(old, new) for old, new in again if old != new]
        kept += [
            (row, replace(row, size=file.size, mtime_ns=file.mtime_ns, **_facts(facts, file.path)))
            for row, file in changes.touched
        ]
        kept += [(row, _moved(row, file, facts)) for row, file in changes.moved]
        for start in range(0, len(kept), _CHUNK):
            some = kept[start : start + _CHUNK]
            _, embed = self.store.get([old.id for old, _ in some])
            self.store.add([new for _, new in some], embed)
        captions = self._bank_embeddings(bank) if bank is not None and (stale or changes.new) else None
        if stale:
            # a run that is killed here leaves hubness of two banks, whichever of them the next run is given
            self.store.set_meta(self.store.meta() | {"hubness_of": None})
            self._measure_hubness(captions)
            self.store.set_meta(self.store.meta() | {"hubness_of": bank.digest})
        bar = progress_bar(
            total=len(changes.new), desc="indexing", unit="image", delay=1, disable=not progress, leave=False
        )
        gone = {row.id for row in changes.removed} | {row.id for row, _ in changes.moved}
        for start in range(0, len(changes.new), _CHUNK):
            some = changes.new[start : start + _CHUNK]
            self._add(some, facts, batch_size, changes, captions)
            bar.update(len(some))
        bar.close()
        gone |= {row_id(path) for path in changes.unreadable if path in changes.changed}
        self.store.remove(sorted(gone))
        self.store.compact()
        if self.mode != "none" and (gone or changes.changed):
            self._tokens.keep_only({row.hash for row in self.store.rows()})
        return changes

    def _caption_bank(self) -> CaptionBank | None:
        captions = self.store.meta().get("captions")
        return CaptionBank(Path(captions)) if captions else None

    def _bank_embeddings(self, bank: CaptionBank) -> np.ndarray:
        folder = None if _is_remote(self.place) else Path(self.place)
        return bank.embeddings(lambda texts: np.asarray(self.retriever.encode_text(texts).embed, np.float32), folder)

    def _measure_hubness(self, captions: np.ndarray) -> None:
        """Measure the hubness of all rows among captions (m, D)."""
        rows = list(self.store.rows())
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            _, embed = self.store.get([row.id for row in some])
            measured = zip(some, hubness(embed, captions), strict=True)
            self.store.add([replace(row, hubness=float(value)) for row, value in measured], embed)

    def _add(
        self,
        files: Sequence[File],
        facts: Callable,
        batch_size: int,
        changes: Changes,
        captions: np.ndarray | None,
    ) -> None:
        """Encode files and add their rows; those that cannot be read are noted in ``changes``."""
        readable: list[tuple[File, str]] = []
        for file in files:
            digest = digest_or_none(self.root / file.path)
            if digest is None:
                changes.unreadable[file.path] = "the file cannot be opened any more"
            else:
                readable.append((file, digest))
        encoded, bad = self.retriever.encode_readable([self.root / file.path for file, _ in readable], batch_size)
        for place, reason in bad.items():
            changes.unreadable[readable[place][0].path] = reason
        rows = [
            GalleryRow(row_id(file.path), file.path, file.size, file.mtime_ns, digest, **_facts(facts, file.path))
            for place, (file, digest) in enumerate(readable)
            if place not in bad
        ]
        if not rows:
            return
        if self.mode != "none":  # before the rows, so that no row waits for its tokens after a kill
            for row, tokens in zip(rows, encoded.tokens, strict=True):
                self._tokens.write(row.hash, tokens)
        embed = np.asarray(encoded.embed, np.float32)
        if captions is not None:
            values = hubness(embed, captions)
            rows = [replace(row, hubness=float(value)) for row, value in zip(rows, values, strict=True)]
        self.store.add(rows, embed)

    # ------------------------------------------------------------------ searching

    def search(self, query: Query | str, **options: object) -> list[GalleryHit]:
        """The best images for a query, best first.

        Args:
            query: a :class:`Query`, or a sentence, for which ``options`` are the other arguments of a query.

        Raises:
            ConfigError: the query is impossible, or a sentence has no word that the model reads.
            GalleryError: a marked hit is not in the gallery.
        """
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
        """Why a picture fits the sentences of a query: one explanation for each caption that stage 2 matches, which is
        one but for *or* and for sentences that are too long together. Other parts of the query do not count.

        Args:
            query: a :class:`Query`, or a sentence.
            row_id: ``row.id`` of a hit.

        Raises:
            ConfigError: there is no sentence, or the model has no match head.
            GalleryError: there is no such image.
            ImageError: its picture is needed and cannot be read any more.
        """
        if isinstance(query, str):
            query = Query([query])
        if not query.sentences:
            raise ConfigError("an explanation is about sentences, and this query has none: describe the person")
        (row,), embed = self.store.get([row_id])
        if self.mode != "none":
            image = ImageFeatures(embed, self._tokens.read(row.hash)[None])
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
        if self.mode != "none":
            return np.stack([self._tokens.read(row.hash) for row in rows]), [True] * len(rows)
        encoded, bad = self.retriever.encode_readable([self.root / row.path for row in rows])
        there = [place not in bad for place in range(len(rows))]
        return np.asarray(encoded.tokens if encoded is not None else ()), there


def _lasting(path: str | os.PathLike) -> str:
    """A path that is found from another working directory too."""
    return str(path) if str(path).startswith(SHIPPED) else str(Path(path).expanduser().resolve())


def _read_facts(pattern: str | None, table: str | os.PathLike | None) -> Callable[[str], Facts | None]:
    by_path = read_facts(Path(table)) if table else {}
    by_name = NamePattern(pattern).read if pattern else by_path.get
    return lambda path: by_path.get(path) or by_name(path)


def _moved(row: GalleryRow, file: File, facts: Callable[[str], Facts | None]) -> GalleryRow:
    return replace(row, id=row_id(file.path), path=file.path, mtime_ns=file.mtime_ns, **_facts(facts, file.path))


def _facts(facts: Callable[[str], Facts | None], path: str) -> Mapping[str, object]:
    return vars(facts(path) or Facts())


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


def _is_remote(place: str) -> bool:
    return "://" in place


def _open_store(place: str, dim: int | None, create: bool) -> Store:
    if _is_remote(place):
        from cada_plugin.gallery.milvus_store import MilvusStore, parse_uri

        address, collection = parse_uri(place)
        return MilvusStore(address, collection, dim, create=create)
    from cada_plugin.gallery.lance_store import LanceStore

    return LanceStore(place, dim, create=create)
