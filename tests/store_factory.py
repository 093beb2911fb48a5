"""Stores of a gallery of both engines, and what a naive search would find in them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cada_plugin.gallery.lance_store import LanceStore
from cada_plugin.gallery.store import Filter, GalleryRow, Store

N, DIM = 300, 24
TOLERANCE = 1e-3  # of fp16


def lance(folder: Path, dim: int | None = DIM, create: bool = False) -> Store:
    return LanceStore(folder / "gallery", dim, create)


def milvus(folder: Path, dim: int | None = DIM, create: bool = False) -> Store:
    from cada_plugin.gallery.milvus_store import MilvusStore, parse_uri

    return MilvusStore(*parse_uri(f"{folder}/gallery.db/people"), dim, create)


def a_row(id_: str, **fields: object) -> GalleryRow:
    return GalleryRow(**{"id": id_, "path": f"{id_}.jpg", "size": 1, "mtime_ns": 2, "hash": "h", **fields})


def unit(*places: int) -> np.ndarray:
    return np.eye(DIM, dtype=np.float32)[list(places)]


def keeps(only: Filter | None, row: GalleryRow) -> bool:
    if only is None:
        return True
    known = {**row.columns, "camera": row.camera, "person": row.person}
    return (
        (not only.cameras or row.camera in only.cameras)
        and (only.after is None or (row.time is not None and row.time >= only.after))
        and (only.before is None or (row.time is not None and row.time < only.before))
        and all(not values or known.get(name) in values for name, values in only.columns.items())
    )


def naive(
    rows: Sequence[GalleryRow], embed: np.ndarray, vector: np.ndarray, only: Filter | None, weight: float
) -> dict[str, float]:
    scores = embed @ vector - weight * np.array([row.hubness for row in rows])
    return {row.id: float(score) for row, score in zip(rows, scores, strict=True) if keeps(only, row)}


def random_rows() -> tuple[list[GalleryRow], np.ndarray]:
    """Rows of few people on few cameras, some without a time, a person or a column."""
    random = np.random.default_rng(7)
    person = random.integers(12, size=N)
    embed = random.normal(size=(12, DIM))[person] + random.normal(size=(N, DIM)) * 0.5
    embed = (embed / np.linalg.norm(embed, axis=1, keepdims=True)).astype(np.float32)
    rows = [
        GalleryRow(
            id=f"row-{i}",
            path=f'camera {i % 4}/ünï\'cødé "{i}".jpg',
            size=2**40 + i,
            mtime_ns=1_790_000_000_123_456_789 + i,
            hash=f"{i:032x}",
            camera=("gate", "it's", "", "日本")[i % 4],
            person="" if i % 5 == 0 else str(person[i]),
            time=None if i % 7 == 0 else 1_790_000_000.0 + i * 0.25,
            hubness=float(random.uniform(0, 0.5)),
            columns={} if i % 3 == 0 else {"floor": str(i % 2), "with space": "x"} if i % 3 == 1 else {"it's": "y'"},
        )
        for i in range(N)
    ]
    return rows, embed
