"""Measures how an indexed gallery grows: building, memory, disk, latency and recall of a search.

The embeddings are synthetic, shaped like those of the model that ships with the plugin (measured on its test split): a
direction that all images share, so that the cosine of two people is 0.52 on average with a deviation of 0.16; people
with 20 images each, which have a cosine of 0.98; and captions with a cosine of 0.86 to the images of their person.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cada_plugin.benchmark.resources import peak_of
from cada_plugin.benchmark.speed.measure import fresh_processes
from cada_plugin.errors import needs_extra
from cada_plugin.gallery.store import Filter, GalleryRow
from cada_plugin.progress import progress_bar
from cada_plugin.tables import markdown_table, three_digits

with needs_extra("search"):
    from cada_plugin.gallery.lance_store import IndexSettings, LanceStore

DIM = 256  # of CADA at BLIP-base size
FOUND = 100  # images of a search
CAMERAS = 7
IMAGES_OF_A_PERSON = 20
_DIRECTIONS, _DECAY = 64, 4.5  # in which people differ; the variance falls by e every 4.5 directions
_SHARED = 0.72  # length of the mean embedding
_WITHIN, _CAPTION = 0.98, 0.86  # cosines: of two images of a person, of a caption with an image of its person
_BLOCK = 20_000
_NEW = 256  # images that one step of indexing adds
_PROBES = (10, 20, 40, 60, 80, 120, 240)


@dataclass(frozen=True)
class Embeddings:
    """Synthetic embeddings of a gallery of ``rows`` images, made anew block by block from their numbers."""

    rows: int

    def _people(self, numbers: np.ndarray) -> np.ndarray:
        """Centres (n, D), l2-normalised, of people with these numbers."""
        scale = np.exp(-np.arange(_DIRECTIONS) / (2 * _DECAY))
        scale *= np.sqrt((1 - _SHARED**2) / (scale**2).sum())
        basis = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, _DIRECTIONS + 1)))[0].T
        own = np.stack([np.random.default_rng((1, number)).normal(size=_DIRECTIONS) for number in numbers])
        return _normalized(_SHARED * basis[0] + (own * scale) @ basis[1:])

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """First row and embeddings (n, D) fp32 of every block. Images of a person are spread over the gallery."""
        people = max(1, self.rows // IMAGES_OF_A_PERSON)
        centres = self._people(np.arange(people))
        for start in range(0, self.rows, _BLOCK):
            numbers = np.arange(start, min(start + _BLOCK, self.rows))
            noise = np.random.default_rng((2, start)).standard_normal((len(numbers), DIM), dtype=np.float32)
            yield start, _mixed(centres[numbers % people], noise, _WITHIN**0.5).astype(np.float32)

    def queries(self, number: int) -> np.ndarray:
        """Captions (n, D), of people at equal distances."""
        people = max(1, self.rows // IMAGES_OF_A_PERSON)
        centres = self._people(np.linspace(0, people - 1, number).astype(int))
        noise = np.random.default_rng(3).standard_normal((number, DIM))
        return _mixed(centres, noise, _CAPTION / _WITHIN**0.5).astype(np.float32)


def _normalized(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _mixed(centres: np.ndarray, noise: np.ndarray, cosine: float) -> np.ndarray:
    """Unit vectors that have the given cosine with their centres."""
    across = noise - (noise * centres).sum(1, keepdims=True) * centres
    return cosine * centres + (1 - cosine**2) ** 0.5 * _normalized(across)


def camera_of(row: int) -> str:
    return f"camera {row * 7919 % 104_729 % CAMERAS}"


def measure_search(sizes: Sequence[int], queries: int) -> list[dict]:
    """One result for each gallery size: see :func:`measure_one`."""
    results = []
    for rows in progress_bar(sizes, desc="galleries", delay=2, leave=False):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure_one(rows, queries, Path(folder)))
    return results


def measure_one(rows: int, queries: int, folder: Path) -> dict:
    """Build a gallery and search it, each in a process of its own.

    Returns:
        ``rows``; ``queries``; ``build``: ``write_s``, ``index_s``, ``add_s`` (of 256 more images and the update of the
        index), ``disk_mb``, ``peak_mb``, ``indexed``; and ``searches``, each with ``what``, ``filter``, ``p50_ms`` and
        ``p95_ms`` (of a second pass over the same queries if there is an index), ``recall`` (of the exact 100 nearest)
        and ``peak_mb``.
    """
    with ProcessPoolExecutor(1, fresh_processes()) as pool:
        build = pool.submit(_build, rows, folder / "gallery").result()
    with ProcessPoolExecutor(1, fresh_processes()) as pool:
        searches = pool.submit(_search, rows, queries, folder / "gallery", build["indexed"]).result()
    return {"rows": rows, "queries": queries, "build": build, "searches": searches}


def _build(rows: int, folder: Path) -> dict:
    store = LanceStore(folder, DIM, create=True)
    seconds = {"write_s": 0.0, "index_s": 0.0}

    def write() -> None:
        for start, embed in Embeddings(rows).blocks():
            some = [_row(number) for number in range(start, start + len(embed))]
            begin = time.perf_counter()
            store.add(some, embed)
            seconds["write_s"] += time.perf_counter() - begin
        begin = time.perf_counter()
        store.compact()
        seconds["index_s"] = time.perf_counter() - begin

    peak = peak_of(write, torch.device("cpu"))
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    more = next(Embeddings(_NEW).blocks())[1]
    begin = time.perf_counter()
    store.add([_row(rows + number) for number in range(_NEW)], more)
    store.compact()
    add = time.perf_counter() - begin
    store.remove([_row(rows + number).id for number in range(_NEW)])
    store.compact()
    return {
        **seconds,
        "add_s": add,
        "disk_mb": disk / 2**20,
        "peak_mb": None if peak is None else peak / 2**20,
        "indexed": store.indexed,
    }


def _row(number: int) -> GalleryRow:
    return GalleryRow(
        id=f"{number:032x}",
        path=f"{camera_of(number)}/{number:09}.jpg",
        size=10_000,
        mtime_ns=number,
        hash=f"{number:032x}",
        camera=camera_of(number),
        person=str(number),
        time=float(number),
    )


def _search(rows: int, queries: int, folder: Path, indexed: bool) -> list[dict]:
    vectors = Embeddings(rows).queries(queries)
    camera = camera_of(0)
    exact = {None: _exact(rows, vectors, None), camera: _exact(rows, vectors, camera)}
    ways = {"exact": replace(IndexSettings(), from_rows=rows + 1)}
    if indexed:
        ways["index"] = IndexSettings()
    found = [
        {"what": what, **_timed(LanceStore(folder, DIM, settings=settings), vectors, camera=one, exact=exact[one])}
        for what, settings in ways.items()
        for one in exact
    ]
    for probes in _PROBES if indexed else ():
        store = LanceStore(folder, DIM, settings=replace(IndexSettings(), probes=probes))
        found.append({"what": f"index, {probes} probes", **_timed(store, vectors, None, exact[None])})
    return found


def _exact(rows: int, vectors: np.ndarray, camera: str | None) -> list[set[str]]:
    """Ids of the nearest rows of each query, by products in fp32 of all."""
    scores = np.full((len(vectors), 0), -np.inf, dtype=np.float32)
    numbers = np.zeros((len(vectors), 0), dtype=np.int64)
    for start, embed in Embeddings(rows).blocks():
        own = np.arange(start, start + len(embed))
        if camera is not None:
            keep = np.array([camera_of(number) == camera for number in own])
            own, embed = own[keep], embed[keep]
        scores = np.concatenate([scores, vectors @ embed.T], axis=1)
        numbers = np.concatenate([numbers, np.broadcast_to(own, (len(vectors), len(own)))], axis=1)
        best = np.argsort(-scores, axis=1)[:, :FOUND]
        scores, numbers = np.take_along_axis(scores, best, 1), np.take_along_axis(numbers, best, 1)
    return [{_row(int(number)).id for number in row} for row in numbers]


def _timed(store: LanceStore, vectors: np.ndarray, camera: str | None, exact: list[set[str]]) -> dict:
    only = None if camera is None else Filter(cameras=[camera])
    seconds, recalls = [], []

    def search() -> None:
        for vector, best in zip(vectors, exact, strict=True):
            begin = time.perf_counter()
            found = store.nearest(vector, FOUND, only)
            seconds.append(time.perf_counter() - begin)
            recalls.append(len(best & {row.id for row, _ in found}) / len(best))

    for vector in vectors if store.indexed else vectors[:5]:  # the engine keeps the partitions that it has read
        store.nearest(vector, FOUND, only)
    peak = peak_of(search, torch.device("cpu"))
    return {
        "filter": camera is not None,
        "p50_ms": 1000 * statistics.median(seconds),
        "p95_ms": 1000 * float(np.percentile(seconds, 95)),
        "recall": statistics.fmean(recalls),
        "peak_mb": None if peak is None else peak / 2**20,
    }


def search_table(results: Sequence[dict]) -> str:
    """Two tables: building, and searching."""
    built = [
        [
            f"{result['rows']:,}",
            *(three_digits(result["build"][key], "unknown") for key in ("write_s", "index_s", "add_s")),
            *(three_digits(result["build"][key], "unknown") for key in ("disk_mb", "peak_mb")),
        ]
        for result in results
    ]
    searched = [
        [
            f"{result['rows']:,}",
            search["what"],
            f"1 in {CAMERAS} images" if search["filter"] else "",
            *(three_digits(search[key], "unknown") for key in ("p50_ms", "p95_ms")),
            f"{search['recall']:.4f}",
        ]
        for result in results
        for search in result["searches"]
    ]
    return "\n\n".join(
        [
            markdown_table(["images", "written, s", "indexed, s", "256 more, s", "disk, MB", "peak memory, MB"], built),
            markdown_table(["images", "search", "camera filter", "p50, ms", "p95, ms", f"recall@{FOUND}"], searched),
        ]
    )


def search_panels(results: Sequence[dict]) -> list[dict]:
    """Panels for :func:`cada_plugin.benchmark.speed.curves.draw_curves`."""

    def panel(title: str, x: str, y: str, series: dict, logarithmic: bool = True) -> dict:
        return {"title": title, "x": x, "y": y, "logarithmic": logarithmic, "series": series}

    latency: dict[str, dict] = {}
    for result in results:
        for search in result["searches"]:
            if "probes" in search["what"]:
                continue
            name = search["what"] + (f", 1 in {CAMERAS} images" if search["filter"] else "")
            points = latency.setdefault(name, {"x": [], "y": []})
            points["x"].append(result["rows"])
            points["y"].append(search["p50_ms"])
    sizes = [result["rows"] for result in results]
    build = {
        name: {"x": sizes, "y": [result["build"][key] for result in results]}
        for name, key in (("written", "write_s"), ("indexed", "index_s"), ("256 more", "add_s"))
    }
    space = {
        name: {"x": sizes, "y": [result["build"][key] for result in results]}
        for name, key in (("disk", "disk_mb"), ("peak memory of building", "peak_mb"))
    }
    panels = [
        panel("latency of a search", "images", "p50, ms", latency),
        panel("building", "images", "seconds", build),
        panel("space", "images", "MB", space),
    ]
    largest = results[-1]
    probes = [search for search in largest["searches"] if "probes" in search["what"]]
    if probes:
        curve = {
            "index": {"x": [search["p50_ms"] for search in probes], "y": [search["recall"] for search in probes]},
        }
        notes = [search["what"].removeprefix("index, ") for search in probes]
        title = f"{largest['rows']:,} images, by partitions read"
        panels.append(panel(title, "p50, ms", f"recall@{FOUND}", curve, False) | {"notes": notes})
    return panels
