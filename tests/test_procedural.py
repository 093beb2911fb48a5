"""Procedural pedestrians: determinism, disjoint pools, twins that differ as stated, true captions, complete folders."""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cada_plugin
from cada_plugin.datasets.procedural import build, build_procedural
from cada_plugin.datasets.procedural.attributes import draw_identities, is_valid
from cada_plugin.datasets.procedural.captions import describe
from cada_plugin.datasets.procedural.render import VIEWS, render_person
from cada_plugin.errors import ConfigError

SMALL = {"seed": 3, "identities": {"train": 8, "val": 2, "test": 4}, "images_per_identity": 3}
COLOUR_OF_WORD = {
    "black": "black", "white": "white", "gray": "gray", "grey": "gray", "red": "red", "orange": "orange",
    "yellow": "yellow", "green": "green", "blue": "blue", "purple": "purple", "violet": "purple", "pink": "pink",
    "brown": "brown",
}  # fmt: skip
# Nouns by the slot whose colour goes with them, written down apart from the grammar.
NOUN_SLOTS = {
    "upper_colour": "t-shirt tee shirt sweater pullover jumper jacket coat overcoat hoodie sweatshirt dress",
    "lower_colour": "trousers pants slacks jeans shorts skirt",
    "shoe_colour": "sneakers trainers shoes boots",
    "bag_colour": "backpack rucksack bag handbag purse",
    "hat_colour": "cap beanie hat",
    "held_colour": "umbrella bottle book",
    "pattern_colour": "stripes checks squares dots spots",
}
SLOT_OF_NOUN = {noun: slot for slot, nouns in NOUN_SLOTS.items() for noun in nouns.split()}
# Everything a caption says that is neither an adjective nor a noun of the lexicon.
FUNCTION_WORDS = {
    "a", "an", "the", "this", "and", "with", "of", "in", "on", "over", "across", "by", "past", "from", "toward", "away",
    "he", "she", "his", "her", "one", "is", "has", "wears", "wearing", "dressed", "carries", "carrying", "holds",
    "holding", "also", "walking", "seen", "behind", "facing", "forward",
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "procedural"
    build_procedural(root, **SMALL)
    return root


@pytest.fixture(scope="module")
def people():
    return draw_identities(np.random.default_rng(5), 300, "main", 0.4)


@pytest.fixture(scope="module")
def captions(people):
    rng = np.random.default_rng(6)
    return [(p, describe(p.identity, rng, must_mention=p.differs, view=VIEWS[k % 3])) for p in people for k in range(4)]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())


def digest(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def test_same_arguments_write_the_same_bytes(built, tmp_path):
    build_procedural(tmp_path / "again", **SMALL)
    assert digest(tmp_path / "again") == digest(built)


def test_another_seed_draws_other_people(built, tmp_path):
    build_procedural(tmp_path / "other", **(SMALL | {"seed": 4}))
    assert digest(tmp_path / "other")["reid_raw.json"] != digest(built)["reid_raw.json"]


def test_pools_share_nobody_whatever_the_seeds():
    pools = {
        pool: {
            p.identity.signature()
            for seed in range(3)
            for p in draw_identities(np.random.default_rng(seed), 200, pool, 0.4)
        }
        for pool in ("main", "pretrain")
    }
    assert not pools["main"] & pools["pretrain"]


def test_people_are_distinct_and_possible(people):
    assert len({p.identity.signature() for p in people}) == len(people) == 300
    assert all(is_valid(p.identity) for p in people)


def test_twins_differ_in_one_slot_or_a_swap(people):
    twins = [p for p in people if p.twin is not None]
    assert len(twins) == 120
    for p in twins:
        other = people[p.twin].identity
        assert people[people[p.twin].twin] is p
        differing = [f.name for f in fields(other) if getattr(other, f.name) != getattr(p.identity, f.name)]
        assert sorted(differing) == sorted(p.differs)
        if len(differing) == 2:
            a, b = differing
            assert (getattr(other, a), getattr(other, b)) == (getattr(p.identity, b), getattr(p.identity, a))
        else:
            assert len(differing) == 1


@pytest.mark.parametrize("view", VIEWS)
def test_twins_can_be_told_apart_in_every_view(people, view):
    for p in people:
        if p.twin is not None:
            pictures = [
                np.asarray(render_person(i, np.random.default_rng(0), 0.0, view=view, camera="cam_a"), dtype=int)
                for i in (p.identity, people[p.twin].identity)
            ]
            changed = np.abs(pictures[0] - pictures[1]).max(axis=2) > 25
            assert changed.sum() >= 15, (p.differs, p.identity)


def test_twins_share_a_split_and_splits_share_nobody(built):
    splits: dict[str, dict[int, dict]] = {}
    for record in json.loads((built / "reid_raw.json").read_text()):
        splits.setdefault(record["split"], {})[record["id"]] = record
    signatures = [json.dumps(r["attributes"], sort_keys=True) for ids in splits.values() for r in ids.values()]
    assert len(set(signatures)) == len(signatures)
    for ids in splits.values():
        for record in ids.values():
            nearest = min(
                sum(record["attributes"][k] != other["attributes"][k] for k in record["attributes"])
                for other in ids.values()
                if other is not record
            )
            if record["is_twin"]:
                assert nearest <= 2


def test_layout_is_cuhk_pedes(built):
    records = json.loads((built / "reid_raw.json").read_text())
    assert len(records) == 14 * 3
    assert [r["id"] for r in records] == [1 + k // 3 for k in range(len(records))]
    assert [r["split"] for r in records] == ["train"] * 24 + ["val"] * 6 + ["test"] * 12
    for record in records:
        assert {"split", "captions", "file_path", "processed_tokens", "id"} <= set(record)
        assert len(record["captions"]) == len(record["processed_tokens"]) == 2
        with Image.open(built / "imgs" / record["file_path"]) as image:
            image.load()
            assert (image.size, image.mode, image.format) == ((64, 128), "RGB", "JPEG")


def test_captions_say_no_wrong_colour(captions):
    seen = 0
    for person, caption in captions:
        tokens = words(caption)
        for k, token in enumerate(tokens):
            slot = SLOT_OF_NOUN.get(token)
            # "leather shoes", "folded umbrella": the colour stands up to three words before its noun.
            for back in range(1, 4):
                word = tokens[k - back] if slot and k >= back else ""
                if word in {"a", "an", "and", "with", "of"} or word in SLOT_OF_NOUN:
                    break
                if word in COLOUR_OF_WORD:
                    allowed = {getattr(person.identity, slot)}
                    if slot == "upper_colour":  # "a red and white striped shirt"
                        allowed.add(person.identity.pattern_colour)
                    assert COLOUR_OF_WORD[word] in allowed, (caption, person.identity)
                    seen += 1
                    break
    assert seen > 3 * len(captions)


def test_what_tells_twins_apart_is_said(captions):
    for person, caption in captions:
        said = {COLOUR_OF_WORD.get(w) for w in words(caption)}
        for slot in person.differs:
            if slot.endswith("colour"):
                assert getattr(person.identity, slot) in said, (slot, caption)


def test_captions_name_nothing_that_is_not_there(captions):
    for person, caption in captions:
        said = set(words(caption))
        if person.identity.bag == "none":
            assert not said & set(NOUN_SLOTS["bag_colour"].split()), caption
        if person.identity.hat == "none":
            assert not said & {"cap", "hat", "beanie"}, caption
        if person.identity.glasses == "none":
            assert not said & {"glasses", "sunglasses", "eyeglasses", "spectacles"}, caption
        assert bool(said & {"his", "he"}) <= (person.identity.sex == "man"), caption


def test_caption_lengths_are_like_cuhk_pedes(captions):
    lengths = np.array([len(words(c)) for _, c in captions])
    assert 21 <= lengths.mean() <= 26
    assert lengths.min() >= 8
    assert lengths.max() <= 50
    assert np.mean((lengths >= 12) & (lengths <= 40)) > 0.95


def test_lexicon_tags_every_noun_and_adjective_of_the_captions(captions):
    lexicon = json.loads((Path(cada_plugin.__file__).parent / "text/lexicon.json").read_text())
    tagged = [w for tag in ("JJ", "NN", "NNS") for w in lexicon[tag]]
    assert len(tagged) == len(set(tagged)) >= 300
    unknown = {w for _, c in captions for w in words(c)} - set(tagged) - FUNCTION_WORDS
    assert not unknown


def test_interrupted_build_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "describe", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_procedural(tmp_path / "half", **SMALL)
    assert list(tmp_path.iterdir()) == []


DRAW_SLOWLY = """
import sys, time
from cada_plugin.datasets.procedural import build
def describe(*args, **kwargs):
    print("drawing", flush=True)
    time.sleep(600)
build.describe = describe
build.build_procedural(sys.argv[1], seed=3, identities={"train": 2})
"""


@pytest.mark.slow
def test_what_a_killed_build_left_is_removed_by_the_next_one(tmp_path):
    """But not what a living process is writing."""
    root = tmp_path / "set [1]"
    killed, living = (
        subprocess.Popen([sys.executable, "-c", DRAW_SLOWLY, root], stdout=subprocess.PIPE) for _ in range(2)
    )
    try:
        for process in (killed, living):
            assert process.stdout.readline() == b"drawing\n"
        both = set(tmp_path.glob(".*.partial"))
        assert len(both) == 2
        killed.kill()
        killed.wait()
        build_procedural(root, **SMALL)
        (left,) = tmp_path.glob(".*.partial")
        assert {path.name for path in tmp_path.iterdir()} == {"set [1]", left.name, f"{left.name}.lock"}
        assert (left / "imgs").is_dir()
        living.kill()
        living.wait()
        build_procedural(root, **SMALL)  # it is drawn already
        assert list(tmp_path.iterdir()) == [root]
    finally:
        for process in (killed, living):
            process.kill()
            process.wait()
            process.stdout.close()


def test_second_build_is_a_no_op(built):
    before = {p: p.stat().st_mtime_ns for p in built.rglob("*")}
    build_procedural(built, **SMALL)
    assert {p: p.stat().st_mtime_ns for p in built.rglob("*")} == before


def test_other_arguments_in_the_same_folder_are_refused(built):
    with pytest.raises(ConfigError, match=r"nuisance: there 0.5, asked for 0.9.*another data_root"):
        build_procedural(built, **SMALL, nuisance=0.9)


def test_a_users_folder_is_not_overwritten(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="not a folder of procedural pedestrians"):
        build_procedural(tmp_path, **SMALL)
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "change",
    [
        {"identities": {"trian": 3}},
        {"nuisance": 2},
        {"pool": "spare"},
        {"twin_fraction": -1},
        {"images_per_identity": 0},
    ],
)
def test_impossible_arguments_are_refused_before_any_work(tmp_path, change):
    with pytest.raises(ConfigError):
        build_procedural(tmp_path / "new", **(SMALL | change))
    assert list(tmp_path.iterdir()) == []
