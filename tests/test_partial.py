"""Captions cut to a few phrases, and captions with one wrong phrase: how they are made, and what is measured."""

import json
import re
from collections import Counter
from pathlib import Path

import dataset_factory
import numpy as np
import pytest
import runner_factory as factory
import torch
from mmengine.config import Config

from cada_plugin.apis import load_retriever
from cada_plugin.cli import main
from cada_plugin.datasets import CUHKPEDES
from cada_plugin.datasets.procedural import build_procedural
from cada_plugin.datasets.procedural.partial import COUNTS, cut_captions, procedural_records, relevance, wrong_captions
from cada_plugin.datasets.procedural.worlds import WORLDS
from cada_plugin.engine.partial import partial_tables
from cada_plugin.errors import AnnotationError
from cada_plugin.evaluation.partial import best_precision, rank_change, rank_relevant
from cada_plugin.registry import MODELS, build_part

# ---------------------------------------------------------------- metrics


def naive(scores: list[float], relevant: list[bool]) -> tuple[float, float]:
    """Average precision and precision at 10 by walking down the list; ties in gallery order."""
    order = sorted(range(len(scores)), key=lambda image: -scores[image])
    found, precisions, first = 0, [], 0
    for place, image in enumerate(order, 1):
        if relevant[image]:
            found += 1
            precisions.append(found / place)
            first += place <= 10
    return sum(precisions) / found, first / 10


@pytest.mark.parametrize("images", [1, 4, 37])
def test_many_relevant_images_against_a_walk_down_the_list(images):
    rng = np.random.default_rng(images)
    scores = rng.integers(0, 6, (25, images)).astype(np.float32)  # many ties
    relevant = rng.random((25, images)) < 0.4
    relevant[:, 0] = True
    found = rank_relevant(scores, relevant)
    expected = [naive(row.tolist(), right.tolist()) for row, right in zip(scores, relevant, strict=True)]
    np.testing.assert_allclose(found["ap"], [ap for ap, _ in expected])
    np.testing.assert_allclose(found["precision"], [precision for _, precision in expected])
    chunks = rank_relevant((scores[k : k + 4] for k in range(0, 25, 4)), relevant)
    assert all(np.array_equal(chunks[key], found[key]) for key in found)
    perfect = rank_relevant(relevant.astype(float), relevant)
    assert (perfect["ap"] == 1).all()
    assert perfect["precision"].mean() == pytest.approx(best_precision(relevant))


def test_one_relevant_image_is_the_metric_of_ranking():
    from cada_plugin.evaluation import rank_queries

    rng = np.random.default_rng(0)
    scores, query_ids, gallery_ids = rng.random((20, 30)), rng.integers(0, 6, 20), np.arange(30) % 6
    found = rank_relevant(scores, query_ids[:, None] == gallery_ids)
    np.testing.assert_allclose(found["ap"], rank_queries(scores, query_ids, gallery_ids)["ap"])


@pytest.mark.parametrize(
    ("relevant", "words"),
    [
        (np.array([[True, False], [False, False]]), "query 1 has no relevant image"),
        (np.ones((2, 2)), "expected bool"),
        (np.ones(2, dtype=bool), "expected bool"),
        (np.ones((3, 2), dtype=bool), "similarity has shape"),
    ],
)
def test_impossible_relevance_is_refused(relevant, words):
    with pytest.raises(ValueError, match=words):
        rank_relevant(np.zeros((2, 2)), relevant)


def test_ranks_of_different_captions_are_refused():
    with pytest.raises(ValueError, match="one for each caption in both"):
        rank_change(np.zeros(2), np.zeros(3))


# ---------------------------------------------------------------- captions


@pytest.fixture(scope="module", params=WORLDS)
def world(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("partial") / request.param
    build_procedural(folder, world=request.param, seed=4, identities={"test": 30}, images_per_identity=1)
    return WORLDS[request.param], json.loads((folder / "reid_raw.json").read_text())


def test_cut_captions_say_what_they_claim_and_no_more(world):
    """Every slot of the claims has its word in the text, every colour word of the text is claimed."""
    world, records = world
    kinds = world.speech.words
    colours = {*kinds["colour"], *kinds["hair_colour"]}
    cut = cut_captions(records)
    assert [len(cut[count]) for count in COUNTS] == [len(cut[1])] * 3
    assert len(cut[1]) > 15
    sexes = 0
    for one, two, three in zip(*(cut[count] for count in COUNTS), strict=True):
        assert one.claims.items() < two.claims.items() < three.claims.items()
        assert one.person == two.person == three.person
        sexes += "sex" in one.claims
        for caption in (one, two, three):
            for meant in caption.claims.values():
                said = {w for kind in kinds.values() for w, (_, values) in kind.items() if set(values) == set(meant)}
                assert any(re.search(rf"\b{word}\b", caption.text) for word in said), caption
            meanings = [set(meant) for slot, meant in caption.claims.items() if slot.endswith("colour")]
            for word in re.findall(r"[a-z]+(?:-[a-z]+)*", caption.text):
                if word in colours:
                    values = [set(kinds[k][word][1]) for k in ("colour", "hair_colour") if word in kinds[k]]
                    assert any(value in meanings for value in values), caption
            if "sex" not in caption.claims:
                assert not re.search(r"\b(his|her|he|she)\b", caption.text)
            assert "inner_type" not in caption.claims or "upper_type" in caption.claims
            assert ("open" in caption.text.split()) <= ("inner_type" in caption.claims)
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption.text)
            assert caption.text == " ".join(caption.text.split())
    assert 0.25 < sexes / len(cut[1]) < 0.75


def test_a_cut_caption_reads_as_a_phrase():
    text = "This woman in an open red coat over a blue shirt carries a bag at her left hip."
    spans = {"sex": "woman", "upper": "an open red coat", "inner": "a blue shirt", "bag": "a bag at her left hip"}
    phrases = [{"unit": u, "start": text.index(s), "stop": text.index(s) + len(s)} for u, s in spans.items()]
    claims = {"sex": ["woman"], "upper_type": ["coat"], "inner_type": ["shirt"], "bag": ["tote"], "bag_side": ["left"]}
    record = {"id": 1, "captions": [text], "phrases": [phrases], "claims": [claims]}
    texts = {caption.text for seed in range(40) for cut in cut_captions([record], seed).values() for caption in cut}
    assert texts == {
        "a red coat",
        "a bag at the left hip",
        "a woman with a red coat",
        "a woman with a bag at her left hip",
        "a red coat and a bag at the left hip",
        "a woman with a red coat and a bag at her left hip",
        "an open red coat and a blue shirt",
        "a woman with an open red coat and a blue shirt",
        "an open red coat, a blue shirt and a bag at the left hip",
        "a woman with an open red coat, a blue shirt and a bag at her left hip",
    }


def test_relevance_is_counted_person_by_person(world):
    _, records = world
    captions = [caption for cut in cut_captions(records).values() for caption in cut]
    found = relevance(records, [caption.claims for caption in captions])
    for row, caption in zip(found, captions, strict=True):
        for right, record in zip(row, records, strict=True):
            assert right == all(record["attributes"][slot] in meant for slot, meant in caption.claims.items())
            assert right or record["id"] != caption.person
    assert found.sum(1).max() > 2


def test_one_word_of_a_wrong_caption_is_false(world):
    world, records = world
    people = {record["id"]: record["attributes"] for record in records}
    wrong = wrong_captions(records, world)
    assert len(wrong) > 30
    for caption in wrong:
        before, after = (re.sub(r"\ban?\b", "a", text) for text in (caption.true, caption.text))
        assert after != before
        assert [after] == [t for k in range(len(before)) if (t := replaced(before, k, caption)) == after][:1]
        meanings = [words[caption.instead][1] for words in world.speech.words.values() if caption.instead in words]
        assert any(people[caption.person][caption.slot] not in values for values in meanings)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption.text)
    assert len({caption.slot for caption in wrong}) > 5
    assert not any(caption.slot == "sex" for caption in wrong)


def replaced(text: str, place: int, caption) -> str:
    """The text with the wrong word at a place, if the true one stands there."""
    if not text.startswith(caption.word, place):
        return text
    return text[:place] + caption.instead + text[place + len(caption.word) :]


def test_the_same_captions_each_time_and_no_more_than_asked(world):
    world, records = world
    assert cut_captions(records) == cut_captions(records)
    assert wrong_captions(records, world) == wrong_captions(records, world)
    assert wrong_captions(records, world) != wrong_captions(records, world, seed=1)
    assert [len(cut) for cut in cut_captions(records, most=5).values()] == [5, 5, 5]
    assert len(wrong_captions(records, world, most=5)) == 5
    pairs = Counter((caption.true, caption.person) for caption in wrong_captions(records, world))
    assert max(pairs.values()) <= 2  # two captions of a picture may be equal


def test_a_split_without_long_captions_is_refused(world):
    _, records = world
    short = [record | {"phrases": [phrases[:2] for phrases in record["phrases"]]} for record in records]
    with pytest.raises(AnnotationError, match="no caption has 3 phrases"):
        cut_captions(short)


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    config = Config.fromfile(factory.write_world(folder))
    torch.manual_seed(0)
    torch.save({"state_dict": build_part(MODELS, config.model).state_dict()}, folder / "model.pth")
    return folder


@pytest.mark.slow
def test_the_command_measures_what_a_search_finds(folder, monkeypatch, capfd):
    """The numbers of ``cada test --partial`` against searches of one sentence at a time."""
    monkeypatch.chdir(folder)
    arguments = ["world.py", "model.pth", "--out", "metrics.json", "--partial", "partial.json"]
    options = ["--cfg-options", "test_dataloader.num_workers=0", "custom_hooks=[]"]
    assert main(["test", *arguments, *options]) == 0
    metrics = json.loads((folder / "partial.json").read_text())
    assert partial_tables(metrics) in capfd.readouterr().err
    assert "R1[twins]" in "".join(json.loads((folder / "metrics.json").read_text()))
    records = [r for r in json.loads((folder / "world/reid_raw.json").read_text()) if r["split"] == "test"]
    retriever = load_retriever(folder / "world.py", folder / "model.pth")
    gallery = retriever.encode_image([folder / "world/imgs" / record["file_path"] for record in records])

    def order(sentence: str) -> list[int]:
        return [hit.index for hit in retriever.search(sentence, gallery, topk=len(records))[0]]

    for count in COUNTS:
        cut = cut_captions(records)[count]
        right = relevance(records, [caption.claims for caption in cut])
        places = [np.argsort(order(caption.text)) for caption in cut]  # rank of each picture
        found = [naive((-place).tolist(), row) for place, row in zip(places, right, strict=True)]
        name = f"{count} phrase{'s' * (count > 1)}"
        assert metrics[f"t2i/mAP[{name}]"] == pytest.approx(100 * np.mean([ap for ap, _ in found]), abs=0.2)
        assert metrics[f"t2i/P10[{name}]"] == pytest.approx(100 * np.mean([p for _, p in found]), abs=0.2)
        assert metrics[f"images[{name}]"] == pytest.approx(right.sum(1).mean())
    wrong = wrong_captions(records, WORLDS["camera"])
    ids = [record["id"] for record in records]
    for name, key in (("true caption", "true"), ("wrong phrase", "text")):
        ranks = [[ids[k] for k in order(getattr(c, key))].index(c.person) for c in wrong]
        assert metrics[f"t2i/mean_rank[{name}]"] == pytest.approx(np.mean(ranks) + 1, abs=0.1)


def test_other_data_is_refused(tmp_path):
    dataset_factory.write_cuhk(tmp_path)
    data = CUHKPEDES(tmp_path, split="test", test_mode=True, lazy_init=True)
    with pytest.raises(AnnotationError, match="only for procedural people"):
        procedural_records(data)
