"""What a gallery asks of the database that holds it: rows with an embedding, and the nearest of them.

Two adapters implement :class:`Store`: LanceDB, a folder on this machine, and Milvus, a server or cluster. A gallery
uses nothing beyond this protocol, so a third engine is one more adapter that passes ``tests/test_gallery_stores.py``.

Shape letters: N rows, D size of the embedding, k rows found.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cada_plugin.errors import ConfigError, GalleryError

COLUMN = "c_"
"""Begins the stored name of every free column."""
SECOND_WRITER = "both would add the same pictures. Wait for it, or end it"
"""Ends the error of a second writer."""
MARGIN = 16
"""A search of an engine sums products of rounded numbers. So that rounding at the cut does not decide which row is
found, adapters fetch this many rows more than wanted and rank them by :func:`ranked`."""


@dataclass(frozen=True)
class GalleryRow:
    """One image of a gallery.

    Attributes:
        id: unique in the gallery; made of the path.
        path: of the file, relative to the folder that was indexed, with forward slashes.
        size, mtime_ns, hash: of the file: bytes, modification time in nanoseconds, digest of the content.
        camera, person: where known, else "".
        time: when the picture was taken, in seconds since 1970 (UTC); None where it is not known.
        hubness: how near the image is to captions in general, see :mod:`cada_plugin.portable.hubness`; 0 where it was
            not measured.
        columns: further columns of a CSV, as text.
    """

    id: str
    path: str
    size: int
    mtime_ns: int
    hash: str
    camera: str = ""
    person: str = ""
    time: float | None = None
    hubness: float = 0.0
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Filter:
    """Which rows may be found. All conditions hold together; empty ones allow everything.

    Attributes:
        cameras: any of these.
        after, before: ``after <= time < before``, in seconds since 1970; a row without a time is left out by either.
        columns: by the name of a column of a CSV (or ``camera``, ``person``), the values that are allowed.
    """

    cameras: Sequence[str] = ()
    after: float | None = None
    before: float | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in {"cameras": self.cameras, **self.columns}.items():
            refuse_one_text(name, values)


def refuse_one_text(name: str, values: object) -> None:
    """Raise ``ConfigError`` for a text where several are expected: it would be taken letter by letter."""
    if isinstance(values, str | os.PathLike):
        raise ConfigError(f"{name}={os.fspath(values)!r} is one text: give a list, [{os.fspath(values)!r}]")


class Store(Protocol):
    """Rows of one gallery, with their embeddings in fp16 or as near to it as the engine can.

    A local store changes as a whole or not at all if the process is killed in a method; a remote one may do so request
    by request. What a kill leaves undone, the next indexing repairs. Methods raise ``GalleryError`` with what to do.

    Attributes:
        most_found: the most rows that one search can find.
    """

    most_found: int

    def meta(self) -> dict:
        """What :meth:`set_meta` stored; an empty dict in a new gallery."""

    def set_meta(self, meta: dict) -> None:
        """Store facts about the gallery as JSON."""

    def only_writer(self) -> AbstractContextManager[None]:
        """Keep other writers out while the block runs; readers go on.

        Raises:
            ConfigError: another process writes to this gallery. The message says which.
        """

    def add(self, rows: Sequence[GalleryRow], embed: np.ndarray) -> None:
        """Add rows with their l2-normalised embeddings (n, D); a row whose id is there already is replaced."""

    def remove(self, ids: Sequence[str]) -> None:
        """Remove rows; ids that are not there are ignored."""

    def rows(self) -> Iterator[GalleryRow]:
        """All rows, in any order, without embeddings."""

    def get(self, ids: Sequence[str]) -> tuple[list[GalleryRow], np.ndarray]:
        """Rows with their embeddings (n, D) fp32, in the order of ``ids``.

        Raises:
            GalleryError: an id is not there.
        """

    def nearest(
        self, vector: np.ndarray, k: int, only: Filter | None = None, hubness_weight: float = 0.0
    ) -> list[tuple[GalleryRow, float]]:
        """The k rows of largest ``vector . embedding - hubness_weight * hubness``, best first, with these scores.

        The scores are exact; an engine that searches by an index may miss a few of the rows.

        Args:
            vector: (D,), not necessarily normalised: combinations of several sentences are not.
            only: the filter is applied before the search, so that k rows are found where k fit.
        """

    def count(self, only: Filter | None = None) -> int:
        """Number of rows."""

    def compact(self) -> None:
        """Make many small writes one large one; call it after indexing. Builds an index where the engine needs one."""

    def close(self) -> None:
        """Release files and connections."""


# ---------------------------------------------------------------- what adapters share


def packed(rows: Sequence[GalleryRow], embed: np.ndarray, dim: int, dtype: type) -> np.ndarray:
    """Vectors (n, D+1) to store: the embedding, then the hubness, so that a query of :func:`query_vector` scores a row
    by one product.

    Raises:
        GalleryError: the embeddings have another shape, or numbers that fp16 cannot hold.
    """
    embed = np.asarray(embed, dtype=np.float32)
    if embed.shape != (len(rows), dim):
        raise GalleryError(f"{len(rows)} rows with embeddings of shape {embed.shape}: expected ({len(rows)}, {dim})")
    hubness = np.array([row.hubness for row in rows], dtype=np.float32).reshape(-1, 1)
    with np.errstate(over="ignore"):
        vectors = np.concatenate([embed, hubness], axis=1).astype(dtype)
    if not np.isfinite(vectors).all():
        raise GalleryError("embeddings and hubness must be finite numbers that fp16 can hold (up to 65504)")
    return vectors


def query_vector(vector: np.ndarray, dim: int, hubness_weight: float) -> np.ndarray:
    """The query (D+1,) for vectors of :func:`packed`, of length 1: an engine rounds it to fp16, which a long one would
    not fit, and its length does not change the order.

    Raises:
        GalleryError: it has another shape, or numbers that are not finite.
    """
    vector = np.asarray(vector, dtype=np.float32)
    if vector.shape != (dim,) or not np.isfinite(vector).all():
        raise GalleryError(f"a query of {dim} finite numbers is expected, not one of shape {vector.shape}")
    query = np.append(vector, np.float32(-hubness_weight))
    return query / (np.linalg.norm(query) or 1.0)


def ranked(
    rows: Sequence[GalleryRow], vectors: np.ndarray, vector: np.ndarray, k: int, hubness_weight: float
) -> list[tuple[GalleryRow, float]]:
    """The k best of rows with stored vectors (n, D+1), by scores computed in fp32; rows of equal score by their id."""
    hubness = np.array([row.hubness for row in rows])
    scores = vectors[:, :-1] @ np.asarray(vector, dtype=np.float32) - hubness_weight * hubness
    return sorted(zip(rows, scores.tolist(), strict=True), key=lambda found: (-found[1], found[0].id))[:k]


def in_order(
    ids: Sequence[str], found: Mapping[str, tuple[GalleryRow, np.ndarray]], dim: int, where: str
) -> tuple[list[GalleryRow], np.ndarray]:
    """Rows and embeddings (n, D) in the order of ``ids``, from stored vectors (D+1,) by id.

    Raises:
        GalleryError: an id was not found ``where``.
    """
    missing = [one for one in ids if one not in found]
    if missing:
        raise GalleryError(
            f"the gallery {where} has no image {missing[0]!r} ({len(missing)} of {len(ids)} are unknown): take ids "
            "from a search in this gallery, or index the folder again"
        )
    embed = np.array([found[one][1][:-1] for one in ids], dtype=np.float32).reshape(len(ids), dim)
    return [found[one][0] for one in ids], embed


def column_of(name: str) -> str:
    """Where a free column is stored: a name that no query language has to quote, and that is none of ours."""
    return COLUMN + name.encode().hex()


def name_of(column: str) -> str:
    """The free column that :func:`column_of` named."""
    return bytes.fromhex(column.removeprefix(COLUMN)).decode()
