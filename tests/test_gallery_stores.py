"""One contract for every store of a gallery, against a naive implementation in numpy."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from cada_plugin.errors import ConfigError, GalleryError
from cada_plugin.gallery.store import Filter, GalleryRow, Store

pytest.importorskip("lancedb")
from cada_plugin.gallery import lance_store
from cada_plugin.gallery.lance_store import LanceStore

N, DIM = 300, 24
TOLERANCE = 1e-3  # of fp16
Opener = Callable[..., Store]

ODD_NAMES = ("floor", "with space", "it's", 'a "quote"', "größe 日本", "a.b`c\\", "id", "vector", "C_x", "c_x", "{x}")
ODD_VALUES = (
    "",
    "'",
    "''",
    '"',
    '""',
    "\\",
    "\\'",
    '\\"',
    "a\nb\r\tc",
    "%_",
    "NULL",
    "日本 ü\u2028",
    "' OR 1=1 --",
    '" or id != "',
    "') OR ('1'='1",
    '"] or true or id in ["',
    "{x}",
    "🙂",
)


def lance(folder: Path, dim: int | None = DIM, create: bool = False) -> Store:
    return LanceStore(folder / "gallery", dim, create)


def milvus(folder: Path, dim: int | None = DIM, create: bool = False) -> Store:
    from cada_plugin.gallery.milvus_store import MilvusStore, parse_uri

    return MilvusStore(*parse_uri(f"{folder}/gallery.db/people"), dim, create)


@pytest.fixture(params=[lance, pytest.param(milvus, marks=pytest.mark.slow)])
def opener(request: pytest.FixtureRequest) -> Opener:
    if request.param is milvus:
        pytest.importorskip("pymilvus")
        pytest.importorskip("milvus_lite")
    return request.param


@pytest.fixture
def store(opener: Opener, tmp_path: Path) -> Iterator[Store]:
    store = opener(tmp_path, create=True)
    yield store
    store.close()


@pytest.fixture(scope="module")
def data() -> tuple[list[GalleryRow], np.ndarray]:
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


def assert_nearest(
    store: Store,
    data: tuple[list[GalleryRow], np.ndarray],
    vector: np.ndarray,
    k: int,
    only: Filter | None = None,
    weight: float = 0.0,
) -> None:
    rows, embed = data
    expected = naive(rows, embed, vector, only, weight)
    found = store.nearest(vector, k, only, weight)
    best = sorted(expected.values(), reverse=True)[:k]
    tolerance = TOLERANCE * max(1.0, float(np.linalg.norm(vector)))
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, best, atol=tolerance)
    assert len({row.id for row, _ in found}) == len(found)
    by_id = {row.id: row for row in rows}
    for row, score in found:
        assert_same(row, by_id[row.id])
        assert abs(score - expected[row.id]) < tolerance


def assert_same(row: GalleryRow, expected: GalleryRow) -> None:
    assert replace(row, hubness=0.0) == replace(expected, hubness=0.0)
    assert abs(row.hubness - expected.hubness) < TOLERANCE
    assert isinstance(row.size, int)
    assert isinstance(row.mtime_ns, int)
    assert row.time is None or isinstance(row.time, float)


def a_row(id_: str, **fields: object) -> GalleryRow:
    return GalleryRow(**{"id": id_, "path": f"{id_}.jpg", "size": 1, "mtime_ns": 2, "hash": "h", **fields})


def unit(*places: int) -> np.ndarray:
    return np.eye(DIM, dtype=np.float32)[list(places)]


FILTERS = {
    "none": None,
    "empty": Filter(),
    "empty column": Filter(columns={"floor": ()}),
    "camera": Filter(cameras=["it's"]),
    "cameras": Filter(cameras=["gate", "日本"]),
    "no camera": Filter(cameras=[""]),
    "after": Filter(after=1_790_000_030.25),
    "before": Filter(before=1_790_000_030.25),
    "between": Filter(after=1_790_000_010.5, before=1_790_000_010.75),
    "ever": Filter(after=-np.inf, before=np.inf),
    "column": Filter(columns={"floor": ["1"]}),
    "column with a space": Filter(columns={"with space": ["x", "z"]}),
    "column with a quote": Filter(columns={"it's": ["y'"]}),
    "person": Filter(columns={"person": ["3", "4"]}),
    "camera as a column": Filter(columns={"camera": ["gate"]}),
    "all": Filter(["gate", "it's"], 1_790_000_005, 1_790_000_070.0, {"floor": ["0", "1"], "person": ["1", "2", "3"]}),
    "nothing": Filter(cameras=["roof"]),
    "contradiction": Filter(after=1_790_000_050, before=1_790_000_040),
    "unknown column": Filter(columns={"shoe": ["1"]}),
    "unknown and empty column": Filter(columns={"shoe": ()}),
    "absent is not empty": Filter(columns={"floor": [""]}),
}


@pytest.fixture(scope="module")
def filled(data: tuple, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Opener], Store]]:
    """One store of each kind with all rows, for the tests that only read; written in two goes, as indexing does."""
    stores: dict[Opener, Store] = {}

    def fill(opener: Opener) -> Store:
        if opener not in stores:
            stores[opener] = opener(tmp_path_factory.mktemp(opener.__name__), create=True)
            for some in (slice(0, 1), slice(1, N)):
                stores[opener].add(data[0][some], data[1][some])
        return stores[opener]

    yield fill
    for store in stores.values():
        store.close()


@pytest.mark.parametrize("name", FILTERS)
def test_nearest_is_that_of_numpy(opener: Opener, filled: Callable, data: tuple, name: str) -> None:
    store, random = filled(opener), np.random.default_rng(1)
    for k, weight in product((1, 10, N + 50), (0.0, 0.7)):
        assert_nearest(store, data, random.normal(size=DIM).astype(np.float32), k, FILTERS[name], weight)


@pytest.mark.parametrize("name", FILTERS)
def test_count_is_that_of_a_loop(opener: Opener, filled: Callable, data: tuple, name: str) -> None:
    assert filled(opener).count(FILTERS[name]) == sum(keeps(FILTERS[name], row) for row in data[0])


@pytest.mark.parametrize("length", [1e-6, 1e-3, 5.0, 1e6])
def test_queries_of_any_length(opener: Opener, filled: Callable, data: tuple, length: float) -> None:
    vector = np.random.default_rng(2).normal(size=DIM).astype(np.float32)
    assert_nearest(filled(opener), data, vector / np.linalg.norm(vector) * length, 20, weight=0.3 * length)


def test_a_query_of_zeros_and_none_wanted(opener: Opener, filled: Callable, data: tuple) -> None:
    store = filled(opener)
    assert [score for _, score in store.nearest(np.zeros(DIM, np.float32), 3)] == [0.0] * 3
    assert_nearest(store, data, np.zeros(DIM, np.float32), 5, weight=1.0)
    assert store.nearest(np.ones(DIM, np.float32), 0) == []


def test_hubness_changes_the_order(store: Store) -> None:
    store.add([a_row("hub", hubness=0.5), a_row("plain")], np.stack([unit(0)[0], 0.8 * unit(0)[0]]))
    assert [row.id for row, _ in store.nearest(unit(0)[0], 2)] == ["hub", "plain"]
    found = store.nearest(unit(0)[0], 2, hubness_weight=1.0)
    assert [row.id for row, _ in found] == ["plain", "hub"]
    np.testing.assert_allclose([score for _, score in found], [0.8, 0.5], atol=TOLERANCE)


def test_rows_come_back_as_they_were(opener: Opener, filled: Callable, data: tuple) -> None:
    found = {row.id: row for row in filled(opener).rows()}
    assert len(found) == N
    for row in data[0]:
        assert_same(found[row.id], row)


def test_get_in_order_with_embeddings(opener: Opener, filled: Callable, data: tuple) -> None:
    store, places = filled(opener), [250, 3, 3, 17, 0]
    rows, embed = store.get([data[0][place].id for place in places])
    assert [row.id for row in rows] == [f"row-{place}" for place in places]
    assert embed.dtype == np.float32
    np.testing.assert_allclose(embed, data[1][places], atol=TOLERANCE)
    assert_same(rows[0], data[0][250])
    rows, embed = store.get([])
    assert rows == []
    assert embed.shape == (0, DIM)
    rows, embed = store.get([row.id for row in data[0]])
    np.testing.assert_allclose(embed, data[1], atol=TOLERANCE)


@pytest.mark.parametrize("unknown", ["nope", "", "' OR '1'='1", '" or id != "'])
def test_get_of_an_unknown_id(opener: Opener, filled: Callable, unknown: str) -> None:
    with pytest.raises(GalleryError, match=r"1 of 2 are unknown"):
        filled(opener).get(["row-1", unknown])


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.meta() == {}
    assert store.count() == 0
    assert list(store.rows()) == []
    assert store.nearest(unit(0)[0], 3) == []
    store.remove([])
    store.remove(["nope"])
    store.add([], np.zeros((0, DIM)))
    store.compact()
    assert store.count(Filter(cameras=["a"])) == 0


def test_add_replaces_whole_rows(store: Store) -> None:
    store.add([a_row("a", camera="1", time=5.5, columns={"x": "old", "y": "old"}), a_row("b")], unit(0, 1))
    new = a_row("a", path="elsewhere.jpg", columns={"x": "new"})
    store.add([new], unit(2))
    assert store.count() == 2
    rows, embed = store.get(["a", "b"])
    assert_same(rows[0], new)
    np.testing.assert_allclose(embed, unit(2, 1), atol=TOLERANCE)
    assert store.nearest(unit(0)[0], 1)[0][1] == pytest.approx(0.0, abs=TOLERANCE)
    assert store.count(Filter(columns={"x": ["old"]})) == 0


def test_an_id_twice_in_one_add_is_the_last(store: Store) -> None:
    store.add([a_row("a", person="1"), a_row("b"), a_row("a", person="2")], unit(0, 1, 2))
    assert store.count() == 2
    rows, embed = store.get(["a"])
    assert rows[0].person == "2"
    np.testing.assert_allclose(embed, unit(2), atol=TOLERANCE)


def test_remove(store: Store, data: tuple) -> None:
    store.add(*data)
    gone = [row.id for row in data[0][:250]]
    store.remove([*gone, "nope", "' OR '1'='1", '" or id != "'])
    assert store.count() == 50
    assert {row.id for row in store.rows()} == {row.id for row in data[0][250:]}
    assert_nearest(store, (data[0][250:], data[1][250:]), data[1][0], 60)
    with pytest.raises(GalleryError, match="row-0"):
        store.get(["row-0"])


def test_many_ids_at_once(store: Store) -> None:
    rows = [a_row(f"r{i}") for i in range(2500)]
    embed = np.random.default_rng(3).normal(size=(2500, DIM)).astype(np.float32)
    store.add(rows, embed)
    assert sum(1 for _ in store.rows()) == store.count() == 2500
    _, found = store.get([row.id for row in reversed(rows)])
    np.testing.assert_allclose(found, embed[::-1], atol=5 * TOLERANCE)
    store.remove([row.id for row in rows[:2400]])
    assert store.count() == 100


def test_odd_names_and_values_of_columns(store: Store) -> None:
    rows = [
        a_row(f"{i}-{j}", columns={name: value}, camera=value, path=f"{value}.jpg")
        for (i, name), (j, value) in product(enumerate(ODD_NAMES), enumerate(ODD_VALUES))
    ]
    store.add(rows, np.tile(unit(0), (len(rows), 1)))
    found = {row.id: row for row in store.rows()}
    for row in rows:
        assert_same(found[row.id], row)
    for i, name in enumerate(ODD_NAMES):
        assert store.count(Filter(columns={name: ODD_VALUES})) == len(ODD_VALUES)
        for j, value in enumerate(ODD_VALUES[i % 3 :: 3]):
            only = Filter(columns={name: [value]})
            assert [row.id for row, _ in store.nearest(unit(0)[0], 9, only)] == [f"{i}-{i % 3 + 3 * j}"]
    for value in ODD_VALUES:
        assert store.count(Filter(cameras=[value])) == len(ODD_NAMES)
        assert store.count(Filter(columns={"person": [value]})) == (len(rows) if value == "" else 0)
        assert store.count(Filter(columns={value: ["x"]})) == 0


def test_injected_filters_find_nothing_and_break_nothing(opener: Opener, filled: Callable) -> None:
    store = filled(opener)
    for value in ODD_VALUES[1:]:
        for only in (
            Filter(cameras=[value]),
            Filter(columns={"floor": [value]}),
            Filter(columns={value: ["x"]}),
            Filter(columns={"person": [value]}),
        ):
            assert store.count(only) == 0
            assert store.nearest(unit(0)[0], 5, only) == []
    assert store.count() == N


@pytest.mark.parametrize(
    "id_", [value for value in ODD_VALUES if value], ids=[f"id{i}" for i in range(len(ODD_VALUES) - 1)]
)
def test_odd_ids(opener: Opener, filled: Callable, id_: str) -> None:
    store = filled(opener)
    store.add([a_row(id_)], unit(0))
    assert store.get([id_])[0][0].id == id_
    assert store.count() == N + 1
    store.remove([id_])
    assert store.count() == N


def test_meta(store: Store, opener: Opener, tmp_path: Path) -> None:
    meta = {
        "format": 1,
        "root": "/päth/with 'quotes' \"and\" 日本 🙂\n",
        "nested": {"a": [1, 2.5, None, True, {"b": {}}], "": ""},
        "fingerprint": "x" * 3000,
        "none": None,
    }
    store.set_meta({"old": 1})
    store.set_meta(meta)
    assert store.meta() == meta
    store.close()
    again = opener(tmp_path)
    assert again.meta() == meta
    again.set_meta({})
    assert again.meta() == {}
    again.close()


@pytest.mark.parametrize("dim", [DIM, None])
def test_reopening(store: Store, opener: Opener, tmp_path: Path, data: tuple, dim: int | None) -> None:
    store.add(*data)
    store.set_meta({"a": 1})
    store.close()
    again = opener(tmp_path, dim)
    assert again.count() == N
    assert_nearest(again, data, data[1][5], 7, FILTERS["column"], 0.2)
    again.close()
    again = opener(tmp_path, dim, create=True)  # an indexing that was killed early is begun once more
    assert again.count() == N
    assert again.meta() == {"a": 1}
    again.close()


def test_compact_changes_nothing(store: Store, data: tuple) -> None:
    rows, embed = data
    for start in range(0, N, 50):
        store.add(rows[start : start + 50], embed[start : start + 50])
    store.add(rows[:20], embed[:20])
    store.remove([row.id for row in rows[-30:]])
    kept = rows[:-30], embed[:-30]
    for _ in range(2):
        store.compact()
        assert store.count() == N - 30
        assert {row.id for row in store.rows()} == {row.id for row in kept[0]}
        assert_nearest(store, kept, embed[11], 25, weight=0.4)
        assert_nearest(store, kept, embed[11], 25, FILTERS["all"], 0.4)
    store.add(rows, embed)
    assert store.count() == N


def test_columns_that_come_later(store: Store) -> None:
    store.add([a_row("old")], unit(0))
    store.add([a_row("new", columns={"late": "1"}), a_row("bare")], unit(1, 2))
    store.add([a_row("old2", columns={"later": "2"})], unit(3))
    assert {row.id: row.columns for row in store.rows()} == {
        "old": {},
        "new": {"late": "1"},
        "bare": {},
        "old2": {"later": "2"},
    }
    assert store.count(Filter(columns={"late": ["1"]})) == 1


@pytest.mark.parametrize("shape", [(1, DIM + 1), (1, DIM - 1), (2, DIM), (DIM,)])
def test_embeddings_of_another_shape(store: Store, shape: tuple[int, ...]) -> None:
    with pytest.raises(GalleryError, match=rf"expected \(1, {DIM}\)"):
        store.add([a_row("a")], np.ones(shape, np.float32))
    assert store.count() == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none(store: Store, bad: float) -> None:
    with pytest.raises(GalleryError, match="finite"):
        store.add([a_row("a")], np.full((1, DIM), bad, np.float32))
    with pytest.raises(GalleryError, match="finite"):
        store.add([a_row("a", hubness=bad)], unit(0))
    with pytest.raises(GalleryError, match="finite"):
        store.nearest(np.full(DIM, bad, np.float32), 1)
    assert store.count() == 0


def test_a_query_of_another_size(opener: Opener, filled: Callable) -> None:
    for size in (DIM - 1, DIM + 1):
        with pytest.raises(GalleryError, match=f"query of {DIM}"):
            filled(opener).nearest(np.ones(size, np.float32), 1)


def test_text_that_is_no_unicode(store: Store) -> None:
    for row in (
        a_row("a", path="\udcff.jpg"),
        a_row("b", columns={"x": "\udcff"}),
        a_row("c", columns={"\udcff": "x"}),
    ):
        with pytest.raises(GalleryError, match="no Unicode"):
            store.add([row], unit(0))
    assert store.count() == 0


def test_another_size_and_no_gallery(store: Store, opener: Opener, tmp_path: Path) -> None:
    store.close()
    for create in (False, True):
        with pytest.raises(GalleryError, match=f"size {DIM}, not 99"):
            opener(tmp_path, 99, create)
    (tmp_path / "empty" / "gallery").mkdir(parents=True)
    for folder in ("nowhere", "empty"):
        with pytest.raises(GalleryError, match=r"no gallery .*cada index"):
            opener(tmp_path / folder)
    assert not (tmp_path / "nowhere").exists()


# ------------------------------------------------------------------ LanceDB alone


@pytest.mark.slow
def test_lance_prints_no_warnings(tmp_path: Path) -> None:
    code = f"""
import numpy as np
from cada_plugin.gallery.lance_store import LanceStore
from cada_plugin.gallery.store import Filter, GalleryRow
store = LanceStore({str(tmp_path / "g")!r}, 4, create=True)
store.add([GalleryRow("a", "a", 1, 2, "h", columns={{"x y": "1"}})], np.eye(4)[:1])
store.nearest(np.ones(4), 3, Filter(columns={{"x y": ["1"]}}))
list(store.rows()), store.get(["a"]), store.count(Filter(after=1)), store.remove(["a"]), store.compact()
"""
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert "lance" not in done.stderr.lower(), done.stderr
    assert done.stdout == ""


def test_lance_damaged_table(tmp_path: Path, data: tuple) -> None:
    store = lance(tmp_path, create=True)
    store.add(*data)
    for file in (tmp_path / "gallery" / "images.lance" / "data").iterdir():
        file.unlink()
    with pytest.raises(GalleryError, match=r"cannot be read .*index again"):
        lance(tmp_path).nearest(data[1][0], 3)
    with pytest.raises(GalleryError, match=r"cannot be read .*index again"):
        list(lance(tmp_path).rows())
    shutil.rmtree(tmp_path / "gallery" / "images.lance" / "_versions")
    with pytest.raises(GalleryError, match=r"cannot be opened .*index again"):
        lance(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff"])
def test_lance_damaged_meta(tmp_path: Path, content: str) -> None:
    store = lance(tmp_path, create=True)
    (tmp_path / "gallery" / "gallery.json").write_text(content, encoding="latin-1")
    with pytest.raises(GalleryError, match=r"gallery\.json .*make a new gallery"):
        store.meta()


def test_lance_table_of_somebody_else(tmp_path: Path) -> None:
    import lancedb

    lancedb.connect(tmp_path / "gallery").create_table("images", [{"id": 1, "text": "x"}])
    with pytest.raises(GalleryError, match="was not made by"):
        lance(tmp_path)


def test_lance_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "gallery").write_text("x")
    with pytest.raises(GalleryError, match="no gallery in"):
        lance(tmp_path)
    with pytest.raises(GalleryError, match=r"cannot be opened"):
        lance(tmp_path, create=True)


def test_lance_readers_see_what_another_process_wrote(tmp_path: Path) -> None:
    writer = lance(tmp_path, create=True)
    reader = lance(tmp_path)
    writer.add([a_row("a", columns={"x": "1"})], unit(0))
    assert [row.columns for row in reader.rows()] == [{"x": "1"}]
    assert reader.count(Filter(columns={"x": ["1"]})) == 1


@pytest.mark.slow
def test_lance_with_an_index(tmp_path: Path) -> None:
    settings = lance_store.IndexSettings(from_rows=700, partitions=1.0, probes=12)
    random = np.random.default_rng(5)
    embed = random.normal(size=(40, DIM))[random.integers(40, size=4000)] + random.normal(size=(4000, DIM)) * 0.3
    embed = (embed / np.linalg.norm(embed, axis=1, keepdims=True)).astype(np.float32)
    rows = [
        a_row(f"r{i}", camera=str(i % 800), hubness=float(h)) for i, h in enumerate(random.uniform(0, 0.3, size=4000))
    ]
    store = LanceStore(tmp_path / "gallery", DIM, create=True, settings=settings)
    store.add(rows[:600], embed[:600])
    store.compact()
    assert not store.indexed
    store.add(rows[600:800], embed[600:800])
    store.compact()
    assert store.indexed
    store.add(rows[800:3500], embed[800:3500])
    store.compact()
    assert store._table.index_stats("vector_index").num_unindexed_rows == 0  # built anew, because much has changed
    store.add(rows[3500:], embed[3500:])  # found before the index knows them
    for only in (None, Filter(cameras=["3"]), Filter(cameras=[str(i) for i in range(40)])):
        for query in embed[[0, 1500, 3999]]:
            expected = naive(rows, embed, query, only, 0.5)
            best = sorted(expected, key=lambda id_: -expected[id_])[:20]
            found = store.nearest(query, 20, only, 0.5)
            assert len(found) == len(best)
            assert len({row.id for row, _ in found} & set(best)) >= 0.9 * len(best)
            assert all(abs(score - expected[row.id]) < TOLERANCE for row, score in found)
            rows_of, vectors = store.get([row.id for row, _ in found])
            exact = vectors @ query - 0.5 * np.array([row.hubness for row in rows_of])
            assert [score for _, score in found] == pytest.approx(exact.tolist(), abs=1e-6)
    store.compact()
    store.add(rows[:10], embed[:10])
    store.compact()
    assert store._table.index_stats("vector_index").num_unindexed_rows == 10  # too few to build it anew
    assert store.count() == 4000
    for place in (3, 3999):
        assert store.nearest(embed[place], 1)[0][0].id == f"r{place}"


# ------------------------------------------------------------------ Milvus alone


def test_addresses_of_milvus() -> None:
    pytest.importorskip("pymilvus")
    from cada_plugin.gallery.milvus_store import parse_uri

    assert parse_uri("http://host:19530/people") == ("http://host:19530", "people")
    assert parse_uri("https://a.b.c/_p2") == ("https://a.b.c", "_p2")
    assert parse_uri("/a b/c.db/people") == ("/a b/c.db", "people")
    for uri in ("people", "http://host:19530", "http://host:19530/", "http://h/a/b", "ftp://h/a", "http://h/1a", "a/b"):
        with pytest.raises(ConfigError, match="no address of a gallery"):
            parse_uri(uri)


def test_milvus_server_that_is_not_there() -> None:
    pytest.importorskip("pymilvus")
    from cada_plugin.gallery.milvus_store import MilvusStore

    with pytest.raises(GalleryError, match=r"people at http://127\.0\.0\.1:9 cannot be reached .*server is running"):
        MilvusStore("http://127.0.0.1:9", "people", DIM, create=True)


@pytest.mark.slow
def test_milvus_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer is told of another that lives; one that ended or was not seen for long keeps nobody out."""
    pytest.importorskip("milvus_lite")
    from cada_plugin.gallery import milvus_store

    monkeypatch.setattr(milvus_store, "_RENEWED_EVERY", 0.05)
    store = milvus(tmp_path, create=True)
    store.set_meta({"root": "crops"})
    with store.only_writer():
        with (
            pytest.raises(ConfigError, match=rf"process {os.getpid()} on .* both would add the same pictures"),
            store.only_writer(),
        ):
            pass
        (key,) = store._meta_rows('key like "w%"')
        seen = store._meta_rows('key like "w%"')[key]["seen"]
        for _ in range(100):
            time.sleep(0.05)
            if store._meta_rows('key like "w%"')[key]["seen"] > seen:
                break
        else:
            pytest.fail("a writer that goes on is not renewed")
    assert store._meta_rows('key like "w%"') == {}
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here, now = socket.gethostname(), time.time()
    gone = [{"host": here, "pid": ended.pid, "seen": now}, {"host": "other", "pid": 1, "seen": now - 400}]
    for number, row in enumerate(gone):
        store._set_meta_row(f"w{number}", {"began": now, **row})
    with store.only_writer():
        pass
    assert store._meta_rows('key like "w%"') == {}
    store._set_meta_row("w1", {"began": now, "host": "other", "pid": 1, "seen": now})
    with pytest.raises(ConfigError, match="process 1 on other"), store.only_writer():
        pass
    assert store.meta() == {"root": "crops"}
    store.close()
