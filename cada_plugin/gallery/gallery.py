"""A gallery that is kept: index a folder of pictures once, bring it up to date, and search it by sentences."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cada_plugin import load_retriever
from cada_plugin.errors import ConfigError, GalleryError
from cada_plugin.export.manifest import is_exported
from cada_plugin.files import SHIPPED
from cada_plugin.gallery.facts import Facts, facts_reader
from cada_plugin.gallery.hubness import CaptionBank
from cada_plugin.gallery.index import Changes
from cada_plugin.gallery.indexing import Indexer
from cada_plugin.gallery.query import Query
from cada_plugin.gallery.searching import GalleryHit, Searcher
from cada_plugin.gallery.store import Store
from cada_plugin.gallery.tokens import MODES, TokenFiles
from cada_plugin.portable.explanation import Explanation

if TYPE_CHECKING:
    from cada_plugin.apis import Retriever

_FORMAT = 2


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
        mine = retriever.fingerprint()
        if mine != meta["fingerprint"]:
            raise GalleryError(
                f"the gallery {place} was made by {meta['fingerprint']}, and this model is {mine}: embeddings of two "
                "models cannot be compared. Use the model of the gallery, or index into a new one"
            )
        parts = (place, self.root, store, retriever, TokenFiles(Path(place) / "tokens", self.mode))
        self._indexer, self._searcher = Indexer(*parts), Searcher(*parts)

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
        return self._searcher.reranks

    @property
    def calibrated(self) -> bool:
        """Whether scores are probabilities: all stages of the model are calibrated."""
        return self._searcher.calibrated

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
        facts_reader(meta.get("name_pattern"), meta.get("csv"))
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
            facts = facts_reader(meta.get("name_pattern"), meta.get("csv"))
        with self.store.only_writer():
            return self._indexer.run(facts, batch_size, progress)

    def search(self, query: Query | str, **options: object) -> list[GalleryHit]:
        """The best images for a query, best first.

        Args:
            query: a :class:`Query`, or a sentence, for which ``options`` are the other arguments of a query.

        Raises:
            ConfigError: the query is impossible, or a sentence has no word that the model reads.
            GalleryError: a marked hit is not in the gallery.
        """
        return self._searcher.search(query, **options)

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
        return self._searcher.explain(query, row_id)


def _lasting(path: str | os.PathLike) -> str:
    """A path that is found from another working directory too."""
    return str(path) if str(path).startswith(SHIPPED) else str(Path(path).expanduser().resolve())


def _is_remote(place: str) -> bool:
    return "://" in place


def _open_store(place: str, dim: int | None, create: bool) -> Store:
    if _is_remote(place):
        from cada_plugin.gallery.milvus_store import MilvusStore, parse_uri

        address, collection = parse_uri(place)
        return MilvusStore(address, collection, dim, create=create)
    from cada_plugin.gallery.lance_store import LanceStore

    return LanceStore(place, dim, create=create)
