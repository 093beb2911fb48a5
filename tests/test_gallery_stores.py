"""One contract for every store of a gallery, against a naive implementation in numpy."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from store_factory import DIM, TOLERANCE, N, a_row, keeps, lance, milvus, naive, random_rows, unit

from cada_plugin.errors import GalleryError
from cada_plugin.gallery.store import Filter, GalleryRow, Store

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
    return random_rows()


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
