"""Slices of the queries: from the annotation through the loader to metrics and tables."""

import numpy as np
import pytest
import torch
from dataset_factory import write_image, write_json

from cada_plugin.datasets import CustomPEDES
from cada_plugin.datasets.collate import person_collate
from cada_plugin.engine.encoded_items import EncodedItems
from cada_plugin.engine.report import retrieval_table
from cada_plugin.errors import AnnotationError
from cada_plugin.evaluation import RetrievalResult, TextToImageRetrieval, rank_metrics
from cada_plugin.evaluation.result import TwoStageScores
from cada_plugin.portable.features import ImageFeatures, TextFeatures

PIPELINE = [
    {"type": "LoadPersonImage"},
    {"type": "EncodeCaptions", "tokenizer": {"type": "CaptionTokenizer", "vocab": "procedural"}},
    {"type": "PackPersonInputs"},
]
RECORDS = [
    {"file_path": "a.png", "captions": ["A red coat.", "A hat."], "id": 1, "slices": [["hats", "hard one"], []]},
    {"file_path": "b.png", "captions": ["Boots."], "id": 2},
    {"file_path": "c.png", "captions": ["Jeans."], "id": 3, "slices": [["hats"]]},
]


def write(folder, records) -> None:
    for record in records:
        write_image(folder / record["file_path"])
    write_json(folder / "annotations.json", [{**record, "split": "test"} for record in records])


def dataset(folder, records=RECORDS, **arguments) -> CustomPEDES:
    write(folder, records)
    return CustomPEDES(folder, split="test", pipeline=PIPELINE, **arguments)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CADA_CACHE", str(tmp_path_factory.mktemp("cache")))


def result_of(data: CustomPEDES) -> RetrievalResult:
    """The result of an evaluation whose embeddings are random, with the real loader and collection of items."""
    torch.manual_seed(0)
    encoded = EncodedItems(keep_tokens=False, amp=False, capacity=len(data))
    for index in range(len(data)):
        batch = person_collate([data[index]])
        count = len(batch["inputs"]["input_ids"])
        embed = [torch.nn.functional.normalize(torch.randn(n, 4), dim=1) for n in (1, count)]
        texts = TextFeatures(embed[1], batch["inputs"]["input_ids"], batch["inputs"]["attention_mask"])
        encoded.add(batch, ImageFeatures(embed[0], None), texts)
    split = encoded.gathered(len(data))
    return split.result(TwoStageScores(text_embed=split.texts.embed, image_embed=split.images.embed))


def metrics_of(result: RetrievalResult, **settings: object) -> dict[str, float]:
    metric = TextToImageRetrieval(topk=(1, 2), **settings)
    metric.process(None, [result])
    return metric.evaluate(len(result.gallery_ids))


# ---------------------------------------------------------------- annotation


def test_slices_follow_their_captions_into_the_result(tmp_path):
    result = result_of(dataset(tmp_path, test_mode=True))
    assert result.query_slices == [("hats", "hard one"), (), (), ("hats",)]
    assert {name: mask.tolist() for name, mask in result.slices.items()} == {
        "hats": [True, False, False, True],
        "hard one": [True, False, False, False],
    }
    assert list(result.slices) == ["hats", "hard one"]  # families come last


def test_captions_and_their_slices_are_cut_together(tmp_path):
    data = dataset(tmp_path, test_mode=True, captions_per_image=1)
    assert [data.get_data_info(k).get("slices") for k in range(3)] == [[["hats", "hard one"]], None, [["hats"]]]


def test_records_of_one_image_join_their_slices(tmp_path):
    again = {"file_path": "b.png", "captions": ["Sandals."], "id": 2, "slices": [["rare"]]}
    data = dataset(tmp_path, [*RECORDS, again], test_mode=True)
    assert data.get_data_info(1)["slices"] == [[], ["rare"]]


def test_training_items_have_none(tmp_path):
    assert "slices" not in dataset(tmp_path)[0]["data_samples"]


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        ("hats", "no list of lists of names"),
        ([["hats"], "rare"], "no list of lists of names"),
        ([["hats"]], "'slices' has 1 lists for 2 captions"),
        ([["hats"], [3]], "a name in 'slices' is not 1 to 40 letters"),
        ([["a]"], []], "a name in 'slices' is not 1 to 40 letters"),
    ],
)
def test_unusable_slices_are_told_with_their_record(tmp_path, slices, words):
    with pytest.raises(AnnotationError, match=words) as raised:
        dataset(tmp_path, [RECORDS[0] | {"slices": slices}])
    assert "(record 0)" in str(raised.value)


# ---------------------------------------------------------------- metrics


def two_stages(seed: int = 0, Q: int = 30, G: int = 20, **changes: object) -> RetrievalResult:
    random = torch.Generator().manual_seed(seed)
    embed = [torch.nn.functional.normalize(torch.randn(n, 8, generator=random), dim=1) for n in (Q, G)]
    fields = {
        "text_embed": embed[0],
        "image_embed": embed[1],
        "shortlist": (embed[0] @ embed[1].T).topk(min(5, G)).indices,
        "match_logits": torch.randn(Q, 5, generator=random),
        "query_ids": torch.arange(Q) % 10,
        "gallery_ids": torch.arange(G) % 10,
        "query_images": torch.arange(Q) % G,
        "captions": ["a"] * Q,
        "img_paths": ["b"] * G,
        "query_slices": [("even", "names hat") if q % 2 == 0 else ("odd",) if q > 9 else () for q in range(Q)],
    }
    return RetrievalResult(**fields | changes)


def test_metrics_of_a_slice_are_those_of_its_queries_alone():
    result = two_stages()
    metrics = metrics_of(result)
    scores = {"t2i_global": result.cosine, "t2i": result.reranked, "t2i_match": result.match_only}
    queries = {"even": range(0, 30, 2), "names hat": range(0, 30, 2), "odd": range(11, 30, 2)}
    for name, rows in queries.items():
        assert metrics[f"queries[{name}]"] == len(rows)
        for stage, function in scores.items():
            alone = rank_metrics(function(0, 30)[list(rows)], result.query_ids[list(rows)], result.gallery_ids, (1,))
            assert metrics[f"{stage}/R1[{name}]"] == pytest.approx(alone["R1"])
            assert metrics[f"{stage}/mAP[{name}]"] == pytest.approx(alone["mAP"])
    assert sum("[" in key for key in metrics) == 3 * (1 + 2 * 3)


def test_the_gain_by_re_ranking_is_as_sure_as_people_are_many_and_not_captions():
    """Only the first of three people gains, with 12 captions: a resample without that person has a share of (2/3)^3."""
    people = torch.arange(36) % 3
    result = two_stages(
        Q=36,
        G=3,
        text_embed=torch.nn.functional.normalize(torch.eye(3)[[1, 1, 2]] + 0.1 * torch.eye(3), dim=1)[people],
        image_embed=torch.eye(3),
        shortlist=torch.arange(3).expand(36, 3),
        match_logits=9.0 * torch.eye(3)[people],
        query_ids=people,
        gallery_ids=torch.arange(3),
    )
    metrics = metrics_of(result)
    assert (metrics["t2i_global/R1"], metrics["t2i/R1"]) == (pytest.approx(200 / 3), 100.0)
    assert metrics["t2i/R1_gain_p"] == pytest.approx((2 / 3) ** 3, abs=0.02)


def test_without_slices_nothing_changes():
    plain = metrics_of(two_stages(query_slices=None))
    assert plain == metrics_of(two_stages(query_slices=[()] * 30))
    assert not any("[" in key for key in plain)
    sliced = metrics_of(two_stages())
    assert {key: plain[key] for key in plain.keys() & sliced.keys()} == {
        key: value for key, value in sliced.items() if "[" not in key
    }


def test_the_table_has_a_row_for_each_slice():
    metrics = metrics_of(two_stages())
    text = retrieval_table(metrics, "set")
    lines = text.splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith("slice "))
    for heading in ("captions", "stage 1 R@1", "match alone R@1", "re-ranked R@1", "re-ranked mAP"):
        assert heading in lines[start]
    assert [line.split("  ")[0] for line in lines[start + 1 :]] == ["all", "even", "odd", "names hat"]
    cells = lines[start + 3].split()
    stages = ("t2i_global", "t2i_match", "t2i")
    shown = [metrics[f"{stage}/{what}[odd]"] for stage in stages for what in ("R1", "mAP")]
    assert cells == ["odd", "10", *(f"{value:.2f}" for value in shown)]
    assert "slice" not in retrieval_table(metrics_of(two_stages(query_slices=None)), "set")


def test_a_table_of_one_stage_has_its_columns_only():
    metrics = metrics_of(two_stages(shortlist=None, match_logits=None))
    assert np.isfinite(list(metrics.values())).all()
    (line,) = (line for line in retrieval_table(metrics, "set").splitlines() if line.startswith("slice "))
    assert line.split() == ["slice", "captions", "stage", "1", "R@1", "stage", "1", "mAP"]
