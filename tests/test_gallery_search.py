"""Searches of a gallery are those of the documented formulas."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gallery_factory import copy_crops
from PIL import Image

from cada_plugin.cli.main import main
from cada_plugin.errors import ConfigError, GalleryError
from cada_plugin.gallery import Facts, Filter, Gallery, Query, indexing
from cada_plugin.gallery.query import combined_logits, stage_one_vectors
from cada_plugin.portable.hubness import hubness
from cada_plugin.portable.stages import FINAL, STAGE_ONE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gallery(people, tmp_path_factory) -> Gallery:
    folder = tmp_path_factory.mktemp("searched")
    gallery = Gallery.create(folder / "gallery", copy_crops(people, folder / "crops"), "cada_procedural")
    gallery.index(lambda path: Facts(person=path.partition("_")[0]), progress=False)
    return gallery


def test_a_search_is_that_of_the_formulas_written_out(gallery, retriever):
    query = Query(["a woman in a red coat.", "She has a bag"], without=["a hat", "glasses"], topk=12)
    rows = list(gallery.store.rows())
    encoded = retriever.encode_image([str(gallery.root / row.path) for row in rows])
    one, hat, glasses = (
        retriever.encode_text(text) for text in ("a woman in a red coat. She has a bag.", "a hat", "glasses")
    )
    stage_one = ((one.embed - 0.5 * (hat.embed + glasses.embed) / 2) @ encoded.embed.T)[0].numpy()
    best = np.argsort(-stage_one)[: retriever.rerank_topk]
    everything = np.arange(len(rows))
    logits = retriever.match(one, encoded).numpy()[0]
    final = logits + retriever.cosine_weight * stage_one
    order = [*sorted(best, key=lambda i: -final[i]), *(i for i in np.argsort(-stage_one) if i not in best)]
    hits = gallery.search(query)
    assert len(everything) > retriever.rerank_topk
    assert [hit.row.path for hit in hits] == [rows[i].path for i in order[:12]]
    for hit, i in zip(hits, order, strict=False):
        assert hit.cosine == pytest.approx(stage_one[i], abs=2e-3)  # embeddings are kept in fp16
        assert hit.match == pytest.approx(logits[i], abs=1e-4)


def test_or_takes_the_best_sentence_and_feedback_moves_the_query():
    rng = np.random.default_rng(0)
    wanted, unwanted, right, wrong = (rng.normal(size=(n, 4)) for n in (2, 1, 3, 2))
    none = np.zeros((0, 0))
    either = Query(["a", "b"], combine="or")
    np.testing.assert_allclose(stage_one_vectors(either, wanted, none, none, none), wanted, rtol=1e-6)
    both = Query(["a", "b"], feedback_weight=1.0)
    expected = wanted.mean(0) - 0.5 * unwanted[0] + 2 * right.mean(0) - wrong.mean(0)
    np.testing.assert_allclose(stage_one_vectors(both, wanted, unwanted, right, wrong)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(stage_one_vectors(both, wanted, none, none, wrong)[0], wanted.mean(0), rtol=1e-6)
    np.testing.assert_allclose(combined_logits(either, wanted), wanted.max(0))
    np.testing.assert_allclose(combined_logits(both, wanted), wanted.mean(0))


def test_sentences_that_make_too_long_a_caption_are_averaged(gallery, retriever):
    long = ["a man in a blue jacket and black trousers with a red bag in his hand and a green hat on his head"] * 6
    rows = list(gallery.store.rows())
    encoded = retriever.encode_image([str(gallery.root / row.path) for row in rows])
    texts = retriever.encode_text([*long, "a woman"])
    expected = retriever.match(texts, encoded).numpy().mean(0)
    for hit in gallery.search(Query([*long, "a woman"], topk=5)):
        place = next(i for i, row in enumerate(rows) if row.path == hit.row.path)
        assert hit.cosine == pytest.approx(float(texts.embed.mean(0) @ encoded.embed[place]), abs=2e-3)
        assert hit.match == pytest.approx(expected[place], abs=1e-4)


def test_scores_are_probabilities_for_the_searched_images(gallery, retriever):
    sentence = "a man in a blue jacket"
    calibration = retriever.calibration
    people = sorted({row.person for row in gallery.store.rows()})[:2]
    for only, images in ((Filter(), 60), (Filter(columns={"person": people}), 6)):
        hits = gallery.search(Query([sentence], only=only, topk=60))
        assert len(hits) == images
        for hit in hits:
            stage = (
                (STAGE_ONE, hit.cosine)
                if hit.match is None
                else (FINAL, hit.match + retriever.cosine_weight * hit.cosine)
            )
            assert hit.score == pytest.approx(float(calibration.probability(*stage, images)))
    hits = gallery.search(sentence, topk=60)
    limit = sorted(hit.score for hit in hits)[40]
    assert {hit.path for hit in gallery.search(sentence, topk=60, min_score=limit)} == {
        hit.path for hit in hits if hit.score >= limit
    }
    assert all(hit.score is None for hit in gallery.search(sentence, without=["a hat"]))
    with pytest.raises(ConfigError, match="calibrated for sentences alone"):
        gallery.search(sentence, without=["a hat"], min_score=0.5)
    with pytest.raises(ConfigError, match="probability from 0 to 1"):
        gallery.search(sentence, min_score=3.0)


def test_a_cut_off_needs_a_calibrated_model(gallery, monkeypatch):
    monkeypatch.setattr(gallery.retriever, "calibration", None)
    assert gallery.search("a man")[0].score is None
    with pytest.raises(ConfigError, match=r"needs a calibrated model: .*`cada calibrate CONFIG CHECKPOINT`"):
        gallery.search("a man", min_score=0.5)


def test_a_calibration_without_re_ranking_says_nothing_of_re_ranked_images(gallery, monkeypatch):
    calibration = gallery.retriever.calibration
    first = replace(calibration, stages={STAGE_ONE: calibration.stages[STAGE_ONE]})
    monkeypatch.setattr(gallery.retriever, "calibration", first)
    assert {hit.score for hit in gallery.search("a man", topk=60)} == {None}
    with pytest.raises(ConfigError, match="needs a calibrated model"):
        gallery.search("a man", min_score=0.5)
    monkeypatch.setattr(gallery.retriever, "rerank_topk", 0)
    assert all(hit.score is not None for hit in gallery.search("a man"))


@pytest.mark.parametrize("name", ["sentences", "like", "without", "right", "wrong"])
def test_one_text_is_not_a_list_of_letters(name):
    with pytest.raises(ConfigError, match=rf"{name}='a man' is one text: give a list, \['a man'\]"):
        Query(**{"sentences": ["a man"]} | {name: "a man"})


def test_filters_want_lists_and_a_query_has_its_own_options(gallery):
    for fields in ({"cameras": "gate"}, {"columns": {"floor": "1"}}):
        with pytest.raises(ConfigError, match="is one text"):
            Filter(**fields)
    with pytest.raises(ConfigError, match="topk beside a Query: write them into the query"):
        gallery.search(Query(["a man"]), topk=3)


def test_marked_hits_leave_the_list_and_a_right_one_moves_it(gallery):
    hits = gallery.search("a man in a blue jacket", topk=60)
    right, wrong = hits[3].row, hits[0].row
    plain = gallery.search("a man in a blue jacket", topk=60, wrong=[wrong.id])
    assert [hit.path for hit in plain[:20]] == [hit.path for hit in hits[1:21]]  # wrong alone changes no score
    moved = gallery.search("a man in a blue jacket", topk=60, right=[right.id], wrong=[wrong.id])
    assert len(moved) == 58
    assert {hit.match for hit in moved} == {None}
    text = gallery.retriever.encode_text("a man in a blue jacket").embed[0].numpy()
    _, embed = gallery.store.get([right.id, wrong.id, moved[0].row.id])
    assert moved[0].cosine == pytest.approx((text + embed[0] - 0.5 * embed[1]) @ embed[2], abs=2e-3)
    with pytest.raises(GalleryError, match="has no image 'nobody'"):
        gallery.search("a man", right=["nobody"])


def test_hubness_is_measured_kept_and_subtracted(gallery, people, tmp_path, capsys, monkeypatch):
    bank = tmp_path / "captions.txt"
    captions = [caption for record in people.records[:8] for caption in record["captions"]]
    bank.write_text("\n".join(captions) + "\n\n")
    place = str(tmp_path / "hubs")
    assert main(["index", str(gallery.root), "--gallery", place]) == 0
    assert main(["search", place, "a man", "--hubness-weight", "0.5"]) == 2
    assert "give `cada index` the option --captions" in capsys.readouterr().err
    assert main(["index", "--gallery", place, "--captions", str(bank)]) == 0  # of rows that are there already
    new = next(gallery.root.iterdir()).read_bytes()
    (gallery.root / "new.jpg").write_bytes(new)
    try:
        assert main(["index", "--gallery", place]) == 0
    finally:
        (gallery.root / "new.jpg").unlink()
    hubs = Gallery.open(place)
    rows = list(hubs.store.rows())
    _, embed = hubs.store.get([row.id for row in rows])
    cosines = np.sort(embed @ hubs.retriever.encode_text(captions).embed.numpy().T)
    np.testing.assert_allclose([row.hubness for row in rows], cosines.mean(1), atol=2e-3)
    assert len(rows) == 61
    expected = {hit.row.id: hit.cosine - 0.5 * hit.row.hubness for hit in hubs.search("a man", topk=61)}
    for hit in hubs.search("a man", topk=61, hubness_weight=0.5):
        assert hit.cosine == pytest.approx(expected[hit.row.id], abs=1e-4)
        assert hit.score is None
    # a run that ends while it measures among other captions leaves a mixture, which the next one mends
    other = tmp_path / "other.txt"
    other.write_text("a woman with long hair and a red bag\n" * 10)
    hubs.remember_captions(other)
    rounds = iter([True, False])
    monkeypatch.setattr(indexing, "_CHUNK", 20)
    monkeypatch.setattr(indexing, "hubness", lambda *values: hubness(*values) if next(rounds) else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hubs.index(progress=False)
    monkeypatch.undo()
    hubs.remember_captions(bank)
    hubs.index(progress=False)
    assert {row.id: row.hubness for row in hubs.store.rows()} == pytest.approx(
        {row.id: row.hubness for row in rows if row.path != "new.jpg"}, abs=2e-3
    )
    bank.write_text("one caption\n")
    assert main(["index", "--gallery", place]) == 2
    assert "holds 1 captions" in capsys.readouterr().err


def test_hits_may_be_limited_and_one_for_each_person(gallery, monkeypatch):
    query = Query(["a man in a blue jacket"], topk=60)
    hits = gallery.search(query)
    assert len(hits) == 60
    assert len(gallery.search(Query(["a man in a blue jacket"], topk=60, per_person=True))) == 20
    all_of_them = Query(["a man in a blue jacket"], topk=20, per_person=True)  # more people than the shortlist has
    assert len({hit.row.person for hit in gallery.search(all_of_them)}) == 20
    with monkeypatch.context() as patch:  # an engine that finds no more at once gives those people that it can
        patch.setattr(gallery.store, "most_found", 40, raising=False)
        some = gallery.search(all_of_them)
        assert 0 < len({hit.row.person for hit in some}) == len(some) < 20
    limit = sorted(hit.cosine for hit in hits)[30]
    asked = []
    nearest = gallery.store.nearest
    monkeypatch.setattr(gallery.store, "nearest", lambda vector, k, *rest: asked.append(k) or nearest(vector, k, *rest))
    assert gallery.search(Query(["a man in a blue jacket"], topk=60, per_person=True, min_cosine=hits[0].cosine))
    assert asked == [60]  # it does not look for people below the cut
    assert len(gallery.search(Query(["a man in a blue jacket"], topk=60, min_cosine=limit))) == 30
    like = gallery.search(Query(like=[hits[5].path], topk=1))[0]
    assert (like.path, like.match) == (hits[5].path, None)


def test_tokens_that_are_kept_give_the_scores_of_pictures_encoded_again(gallery, people, tmp_path, monkeypatch):
    expected = gallery.search("a man in a blue jacket", topk=20)
    for mode, tolerance in (("fp16", 0.01), ("int8", 0.05)):
        kept = Gallery.create(tmp_path / mode, gallery.root, "cada_procedural", tokens=mode)
        kept.index(progress=False)
        monkeypatch.setattr(kept.retriever, "encode_readable", None)  # nothing is decoded
        found = {hit.path: hit.match for hit in kept.search("a man in a blue jacket", topk=20)}
        for hit in expected:
            assert found[hit.path] == pytest.approx(hit.match, abs=tolerance)


def test_lost_tokens_are_made_again(gallery, tmp_path):
    kept = Gallery.create(tmp_path / "kept", gallery.root, "cada_procedural", tokens="int8")
    kept.index(progress=False)
    expected = kept.search("a man in a blue jacket", topk=5)
    for hit in expected[:2]:
        next((tmp_path / "kept/tokens").glob(f"{hit.row.hash[:2]}/{hit.row.hash[2:]}.npz")).unlink()
    with pytest.raises(GalleryError, match=r"tokens of a picture are missing or damaged .*run `cada index` again"):
        kept.search("a man in a blue jacket", topk=5)
    assert len(kept.index(progress=False).new) == 2
    found = kept.search("a man in a blue jacket", topk=5)
    assert [hit.path for hit in found] == [hit.path for hit in expected]
    assert [hit.match for hit in found] == pytest.approx([hit.match for hit in expected], abs=1e-4)


def test_the_command_prints_draws_and_says_where_nothing_is_found(gallery, tmp_path, capsys):
    place, hits = str(gallery.place), gallery.search("a man", topk=1)
    assert main(["search", place, "a man", "--topk", "3", "--sheet", str(tmp_path / "s.png")]) == 0
    out = capsys.readouterr().out
    assert (out.count("match"), out.count("score")) == (3, 3)
    assert Image.open(tmp_path / "s.png").width > 300
    assert main(["search", place, "a man in a red coat", "--topk", "2", "--explain", str(tmp_path / "why")]) == 0
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["1.png", "2.png"]
    assert main(["search", place, "--like", hits[0].path, "--explain", str(tmp_path / "why")]) == 2
    assert "an explanation is about sentences" in capsys.readouterr().err
    assert main(["search", place, "a man", "--json", "--topk", "2"]) == 0
    assert [hit["rank"] for hit in json.loads(capsys.readouterr().out)] == [1, 2]
    assert main(["search", place, "a man", "-f", "--topk", "2"]) == 0
    assert all(Path(line).is_file() for line in capsys.readouterr().out.split("\n")[:-1])
    assert main(["search", place, "a man", "--camera", "nowhere"]) == 1
    assert main(["search", place]) == 2
    assert "needs a sentence" in capsys.readouterr().err
    assert main(["search", str(tmp_path / "none"), "a man"]) == 2


def test_hits_are_told_even_if_their_pictures_are_gone_or_cannot_be_drawn(crops, tmp_path, capsys):
    place = str(tmp_path / "gallery")
    Gallery.create(place, crops, "cada_procedural", tokens="fp16").index(progress=False)
    assert main(["search", place, "a man", "--sheet", str(crops)]) == 2
    assert f"--sheet {crops} is a folder" in capsys.readouterr().err
    first = Gallery.open(place).search("a man")[0].path
    Path(first).unlink()
    sheet, why = tmp_path / "s.png", tmp_path / "why"
    assert main(["search", place, "a man", "--topk", "2", "--sheet", str(sheet), "--explain", str(why)]) == 0
    told = capsys.readouterr()
    assert first in told.out
    assert told.out.count("match") == 2
    assert f"not drawn: {first}" in told.err
    assert sheet.is_file()
    assert [path.name for path in why.iterdir()] == ["2.png"]
    assert main(["search", place, "a man", "-f", "--camera", "nowhere"]) == 1
    assert capsys.readouterr().out == ""


def test_a_model_that_cannot_match_is_searched_by_its_cosine(crops, tmp_path, capsys):
    place = str(tmp_path / "clip")
    assert main(["index", str(crops), "--gallery", place, "--config", "clip_procedural"]) == 0
    clip = Gallery.open(place)
    hits = clip.search("a man in a blue jacket", topk=60)
    encoded = clip.retriever.encode_image([hit.path for hit in hits])
    cosines = (clip.retriever.encode_text("a man in a blue jacket").embed @ encoded.embed.T)[0].numpy()
    assert [hit.match for hit in hits] == [None] * 60
    np.testing.assert_allclose([hit.cosine for hit in hits], cosines, atol=2e-3)
    assert [hit.cosine for hit in hits] == sorted((hit.cosine for hit in hits), reverse=True)
    assert main(["index", str(crops), "--gallery", str(tmp_path / "x"), "--config", "clip_procedural",
                 "--tokens", "int8"]) == 2  # fmt: skip
    assert "does not re-rank and has no tokens" in capsys.readouterr().err


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_a_picture_at_least(gallery, batch_size):
    with pytest.raises(ConfigError, match=f"batch_size={batch_size}: use an integer from 1"):
        gallery.retriever.encode_image(gallery.root, batch_size=batch_size)
