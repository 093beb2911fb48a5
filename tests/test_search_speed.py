"""``cada speed search``: the synthetic galleries have the shape that they claim, and recall is what numpy says."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("lancedb")
from cada_plugin.benchmark.speed import search
from cada_plugin.benchmark.speed.search import CAMERAS, FOUND, Embeddings, camera_of
from cada_plugin.cli.main import main
from cada_plugin.gallery.lance_store import IndexSettings, LanceStore


def everything(rows: int) -> np.ndarray:
    return np.concatenate([embed for _, embed in Embeddings(rows).blocks()])


def test_people_images_and_captions_have_the_measured_cosines():
    images, people = everything(4000), 4000 // search.IMAGES_OF_A_PERSON
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    cosines = images @ images.T
    person = np.arange(4000) % people
    same = person[:, None] == person
    assert cosines[same & ~np.eye(4000, dtype=bool)].mean() == pytest.approx(0.98, abs=0.01)
    assert cosines[~same].mean() == pytest.approx(0.52, abs=0.03)
    assert cosines[~same].std() == pytest.approx(0.16, abs=0.03)
    queries = Embeddings(4000).queries(50)
    own = np.linspace(0, people - 1, 50).astype(int)
    assert np.mean([(queries[i] @ images[person == own[i]].T).mean() for i in range(50)]) == pytest.approx(
        0.86, abs=0.02
    )


def test_blocks_and_sizes_agree(monkeypatch):
    whole = everything(300)
    monkeypatch.setattr(search, "_BLOCK", 100)
    parts = list(Embeddings(300).blocks())
    assert [start for start, _ in parts] == [0, 100, 200]
    np.testing.assert_array_equal(parts[0][1], whole[:100])  # the first block, as noise is sampled by block
    share = np.mean([camera_of(row) == camera_of(0) for row in range(10_000)])
    assert share == pytest.approx(1 / CAMERAS, rel=0.1)


def test_recall_is_that_of_numpy(tmp_path):
    rows, settings = 3000, IndexSettings(from_rows=1000, partitions=1.0, probes=3)
    embed = everything(rows)
    store = LanceStore(tmp_path, search.DIM, create=True, settings=settings)
    store.add([search._row(number) for number in range(rows)], embed)
    store.compact()
    queries = Embeddings(rows).queries(10)
    best = np.argsort(-queries @ embed.T, axis=1)[:, :FOUND]
    exact = search._exact(rows, queries, None)
    assert exact == [{search._row(int(number)).id for number in row} for row in best]
    found = [{row.id for row, _ in store.nearest(vector, FOUND)} for vector in queries]
    expected = np.mean([len(a & b) / FOUND for a, b in zip(found, exact, strict=True)])
    assert search._timed(store, queries, None, exact)["recall"] == pytest.approx(expected)
    assert expected < 1  # three of 55 partitions
    everywhere = LanceStore(tmp_path, search.DIM, settings=replace(settings, probes=55))
    assert search._timed(everywhere, queries, None, exact)["recall"] > 0.99


@pytest.mark.slow
def test_the_command_measures_builds_and_searches(tmp_path, monkeypatch, capsys):
    class SameProcess:
        def __init__(self, *_): ...

        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        def submit(self, action, *arguments):
            value = action(*arguments)
            self.result = lambda: value
            return self

    monkeypatch.setattr(search, "ProcessPoolExecutor", SameProcess)
    small = IndexSettings(from_rows=2000)
    monkeypatch.setattr(search, "IndexSettings", lambda: small)
    monkeypatch.setattr(search, "LanceStore", lambda *a, settings=small, **k: LanceStore(*a, settings=settings, **k))
    assert main(["speed", "search", "--rows", "3000", "500", "--queries", "5", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "search.json").read_text())["results"]
    assert [(result["rows"], result["build"]["indexed"]) for result in results] == [(500, False), (3000, True)]
    assert [one["what"] for one in results[0]["searches"]] == ["exact", "exact"]
    assert len(results[1]["searches"]) == 4 + len(search._PROBES)
    assert all(0 < one["p50_ms"] <= one["p95_ms"] for result in results for one in result["searches"])
    assert results[0]["build"]["disk_mb"] > 500 * 2 * search.DIM / 2**20
    out = capsys.readouterr().out
    assert "| 3,000 | index | 1 in 7 images |" in out
    assert (tmp_path / "search.png").stat().st_size > 10_000
