"""A gallery that is kept: indexing tells files apart, survives kills, and searches by documented formulas."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cada_plugin import load_retriever
from cada_plugin.checkpoints.io import shipped_path
from cada_plugin.cli.main import main
from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.errors import ConfigError, GalleryError
from cada_plugin.gallery import Facts, Filter, Gallery, NamePattern, Query, read_facts
from cada_plugin.gallery import gallery as gallery_module
from cada_plugin.gallery import index as index_module
from cada_plugin.gallery.query import combined_logits, stage_one_vectors
from cada_plugin.portable.hubness import hubness
from cada_plugin.portable.stages import FINAL, STAGE_ONE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> ProceduralPEDES:
    build = {"seed": 9, "identities": {"train": 2, "val": 2, "test": 20}, "images_per_identity": 3}
    return ProceduralPEDES(
        data_root=str(tmp_path_factory.mktemp("kept") / "people"), split="test", test_mode=True, build=build
    )


@pytest.fixture(scope="module")
def retriever():
    return load_retriever("cada_procedural")


@pytest.fixture
def crops(people, tmp_path) -> Path:
    folder = tmp_path / "crops"
    folder.mkdir()
    for record in people.records:
        shutil.copy(record["img_path"], folder)
    return folder


def content(gallery: Gallery) -> dict:
    rows = list(gallery.store.rows())
    _, embed = gallery.store.get([row.id for row in rows])
    return {row.path: (row, tuple(vector)) for row, vector in zip(rows, embed.round(3), strict=True)}


# ---------------------------------------------------------------- indexing


def test_files_are_told_apart_and_only_new_ones_are_decoded(crops, tmp_path, monkeypatch):
    gallery = Gallery.create(tmp_path / "gallery", crops, "cada_procedural")
    (crops / "broken.jpg").write_bytes(b"no picture")
    strange = os.fsdecode(b"caf\xe9.jpg")  # Latin-1: no Unicode text
    shutil.copy(sorted(crops.iterdir())[0], crops / strange)
    changes = gallery.index(progress=False)
    assert len(gallery) == 60
    assert sorted(changes.unreadable) == ["broken.jpg", strange]
    (crops / strange).unlink()
    names = sorted(row.path for row in gallery.store.rows())
    decoded = []
    encode = gallery.retriever.encode_readable
    monkeypatch.setattr(gallery.retriever, "encode_readable", lambda p, *a: decoded.extend(p) or encode(p, *a))

    (crops / "broken.jpg").unlink()
    again = gallery.index(progress=False)
    assert (len(again.unchanged), decoded) == (60, [])

    (crops / "deep").mkdir()
    (crops / names[0]).rename(crops / "deep/moved.jpg")
    (crops / names[1]).unlink()
    Image.new("RGB", (64, 128), "red").save(crops / names[2])
    os.utime(crops / names[3], (1, 1))
    Image.new("RGB", (64, 128), "blue").save(crops / "new ü.png")
    (crops / names[4]).write_bytes(b"damaged")
    before = content(gallery)
    changes = gallery.index(progress=False)
    assert [(old.path, file.path) for old, file in changes.moved] == [(names[0], "deep/moved.jpg")]
    assert [row.path for row in changes.removed] == [names[1]]
    assert changes.changed == {names[2], names[4]}
    assert [row.path for row, _ in changes.touched] == [names[3]]
    assert list(changes.unreadable) == [names[4]]
    assert sorted(path.name for path in decoded) == sorted([names[2], "new ü.png", names[4]])
    after = content(gallery)
    assert after.keys() == before.keys() - {names[0], names[1], names[4]} | {"deep/moved.jpg", "new ü.png"}
    assert after["deep/moved.jpg"][1] == before[names[0]][1]
    assert after[names[2]][1] != before[names[2]][1]
    fresh = Gallery.create(tmp_path / "fresh", crops, "cada_procedural")
    fresh.index(progress=False)
    assert content(fresh) == after


KILLED = """
import os, random, signal, sys, time
os.environ["OMP_NUM_THREADS"] = "1"
from cada_plugin.cli import index  # without the database, whose threads would not survive a fork
from cada_plugin.cli.main import main
from cada_plugin.gallery import gallery
gallery._CHUNK = 4
random.seed(0)
for _ in range(20):
    child = os.fork()
    if not child:
        os._exit(main(["index", sys.argv[1], "--gallery", sys.argv[2], "--tokens", "int8", "--batch-size", "4"]))
    time.sleep(random.uniform(0.3, 1.1))
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def test_a_run_killed_at_any_instant_is_continued_and_ends_as_one_that_was_not(crops, tmp_path):
    whole = Gallery.create(tmp_path / "whole", crops, "cada_procedural", tokens="int8")
    whole.index(progress=False)
    place = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(crops), str(place)]
    statuses = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    assert statuses.count("9") > 5  # killed; later runs have little left to do and may end before
    assert main(["index", str(crops), "--gallery", str(place), "--tokens", "int8"]) == 0
    killed = Gallery.open(place)
    assert content(killed) == content(whole)
    files = {str(path.relative_to(place)) for path in place.glob("tokens/*/*.npz")}
    assert files == {str(path.relative_to(tmp_path / "whole")) for path in (tmp_path / "whole").glob("tokens/*/*.npz")}


def test_a_second_run_on_ten_thousand_files_decodes_none(crops, tmp_path, monkeypatch):
    """In twenty folders, with files that are hard links of sixty pictures."""
    many = tmp_path / "many"
    sources = sorted(crops.iterdir())
    for number in range(10_000):
        folder = many / f"{number % 20}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(sources[number % len(sources)], folder / f"{number}.jpg")
    gallery = Gallery.create(tmp_path / "gallery", many, "cada_procedural")
    assert len(gallery.index(progress=False).new) == 10_000
    monkeypatch.setattr(gallery.retriever, "encode_readable", None)
    monkeypatch.setattr(index_module, "digest_or_none", None)  # not even read
    assert len(gallery.index(progress=False).unchanged) == len(gallery) == 10_000


def test_a_second_writer_and_another_model_are_told(crops, tmp_path, monkeypatch, retriever, capsys):
    gallery = Gallery.create(tmp_path / "gallery", crops, "cada_procedural")
    gallery.index(progress=False)
    from cada_plugin.files import only_writer

    blocker = subprocess.Popen(
        [sys.executable, "-c", "import sys, pathlib\nfrom cada_plugin.files import only_writer\n"
         f"with only_writer(pathlib.Path({str(tmp_path / 'gallery')!r}), 'indexing run'):\n"
         "    print('locked', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert blocker.stdout.readline() == "locked\n"
    with pytest.raises(ConfigError, match=r"is in use by an? indexing run .*Wait for it, or end it"):
        gallery.index(progress=False)
    blocker.communicate("")
    with only_writer(tmp_path / "gallery", "x"):
        pass
    with pytest.raises(GalleryError, match="holds a gallery already"):
        Gallery.create(tmp_path / "gallery", crops, "cada_procedural")
    other = load_retriever("cada_procedural")
    next(other.model.parameters()).data.add_(1.0)
    with pytest.raises(GalleryError, match=r"was made by CADA 128x64 \w{12}, and this model is CADA 128x64 \w{12}:"):
        Gallery.open(tmp_path / "gallery", other)
    place, weights = str(tmp_path / "gallery"), str(tmp_path / "other.pth")
    torch.save(other.model.state_dict(), weights)
    for arguments, message in (
        ([str(tmp_path)], "is of the folder"),
        (["--config", "cada_procedural", "--checkpoint", weights], "was made by CADA 128x64"),
        (["--tokens", "int8"], "keeps tokens=none, not int8"),
        (["--checkpoint", "x.pth"], "needs the --config"),
    ):
        assert main(["index", *arguments, "--gallery", place]) == 2
        assert message in capsys.readouterr().err


def test_what_is_known_comes_from_names_and_tables(crops, tmp_path, capsys):
    for number, path in enumerate(sorted(crops.iterdir())[:8]):
        path.rename(crops / f"gate{number % 2}_2026112509{number:02}00 x.jpg")
    table = tmp_path / "facts.csv"
    table.write_text("path,camera,time,colour\ngate1_20261125090100 x.jpg,north,1970-01-01T00:01,red; 'dark'\n")
    pattern = "{camera}_{time:%Y%m%d%H%M%S}"
    place = str(tmp_path / "gallery")
    assert main(["index", str(crops), "--gallery", place, "--name-pattern", pattern, "--csv", str(table)]) == 0
    rows = {row.path: row for row in Gallery.open(place).store.rows()}
    first, table_row = rows["gate0_20261125090000 x.jpg"], rows["gate1_20261125090100 x.jpg"]
    assert (first.camera, first.time) == ("gate0", 1795597200.0)
    assert (table_row.camera, table_row.time, dict(table_row.columns)) == ("north", 60.0, {"colour": "red; 'dark'"})
    assert "without camera, time and person (not in the CSV, no name that fits the pattern): 52 images" in (
        capsys.readouterr().out
    )
    hits = Gallery.open(place).search(Query(["a man"], only=Filter(cameras=["gate0"]), topk=60))
    assert len(hits) == 4
    table.write_text("path,camera\ngate1_20261125090100 x.jpg,south\n")  # read again, and the pattern is kept
    assert main(["index", "--gallery", place, "--csv", str(table)]) == 0
    again = {row.path: row.camera for row in Gallery.open(place).store.rows()}
    assert (again["gate0_20261125090000 x.jpg"], again["gate1_20261125090100 x.jpg"]) == ("gate0", "south")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("{cam}", "is not understood"), ("{time}", "is not understood"), ("plain", "has no"), ("{camera}{camera}", "not")],
)
def test_patterns_that_say_nothing_are_refused(pattern, message):
    with pytest.raises(ConfigError, match=message):
        NamePattern(pattern)


def test_names_are_read_if_they_fit_the_pattern():
    read = NamePattern("{camera}-{person}_{any}").read
    assert read("a/b/c3-p17_x.jpg") == Facts(camera="c3", person="p17")
    assert read("other.jpg") is None
    assert NamePattern("{camera}_c{time:%H%M}").read("a_c9999.jpg") is None  # no time of day


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camera\nx\n", "no column path"),
        ("path,time\na,noon\n", "line 2: 'noon' is no time"),
        ("path,time\na,1764061800000\n", "line 2: '1764061800000' is no time"),  # milliseconds
        ("path,time\na,20261125093000\n", "is no time"),
        ("path,time\na,20261125\n", "is no time"),  # neither a date nor a second of 1970
        ("path,time\na,nan\n", "is no time"),
        ("path\na\na\n", "twice"),
    ],
)
def test_tables_that_cannot_be_used_name_the_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_facts(tmp_path / "t.csv")


def test_a_table_of_no_pictures_is_one(tmp_path):
    (tmp_path / "t.csv").write_text("path,camera\n")
    assert read_facts(tmp_path / "t.csv") == {}


def test_a_folder_that_lost_all_pictures_empties_no_gallery(crops, tmp_path, capsys):
    gallery = Gallery.create(tmp_path / "gallery", crops, "cada_procedural", tokens="int8")
    gallery.index(progress=False)
    before = content(gallery)
    crops.rename(tmp_path / "disk")
    crops.mkdir()  # where the disk was mounted
    assert main(["index", "--gallery", str(tmp_path / "gallery")]) == 2
    assert "is its disk mounted? Nothing was changed" in capsys.readouterr().err
    assert content(gallery) == before
    crops.rmdir()
    (tmp_path / "disk").rename(crops)
    assert not gallery.index(progress=False).new  # their tokens are there too


@pytest.mark.parametrize("checkpoint", ["cada_plugin://cada_procedural.safetensors", "~/mine.safetensors"])
def test_the_weights_of_a_gallery_are_found_again(crops, tmp_path, monkeypatch, checkpoint):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(shipped_path("cada_plugin://cada_procedural.safetensors"), tmp_path / "mine.safetensors")
    Gallery.create(tmp_path / "gallery", crops, "cada_procedural", checkpoint)
    monkeypatch.chdir(crops)
    assert len(Gallery.open(tmp_path / "gallery")) == 0


# ---------------------------------------------------------------- searching


@pytest.fixture(scope="module")
def gallery(people, retriever, tmp_path_factory) -> Gallery:
    folder = tmp_path_factory.mktemp("searched")
    (folder / "crops").mkdir()
    for record in people.records:
        shutil.copy(record["img_path"], folder / "crops")
    gallery = Gallery.create(folder / "gallery", folder / "crops", "cada_procedural")
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


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_a_picture_at_least(gallery, batch_size):
    with pytest.raises(ConfigError, match=f"batch_size={batch_size}: use an integer from 1"):
        gallery.retriever.encode_image(gallery.root, batch_size=batch_size)


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
    monkeypatch.setattr(gallery_module, "_CHUNK", 20)
    monkeypatch.setattr(gallery_module, "hubness", lambda *values: hubness(*values) if next(rounds) else 1 / 0)
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


def test_a_gallery_in_milvus_is_the_same_by_one_changed_argument(crops, tmp_path, monkeypatch):
    """Milvus Lite stands in for a server: it speaks the same protocol."""
    pytest.importorskip("milvus_lite")
    from cada_plugin.gallery import gallery as module
    from cada_plugin.gallery.milvus_store import MilvusStore

    local = Gallery.create(tmp_path / "local", crops, "cada_procedural")
    local.index(progress=False)
    lite = str(tmp_path / "milvus.db")
    monkeypatch.setattr(
        module, "_open_store", lambda place, dim, create: MilvusStore(lite, "crops", dim, create=create)
    )
    remote = Gallery.create("http://host:19530/crops", crops, "cada_procedural")
    remote.index(progress=False)
    assert content(remote).keys() == content(local).keys()
    query = Query(["a man in a blue jacket"], topk=12)
    assert [hit.path for hit in remote.search(query)] == [hit.path for hit in local.search(query)]
    assert len(remote.index(progress=False).unchanged) == 60
    for gallery in (remote, local):
        gallery.store.close()


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
