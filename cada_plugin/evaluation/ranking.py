"""Text-to-image retrieval metrics: each caption ranks a gallery of person crops; all images of its person are relevant.

These are pure functions of the similarities, which can be passed in chunks and need not fit in memory as one matrix.
The engine computes and re-ranks the similarities; ``evaluation.metric`` implements MMEngine's metric protocol.

Shapes: Q queries (captions), G gallery images, R relevant images of a query.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cada_plugin.errors import ConfigError

Similarity = np.ndarray | Tensor | Callable[[int, int], np.ndarray | Tensor] | Iterable[np.ndarray | Tensor]

_BLOCK_ELEMENTS = 1_500_000  # similarities compared at once: a few MB fit in the CPU cache; larger blocks were slower
CHUNK_ELEMENTS = 10_000_000  # similarities computed at once, 40 MB of float32 for any gallery size


def rank_metrics(
    similarity: Similarity,
    query_ids: Sequence[int] | np.ndarray | Tensor,
    gallery_ids: Sequence[int] | np.ndarray | Tensor,
    topk: Sequence[int] = (1, 5, 10),
    chunk_size: int = 512,
) -> dict[str, float]:
    """R@n, mAP and mINP in percent. Arguments and errors are those of :func:`rank_queries`; ``topk`` holds every n.

    In this example three captions describe persons 7, 7 and 8, and the gallery has two images of person 7 and one of
    person 8. The third caption ranks both wrong images first:

    >>> scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.1, 0.5], [0.9, 0.5, 0.1]])
    >>> rank_metrics(scores, [7, 7, 8], [7, 7, 8], topk=(1, 3))
    {'R1': 66.66666666666666, 'R3': 100.0, 'mAP': 72.22222222222221, 'mINP': 66.66666666666666}

    Raises:
        ConfigError: a k is not a positive integer, or is larger than the gallery.
    """
    _check_topk(topk, len(gallery_ids))
    return mean_metrics(rank_queries(similarity, query_ids, gallery_ids, chunk_size), topk)


def mean_metrics(per_query: dict[str, np.ndarray], topk: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Means in percent over the result of :func:`rank_queries`, or over the rows of that result for some queries."""
    metrics = {f"R{k}": float((per_query["first_rank"] < k).mean() * 100) for k in topk}
    return {**metrics, "mAP": float(per_query["ap"].mean() * 100), "mINP": float(per_query["inp"].mean() * 100)}


def rank_queries(
    similarity: Similarity,
    query_ids: Sequence[int] | np.ndarray | Tensor,
    gallery_ids: Sequence[int] | np.ndarray | Tensor,
    chunk_size: int = 512,
) -> dict[str, np.ndarray]:
    """First rank, average precision and inverse negative penalty of each query.

    The rows are not sorted. The rank of a relevant image is the number of larger scores in its row, and a query has
    few relevant images (2 to 20 in the published data sets), so counting is several times faster than sorting.
    Images of equal score rank in gallery order, as in a stable descending sort.

    Args:
        similarity: (Q, G), larger is more similar, on any device; or a function ``(start, stop) -> (stop - start, G)``;
            or an iterable of consecutive (n, G) chunks. The latter two keep memory independent of Q.
        query_ids: (Q,) person of each caption.
        gallery_ids: (G,) person of each image.
        chunk_size: the most rows to compute at once; for large galleries fewer are. It does not change the result.

    Returns:
        ``first_rank`` (Q,) int64, the rank of the best relevant image, counted from 0; ``ap`` (Q,), the average
        precision; ``inp`` (Q,), the inverse negative penalty R / (1 + rank of the worst relevant image). The last two
        are fractions, not percent.

    Raises:
        ValueError: shapes do not fit, a similarity is NaN, or a query has no relevant image.
        ConfigError: ``chunk_size`` is below 1.
    """
    query_ids, gallery_ids = _check_ids(query_ids, "query_ids"), _check_ids(gallery_ids, "gallery_ids")
    num_queries, num_images = len(query_ids), len(gallery_ids)
    order = np.argsort(gallery_ids, kind="stable")  # (G,) images grouped by person
    grouped = gallery_ids[order]
    begin = np.searchsorted(grouped, query_ids, "left")  # (Q,) where the images of the query's person begin in order
    counts = np.searchsorted(grouped, query_ids, "right") - begin  # (Q,) R of each query
    _check_relevant(query_ids, counts)

    result = {"first_rank": np.empty(num_queries, np.int64), "ap": np.empty(num_queries), "inp": np.empty(num_queries)}
    width = int(counts.max())  # over all queries, not per block, so that float sums do not depend on the chunks
    for start, block in _blocks(similarity, num_queries, num_images, chunk_size):
        rows = slice(start, start + len(block))
        ranks = _relevant_ranks(block, order, begin[rows], counts[rows], width)  # (n, width)
        relevant = counts[rows]
        filled = np.arange(width) < relevant[:, None]
        precision = np.where(filled, np.arange(1, width + 1) / (ranks + 1), 0.0)
        result["first_rank"][rows] = ranks[:, 0]
        result["ap"][rows] = precision.sum(1) / relevant
        result["inp"][rows] = relevant / (ranks[np.arange(len(block)), relevant - 1] + 1)
    return result


def _relevant_ranks(block: np.ndarray, order: np.ndarray, begin: np.ndarray, counts: np.ndarray, width: int):
    """Ascending ranks (n, width) of the relevant images of each row of ``block`` (n, G), padded with G."""
    num_rows, num_images = block.shape
    ranks = np.full((num_rows, width), num_images, np.int64)
    # Queries with the most relevant images come first, so that the queries with more than j of them are a prefix.
    rows = np.argsort(-counts, kind="stable")
    block, begin, counts = block[rows], begin[rows], counts[rows]
    for j in range(int(counts[0])):
        n = int(np.count_nonzero(counts > j))
        image = order[begin[:n] + j]  # (n,)
        score = block[np.arange(n), image][:, None]  # (n, 1)
        rank = _count(block[:n] > score)
        tied = np.flatnonzero(_count(block[:n] >= score) - rank > 1)
        if len(tied):
            earlier = np.arange(num_images) < image[tied, None]
            rank[tied] += _count((block[tied] == score[tied]) & earlier)
        ranks[rows[:n], j] = rank
    ranks.sort(axis=1)
    return ranks


def _count(mask: np.ndarray) -> np.ndarray:
    """Number of True values per row. Summing bytes into int32 is twice as fast as ``count_nonzero`` along an axis."""
    return mask.view(np.int8).sum(axis=1, dtype=np.int32)


def _blocks(
    similarity: Similarity, num_queries: int, num_images: int, chunk_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields consecutive pairs (first row, block (n, G)) as NumPy arrays, after checking shapes and NaN."""
    if chunk_size < 1:
        raise ConfigError(f"chunk_size={chunk_size}: use an integer from 1")
    if isinstance(similarity, np.ndarray | Tensor):
        if tuple(similarity.shape) != (num_queries, num_images):
            raise ValueError(
                f"similarity has shape {tuple(similarity.shape)}, but there are {num_queries} query_ids and "
                f"{num_images} gallery_ids: it must be ({num_queries}, {num_images}), queries first"
            )
        matrix = similarity
        similarity = lambda start, stop: matrix[start:stop]  # noqa: E731
    if callable(similarity):
        rows = max(1, min(chunk_size, CHUNK_ELEMENTS // num_images))
        spans = ((i, min(i + rows, num_queries)) for i in range(0, num_queries, rows))
        chunks = (_span(similarity, start, stop) for start, stop in spans)
    else:
        chunks = iter(similarity)

    step = max(1, _BLOCK_ELEMENTS // num_images)
    start = 0
    for chunk in chunks:
        if chunk.ndim != 2 or chunk.shape[1] != num_images or start + len(chunk) > num_queries:
            raise ValueError(
                f"similarity gave a chunk of shape {tuple(chunk.shape)} from query {start} on: expected "
                f"(n, {num_images}) with n at most {num_queries - start}"
            )
        chunk = _to_numpy(chunk)
        for first in range(0, len(chunk), step):
            block = chunk[first : first + step]
            bad = np.isnan(block)
            if bad.any():
                row = start + first + int(bad.any(1).argmax())
                raise ValueError(
                    f"similarity is NaN, first for query {row}: NaN has no rank. Look for an overflow in the model "
                    "(half precision?) or for an embedding of length zero"
                )
            yield start + first, block
        start += len(chunk)
    if start != num_queries:
        raise ValueError(f"similarity gave {start} rows in all, but there are {num_queries} query_ids")


def _span(similarity: Callable, start: int, stop: int) -> np.ndarray | Tensor:
    chunk = similarity(start, stop)
    if len(chunk) != stop - start:
        raise ValueError(f"similarity({start}, {stop}) gave {len(chunk)} rows: expected {stop - start}")
    return chunk


def _to_numpy(values) -> np.ndarray:
    """A NumPy array on the CPU. Half precision becomes float32, which is exact and faster to compare."""
    if isinstance(values, Tensor):
        values = values.detach()
        values = (values.float() if values.dtype in (torch.float16, torch.bfloat16) else values).cpu().numpy()
    values = np.asarray(values)
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _check_ids(ids, name: str) -> np.ndarray:
    ids = _to_numpy(ids)
    if ids.ndim != 1 or len(ids) == 0:
        raise ValueError(f"{name} has shape {ids.shape}: expected one person id per item, and at least one item")
    return ids


def _check_relevant(query_ids: np.ndarray, counts: np.ndarray) -> None:
    lost = np.unique(query_ids[counts == 0])
    if len(lost):
        first = ", ".join(str(person) for person in lost[:5]) + (", ..." if len(lost) > 5 else "")
        raise ValueError(
            f"{np.count_nonzero(counts == 0)} of {len(query_ids)} queries have no image of their person in the gallery "
            f"(persons {first}), so their metrics are not defined: add the images or leave these captions out"
        )


def _check_topk(topk: Sequence[int], num_images: int) -> None:
    wrong = [k for k in topk if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1]
    if wrong or not len(topk):
        raise ConfigError(f"topk={tuple(topk)}: expected positive integers such as (1, 5, 10)")
    if max(topk) > num_images:
        raise ConfigError(f"topk={max(topk)} exceeds the gallery ({num_images} images): lower it or add images")
