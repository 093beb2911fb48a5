"""Metrics against a naive oracle and torchreid; the bootstrap."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cada_plugin.errors import ConfigError, MissingExtraError
from cada_plugin.evaluation import paired_bootstrap, rank_metrics, rank_queries, torchreid_rank_metrics
from cada_plugin.evaluation.result import stage_one_shortlist


def naive(similarity, query_ids, gallery_ids, topk=(1, 5, 10)):
    """The definitions, with python loops and a stable sort."""
    hits, aps, inps = {k: [] for k in topk}, [], []
    for scores, person in zip(np.asarray(similarity).tolist(), query_ids, strict=True):
        ranking = sorted(range(len(scores)), key=lambda g: -scores[g])  # stable: ties in gallery order
        relevant = [rank for rank, g in enumerate(ranking, 1) if gallery_ids[g] == person]
        for k in topk:
            hits[k].append(relevant[0] <= k)
        aps.append(np.mean([found / rank for found, rank in enumerate(relevant, 1)]))
        inps.append(len(relevant) / relevant[-1])
    metrics = {f"R{k}": 100 * np.mean(hits[k]) for k in topk}
    return {**metrics, "mAP": 100 * np.mean(aps), "mINP": 100 * np.mean(inps)}


def problem(queries=60, images=90, people=12, seed=0):
    """Persons with different numbers of images, in no order; every person is in the gallery."""
    rng = np.random.default_rng(seed)
    gallery_ids = rng.permutation(
        np.concatenate([np.arange(people), rng.integers(people // 2, people, images - people)])
    )
    query_ids = rng.integers(people, size=queries)
    similarity = rng.standard_normal((queries, images)) + (query_ids[:, None] == gallery_ids)
    return similarity.astype(np.float32), query_ids * 7 - 3, gallery_ids * 7 - 3


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definitions(seed):
    case = problem(seed=seed)
    assert rank_metrics(*case) == pytest.approx(naive(*case))


@pytest.mark.parametrize("levels", [1, 2, 9])
def test_ties_rank_in_gallery_order(levels):
    similarity, query_ids, gallery_ids = problem()
    similarity = np.floor(similarity * levels / 4)
    assert rank_metrics(similarity, query_ids, gallery_ids) == pytest.approx(naive(similarity, query_ids, gallery_ids))


def test_constant_scores_rank_the_gallery_as_it_is():
    ranks = rank_queries(np.zeros((2, 4)), [1, 2], [2, 1, 2, 1])
    assert ranks["first_rank"].tolist() == [1, 0]
    assert ranks["ap"].tolist() == [0.5, (1 + 2 / 3) / 2]
    assert ranks["inp"].tolist() == [2 / 4, 2 / 3]


def test_reranked_scores_keep_their_order_with_infinities():
    similarity = np.array([[np.inf, 3.0, -99.5, -np.inf]], np.float32)
    assert rank_queries(similarity, [4], [1, 2, 3, 4])["first_rank"].tolist() == [3]


def test_permuting_the_gallery_changes_nothing():
    similarity, query_ids, gallery_ids = problem()
    order = np.random.default_rng(1).permutation(len(gallery_ids))
    permuted = rank_metrics(similarity[:, order], query_ids, gallery_ids[order])
    assert permuted == rank_metrics(similarity, query_ids, gallery_ids)


@pytest.mark.parametrize("chunk_size", [1, 7, 60, 1000])
def test_chunking_changes_nothing(chunk_size, monkeypatch):
    similarity, query_ids, gallery_ids = problem()
    whole = rank_queries(similarity, query_ids, gallery_ids)
    monkeypatch.setattr("cada_plugin.evaluation.ranking._BLOCK_ELEMENTS", 3 * len(gallery_ids))
    chunked = rank_queries(similarity, query_ids, gallery_ids, chunk_size=chunk_size)
    for key, value in whole.items():
        np.testing.assert_array_equal(chunked[key], value, strict=True)


def test_similarity_may_be_a_function_or_an_iterator_of_chunks(monkeypatch):
    similarity, query_ids, gallery_ids = problem()
    expected = rank_metrics(similarity, query_ids, gallery_ids)
    spans = []

    def rows(start, stop):
        spans.append((start, stop))
        return torch.from_numpy(similarity[start:stop])

    assert rank_metrics(rows, query_ids, gallery_ids, chunk_size=25) == expected
    assert spans == [(0, 25), (25, 50), (50, 60)]
    spans.clear()
    monkeypatch.setattr("cada_plugin.evaluation.ranking.CHUNK_ELEMENTS", 20 * len(gallery_ids))  # a large gallery
    assert rank_metrics(rows, query_ids, gallery_ids, chunk_size=25) == expected
    assert spans == [(0, 20), (20, 40), (40, 60)]
    chunks = (similarity[i : i + 11] for i in range(0, 60, 11))
    assert rank_metrics(chunks, query_ids, gallery_ids) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_any_precision(dtype):
    similarity, query_ids, gallery_ids = problem()
    tensor = torch.from_numpy(similarity).to(dtype).requires_grad_()
    metrics = rank_metrics(tensor, torch.from_numpy(query_ids), torch.from_numpy(gallery_ids))
    assert metrics == pytest.approx(naive(tensor.detach().double().numpy(), query_ids, gallery_ids))
    assert all(type(value) is float for value in metrics.values())


def test_equals_torchreid():
    case = problem(queries=120, images=200, people=40)
    assert torchreid_rank_metrics(*case) == pytest.approx(rank_metrics(*case), abs=1e-4)
    assert list(torchreid_rank_metrics(*case)) == list(rank_metrics(*case))


@pytest.mark.slow
def test_torchreid_is_imported_without_a_warning_and_only_when_used():
    code = (
        "import sys; from cada_plugin.evaluation import torchreid_rank_metrics as f; "
        "assert 'torchreid' not in sys.modules; f(__import__('numpy').eye(2), [1, 2], [1, 2], topk=(1,))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert "Cython" not in done.stderr + done.stdout


def test_missing_torchreid_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchreid", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cada_plugin\[torchreid\]'"):
        torchreid_rank_metrics(*problem())


@pytest.mark.parametrize("ranker", [rank_metrics, torchreid_rank_metrics])
def test_impossible_input_is_refused(ranker):
    similarity, query_ids, gallery_ids = problem()
    with pytest.raises(ConfigError, match=r"topk=100 exceeds the gallery \(90 images\)"):
        ranker(similarity, query_ids, gallery_ids, topk=(1, 100))
    with pytest.raises(ConfigError, match="positive integers"):
        ranker(similarity, query_ids, gallery_ids, topk=(0,))
    with pytest.raises(ValueError, match=r"shape \(90, 60\).*must be \(60, 90\)"):
        ranker(similarity.T, query_ids, gallery_ids)
    with pytest.raises(ValueError, match=r"query_ids has shape \(60, 1\)"):
        ranker(similarity, query_ids[:, None], gallery_ids)
    query_ids[[4, 9, 11]] = 1000, 1001, 1000
    with pytest.raises(ValueError, match=r"3 of 60 queries have no image .* \(persons 1000, 1001\)"):
        ranker(similarity, query_ids, gallery_ids)


def test_nan_is_refused_with_its_query():
    similarity, query_ids, gallery_ids = problem()
    similarity[37, 5] = np.nan
    with pytest.raises(ValueError, match="NaN, first for query 37"):
        rank_metrics(similarity, query_ids, gallery_ids, chunk_size=10)


def test_wrong_chunks_are_refused():
    similarity, query_ids, gallery_ids = problem()
    with pytest.raises(ValueError, match="gave 59 rows in all, but there are 60"):
        rank_metrics(iter([similarity[:59]]), query_ids, gallery_ids)
    with pytest.raises(ValueError, match=r"shape \(31, 90\) from query 30"):
        rank_metrics(iter([similarity[:30], similarity[:31]]), query_ids, gallery_ids)
    with pytest.raises(ValueError, match=r"similarity\(0, 20\) gave 60 rows"):
        rank_metrics(lambda start, stop: similarity, query_ids, gallery_ids, chunk_size=20)


def test_bootstrap_of_equal_models_sees_no_gain():
    a = np.random.default_rng(0).random(200)
    result = paired_bootstrap(a, a)
    assert result == {"difference": 0.0, "p_value": 1.0, "low": 0.0, "high": 0.0, "error": 0.0}


def test_bootstrap_sees_a_clear_gain_and_its_size():
    rng = np.random.default_rng(0)
    a = rng.random(400)
    result = paired_bootstrap(a, a + rng.normal(0.1, 0.2, 400))
    assert result["p_value"] < 1e-3
    assert result["low"] < 0.1 < result["high"]
    # of the normal theory: 2 * 1.96 * 0.2 / sqrt(400)
    assert result["high"] - result["low"] == pytest.approx(0.0392, rel=0.15)
    assert result["error"] == pytest.approx(0.01, rel=0.15)


def test_bootstrap_is_deterministic_by_seed():
    a, b = np.random.default_rng(0).random((2, 100))
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)


def test_bootstrap_over_persons_is_less_sure_when_their_captions_agree():
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(50), 4)
    gain = rng.normal(0.02, 0.1, 50)[persons]  # all captions of a person gain alike: 50 observations, not 200
    by_query = paired_bootstrap(np.zeros(200), gain)
    by_person = paired_bootstrap(np.zeros(200), gain, groups=persons)
    assert by_person["difference"] == by_query["difference"]
    ratio = (by_person["high"] - by_person["low"]) / (by_query["high"] - by_query["low"])
    assert ratio == pytest.approx(2.0, rel=0.15)


def test_bootstrap_refuses_unpaired_input():
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        paired_bootstrap(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="1 of 3 differences are not finite"):
        paired_bootstrap(np.zeros(3), np.array([0, np.nan, 1]))
    with pytest.raises(ValueError, match="groups has shape"):
        paired_bootstrap(np.zeros(3), np.zeros(3), groups=np.zeros(2))


def test_shortlist_made_in_chunks_is_that_of_the_whole_matrix(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    texts, images = torch.randn(10, 8, generator=generator), torch.randn(30, 8, generator=generator)
    expected = np.argsort(-(texts @ images.T).numpy(), axis=1)[:, :4]
    for rows in (1, 3, 100):
        monkeypatch.setattr("cada_plugin.evaluation.result.CHUNK_ELEMENTS", rows * 30)
        np.testing.assert_array_equal(stage_one_shortlist(texts, images, 4).numpy(), expected)
