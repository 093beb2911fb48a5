"""What is particular to an engine of a gallery's store."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from store_factory import DIM, TOLERANCE, a_row, lance, milvus, naive, random_rows, unit

from cada_plugin.errors import ConfigError, GalleryError
from cada_plugin.gallery import lance_store
from cada_plugin.gallery.lance_store import LanceStore
from cada_plugin.gallery.store import Filter, GalleryRow


@pytest.fixture(scope="module")
def data() -> tuple[list[GalleryRow], np.ndarray]:
    return random_rows()


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
