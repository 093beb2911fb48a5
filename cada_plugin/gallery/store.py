"""What a gallery asks of the database that holds it: rows with an embedding, and the nearest of them.

Two adapters implement :class:`Store`: LanceDB, a folder on this machine, and Milvus, a server or cluster. A gallery
uses nothing beyond this protocol, so a third engine is one more adapter that passes ``tests/test_gallery_stores.py``.

Shape letters: N rows, D size of the embedding, k rows found.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class GalleryRow:
    """One image of a gallery.

    Attributes:
        id: unique in the gallery; made of the path.
        path: of the file, relative to the folder that was indexed, with forward slashes.
        size, mtime_ns, hash: of the file: bytes, modification time in nanoseconds, digest of the content.
        camera, person: where known, else "".
        time: when the picture was taken, in seconds since 1970 (UTC); None where it is not known.
        hubness: how near the image is to captions in general; see ``StoredGallery``. 0 where it was not measured.
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


class Store(Protocol):
    """Rows of one gallery, with their embeddings in fp16 or as near to it as the engine can.

    Every method that changes something is either done as a whole when it returns, or had no effect when the process was
    killed in it. Methods raise ``GalleryError`` with what to do.
    """

    def meta(self) -> dict:
        """What :meth:`set_meta` stored; an empty dict in a new gallery."""

    def set_meta(self, meta: dict) -> None:
        """Store facts about the gallery as JSON."""

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
