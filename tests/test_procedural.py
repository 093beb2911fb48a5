"""The procedural people: determinism, disjoint people, regions that hold the pixels, true claims, oracles, slices."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cada_plugin
from cada_plugin.datasets.procedural import build_procedural, record
from cada_plugin.datasets.procedural.oracle import Oracle
from cada_plugin.datasets.procedural.palette import PAINT, PART_OF_SLOT
from cada_plugin.datasets.procedural.people import Person, is_consistent, sample_people
from cada_plugin.datasets.procedural.photo import HEIGHT, VIEWS, WIDTH, draw_scene, locate, take_photo
from cada_plugin.datasets.procedural.slices import RARE
from cada_plugin.datasets.procedural.worlds import CAMERA, WEB, WORLDS
from cada_plugin.datasets.procedural.writer import claims_of_phrase, describe
from cada_plugin.errors import AnnotationError, ConfigError
from cada_plugin.evaluation.ranking import rank_metrics

SMALL = {"seed": 3, "identities": {"train": 30, "val": 2, "test": 12}}
COLOUR_SLOTS = (
    "upper_colour",
    "lower_colour",
    "shoe_colour",
    "bag_colour",
    "hat_colour",
    "scarf_colour",
    "held_colour",
)
MIRROR = {"left": "right", "right": "left", "none": "none"}
# The digest of all captions and claims of SMALL in each world. If it changes, VERSION must be increased.
DIGESTS = {
    "web": "476f7cf8a0a3b4cc",
    "camera": "80fbbfef74a256fa",
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("worlds")
    for world in WORLDS:
        build_procedural(folder / world, world=world, **SMALL)
    return {world: folder / world for world in WORLDS}


@pytest.fixture(scope="module")
def records(roots) -> dict[str, list[dict]]:
    return {world: json.loads((root / "reid_raw.json").read_text()) for world, root in roots.items()}


@pytest.fixture(scope="module", params=WORLDS)
def sampled(request):
    world = WORLDS[request.param]
    return world, sample_people(np.random.default_rng(5), 200, world, 0.5)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())


def test_same_arguments_write_the_same_bytes(roots, tmp_path):
    for world, root in roots.items():
        build_procedural(tmp_path / world, world=world, **SMALL)
        files = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
        assert files == sorted(p.relative_to(tmp_path / world) for p in (tmp_path / world).rglob("*") if p.is_file())
        assert all((root / name).read_bytes() == (tmp_path / world / name).read_bytes() for name in files)


@pytest.mark.parametrize("world", WORLDS)
def test_the_version_is_that_of_these_captions(records, world):
    told = json.dumps([(r["attributes"], r["captions"], r["claims"]) for r in records[world]], sort_keys=True)
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == DIGESTS[world]


def test_nobody_is_in_both_worlds_or_in_two_splits(records):
    for seed in range(3):
        people = {
            name: {p.person.signature() for p in sample_people(np.random.default_rng(seed), 200, world, 0.4)}
            for name, world in WORLDS.items()
        }
        assert not people["web"] & people["camera"]
    for of_world in records.values():
        described = {r["id"]: json.dumps({**r["attributes"], "skin": ""}, sort_keys=True) for r in of_world}
        assert len(set(described.values())) == len(described) == 44


def test_people_of_a_split_are_the_same_whatever_other_splits_are_drawn(records, tmp_path):
    """Otherwise the test people of one set would be the training people of another with the same seed."""
    build_procedural(tmp_path / "test", world="web", seed=SMALL["seed"], identities={"test": 12})
    alone = json.loads((tmp_path / "test/reid_raw.json").read_text())
    attributes = {
        split: [r["attributes"] for r in records["web"] if r["split"] == split] for split in ("train", "test")
    }
    assert [r["attributes"] for r in alone] == attributes["test"]
    assert not any(person in attributes["train"] for person in attributes["test"])


def test_twins_differ_as_their_kind_says(sampled):
    _, people = sampled
    twins = [p for p in people if p.twin is not None]
    assert len(twins) == 100
    assert all(is_consistent(p.person) for p in people)
    for p in twins:
        assert people[people[p.twin].twin] is p
        ours, other = p.person.as_dict(), people[p.twin].person.as_dict()
        differing = sorted(slot for slot in ours if ours[slot] != other[slot])
        assert differing == sorted(p.differs)
        if p.twin_kind == "swapped":
            a, b = differing
            assert (other[a], other[b]) == (ours[b], ours[a])
        elif p.twin_kind == "mirrored":
            assert all(slot.endswith("_side") and other[slot] == MIRROR[ours[slot]] for slot in differing)
        else:
            assert (p.twin_kind, len(differing)) == ("changed", 1)


def clean(world):
    """The world under an ideal camera."""
    look = replace(world.look, light=(1, 1), contrast=(1, 1), cast=0, cast_noise=0, blur=(0, 0), noise=(0, 0))
    return replace(world, look=look)


@pytest.mark.parametrize("view", VIEWS)
def test_a_visible_region_shows_the_colour_of_its_attribute(sampled, view):
    """Counted in the final picture under an ideal camera: enough pixels of the box look most like that colour, in the
    light or in the shade."""
    world, people = sampled
    names, paints = list(PAINT), np.array(list(PAINT.values()))
    paints = np.concatenate([paints, paints * 0.76])
    camera = next(iter(world.look.cameras))
    checked = 0
    for number, p in enumerate(people[:60]):
        photo = take_photo(p.person, clean(world), np.random.default_rng(number), view=view, camera=camera)
        pixels = np.asarray(photo.image, dtype=int)
        for slot in COLOUR_SLOTS:
            region, colour = photo.regions.get(PART_OF_SLOT[slot]), getattr(p.person, slot)
            if region is None or not region.visible or colour == "none":
                continue
            left, top, right, bottom = region.box
            inside = pixels[top:bottom, left:right].reshape(-1, 1, 3)
            nearest = np.abs(inside - paints).sum(2).argmin(1) % len(names)
            assert (nearest == names.index(colour)).sum() >= 0.15 * region.pixels, (slot, p.person, region)
            checked += 1
    assert checked > 150


@pytest.mark.parametrize("slot", COLOUR_SLOTS)
def test_another_colour_changes_the_region_and_nothing_else(slot):
    """A strict test of where regions are, with people and obstacles in front."""
    part, seen, hidden = PART_OF_SLOT[slot], 0, 0
    for number, p in enumerate(sample_people(np.random.default_rng(8), 60, CAMERA, 0.0)):
        old = getattr(p.person, slot)
        if old == "none":
            continue
        others = (replace(p.person, **{slot: colour}) for colour in ("red", "blue") if colour != old)
        scenes = [
            draw_scene(person, CAMERA, np.random.default_rng(number), VIEWS[number % 3])
            for person in (p.person, next(others))
        ]
        before, after = (np.asarray(scene.picture.reduce(2), dtype=int) for scene in scenes)
        regions, _ = locate(p.person, np.asarray(scenes[0].labels)[::2, ::2], VIEWS[number % 3])
        rows, columns = np.nonzero(np.abs(before - after).max(2) > 24)
        if regions[part].box is None:
            hidden += 1
            assert len(rows) <= 4
            continue
        left, top, right, bottom = regions[part].box
        seen += 1
        assert len(rows) >= 0.3 * regions[part].pixels
        inside = (columns >= left - 1) & (columns <= right) & (rows >= top - 1) & (rows <= bottom)
        assert inside.mean() > 0.95  # the rest are slivers between other parts, of half a pixel
    assert seen >= 8


def test_left_is_where_the_person_has_it():
    for p in sample_people(np.random.default_rng(9), 120, CAMERA, 0.0):
        if p.person.bag not in ("suitcase", "handbag"):
            continue
        for view, factor in (("front", 1), ("back", -1)):
            look = replace(CAMERA.look, passer_by=0, obstacle=0)
            scene = draw_scene(p.person, replace(CAMERA, look=look), np.random.default_rng(1), view)
            regions, _ = locate(p.person, np.asarray(scene.labels)[::2, ::2], view)
            middle = {part: (regions[part].box[0] + regions[part].box[2]) / 2 for part in ("bag", "upper")}
            side = 1 if p.person.bag_side == "left" else -1
            assert (middle["bag"] - middle["upper"]) * side * factor > 0


def test_records_say_what_the_picture_is(roots, records):
    for world, of_world in records.items():
        assert [r["split"] for r in of_world] == ["train"] * 90 + ["val"] * 6 + ["test"] * 36
        for r in of_world:
            with Image.open(roots[world] / "imgs" / r["file_path"]) as image:
                assert image.size == (WIDTH, HEIGHT)
            assert len(r["captions"]) == len(r["claims"]) == len(r["slices"]) == 2
            assert not r["regions"].keys() & {*r["seen_absent"]}
            for region in r["regions"].values():
                if region["box"]:
                    left, top, right, bottom = region["box"]
                    assert 0 <= left < right <= WIDTH
                    assert 0 <= top < bottom <= HEIGHT
                    assert region["pixels"] <= (right - left) * (bottom - top)
                else:
                    assert (region["pixels"], region["visible"]) == (0, False)


def test_claims_are_true_and_said(sampled):
    world, people = sampled
    rng = np.random.default_rng(6)
    meanings = world.speech.words
    for number, p in enumerate(people):
        shown = {*PART_OF_SLOT.values()}
        caption = describe(p.person, world, rng, view=VIEWS[number % 3], shown=shown, must_mention=p.differs)
        assert caption.claims
        said = set(words(caption.text))
        for slot, meant in caption.claims.items():
            assert getattr(p.person, slot) in meant
            assert any(
                meant == values and set(word.split()) <= said
                for kind in meanings.values()
                for word, (_, values) in kind.items()
            ), (slot, meant, caption.text)
        for slot in p.differs:  # exactly, so that it tells the twins apart
            if slot in caption.claims:
                assert caption.claims[slot] == (getattr(p.person, slot),)
            assert slot in caption.claims or world is WEB


def test_a_phrase_holds_the_words_of_its_claims_and_of_no_other(sampled):
    """Each phrase is looked up in the vocabulary anew: a word for each of its claims stands in it, and no colour word
    that it does not claim. Each claim belongs to exactly one phrase."""
    world, people = sampled
    rng, seen = np.random.default_rng(7), set()
    colours = {word: values for word, (_, values) in world.speech.words["colour"].items()}
    for number, p in enumerate(people):
        caption = describe(p.person, world, rng, view=VIEWS[number % 3], shown={*PART_OF_SLOT.values()})
        claimed = []
        for phrase in caption.phrases:
            text = caption.text[phrase.start : phrase.stop]
            claims = claims_of_phrase(caption.claims, phrase.unit)
            assert text == " ".join(text.split())
            assert text.isprintable()
            assert claims, (phrase, caption.text)
            claimed += claims
            seen.add(phrase.unit)
            for slot, meant in claims.items():
                assert any(
                    meant == values and re.search(rf"\b{word}\b", text)
                    for kind in world.speech.words.values()
                    for word, (_, values) in kind.items()
                ), (slot, meant, text)
            if phrase.unit != "hair":  # whose colours are other words, some spelt alike
                meant = [values for slot, values in claims.items() if slot.endswith("_colour")]
                assert all(colours[word] in meant for word in words(text) if word in colours), (text, claims)
        assert sorted(claimed) == sorted(caption.claims)
    everything = {"sex", "hair", "upper", "lower", "shoes", "bag", "hat", "glasses", "held"}
    assert seen >= everything if world is WEB else seen == everything | {"inner", "scarf"}


def test_the_camera_world_has_words_that_the_web_never_reads(records):
    counts = {w: Counter(word for r in records[w] for c in r["captions"] for word in words(c)) for w in WORLDS}
    new = sum(count for word, count in counts["camera"].items() if word not in counts["web"])
    assert new / counts["camera"].total() > 0.3
    mean = {w: np.mean([len(words(c)) for r in records[w] for c in r["captions"]]) for w in WORLDS}
    assert 9 <= mean["web"] <= 14
    assert 21 <= mean["camera"] <= 27


def test_every_word_is_in_the_vocabulary_and_every_attribute_word_in_the_lexicon(records):
    folder = Path(cada_plugin.__file__).parent / "text"
    known = set((folder / "procedural_vocab.txt").read_text().split("\n"))
    lexicon = {word for tagged in json.loads((folder / "lexicon.json").read_text()).values() for word in tagged}
    for world in WORLDS.values():
        for kind in world.speech.words.values():
            for word in " ".join(kind).split():
                assert word in lexicon
                assert set(re.split("-", word)) <= known
    for of_world in records.values():
        assert {w for r in of_world for c in r["captions"] for w in re.split(r"[^a-z]+", c.lower())} - {""} <= known


# ---------------------------------------------------------------- oracles


def test_the_reader_scores_what_counting_gives(records):
    """R@1 of a reader that knows everything: one over the number of people of whom all claims are true."""
    test = [  # claims of short captions, so that several people fit
        r | {"claims": [dict(list(claims.items())[:2]) for claims in r["claims"]]}
        for r in records["camera"]
        if r["split"] == "test"
    ]
    people = {r["id"]: r["attributes"] for r in test}
    chances = [
        1 / sum(all(person[slot] in meant for slot, meant in claims.items()) for person in people.values())
        for r in test
        for claims in r["claims"]
    ]
    assert 0.1 < np.mean(chances) < 0.9
    oracle = Oracle(test)
    ranked = rank_metrics(oracle.scores, oracle.query_ids, oracle.gallery_ids)
    # ties are ordered at random: within four standard deviations of the expected share
    deviation = np.sqrt(np.sum(np.array(chances) * (1 - np.array(chances)))) / len(chances)
    assert abs(ranked["R1"] / 100 - np.mean(chances)) < 4 * deviation
    for number, chance in enumerate(chances):
        assert (oracle.scores(number, number + 1) > -1).sum() == round(3 / chance)


def test_the_viewer_knows_only_what_is_shown():
    """Two people who differ in what their pictures hide: it takes the one whose value is more common."""
    base = {field.name: "none" for field in fields(Person)} | {"sex": "man", "upper_colour": "red"}
    shown = {"upper": {"box": [0, 0, 1, 1], "pixels": 20, "visible": True}}
    claims = [{"upper_colour": ("red",), "lower_colour": ("blue",)}]

    def entry(number, lower, region):
        attributes = base | {"lower_colour": lower}
        return {"id": number, "attributes": attributes, "regions": shown | region, "seen_absent": [], "claims": claims}

    hidden, seen = ({"lower": {"box": [0, 0, 1, 1], "pixels": 20, "visible": v}} for v in (False, True))
    records = [entry(1, "blue", hidden), entry(2, "green", hidden), entry(3, "green", seen), entry(4, "blue", seen)]
    (scores,) = Oracle(records, visible_only=True).scores(0, 1).tolist()
    assert scores[0] == pytest.approx(np.log(0.5), abs=1e-4)
    assert scores[1] == pytest.approx(np.log(0.5), abs=1e-4)
    assert scores[2] == pytest.approx(-50, abs=1e-4)
    assert scores[3] == pytest.approx(0, abs=1e-4)
    (scores,) = Oracle(records).scores(0, 1).tolist()
    assert np.round(scores).tolist() == [0, -50, -50, 0]


def test_an_oracle_refuses_records_without_claims():
    with pytest.raises(AnnotationError, match="build=dict"):
        Oracle([{"id": 1}])


# ---------------------------------------------------------------- slices


def test_slices_are_right_by_a_naive_check(records):
    found = Counter()
    for of_world in records.values():
        training = [set(words(c)) for r in of_world if r["split"] == "train" for c in r["captions"]]
        people = {r["id"]: r["attributes"] for r in of_world}
        for r in of_world:
            for caption, claims, slices in zip(r["captions"], r["claims"], r["slices"], strict=True):
                slices = set(slices)
                found.update(slices)
                differing = [
                    {slot for slot in other if other[slot] != r["attributes"][slot]} - {"skin"}
                    for number, other in people.items()
                    if number != r["id"]
                ]
                if "twins" in slices:
                    assert set(r["twin_differs"]) in differing
                assert ("twins" in slices) == (r["twin_kind"] != "none")
                assert ("binding" in slices) == (r["twin_kind"] == "swapped")
                assert ("side" in slices) == (r["twin_kind"] == "mirrored")
                parts = {PART_OF_SLOT.get(slot) for slot in claims}
                assert ("small" in slices) == (len(parts & {"shoes", "glasses", "scarf", "held", "hat"}) > 1)
                unseen = [p for p in parts if p in r["regions"] and not r["regions"][p]["visible"]]
                assert ("occluded" in slices) == bool(unseen)
                rare = [w for w in words(caption) if sum(w in c for c in training) <= RARE * len(training)]
                assert ("rare" in slices) == bool(rare)
                assert ("names hat" in slices) == bool({"hat", "hat_colour"} & claims.keys())
                assert ("names side" in slices) == bool({"bag_side", "held_side"} & claims.keys())
                assert ("names sleeve" in slices) == ("sleeve" in claims)
    assert {"twins", "binding", "side", "small", "occluded", "rare", "names inner"} <= found.keys()


# ---------------------------------------------------------------- folders and arguments


def test_interrupted_build_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "describe", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_procedural(tmp_path / "half", **SMALL)
    assert list(tmp_path.iterdir()) == []


DRAW_SLOWLY = """
import sys, time
from cada_plugin.datasets.procedural import build_procedural, record
def describe(*args, **kwargs):
    print("drawing", flush=True)
    time.sleep(600)
record.describe = describe
build_procedural(sys.argv[1], seed=3, identities={"train": 2})
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


def test_second_build_is_a_no_op(roots):
    before = {p: p.stat().st_mtime_ns for p in roots["web"].rglob("*")}
    build_procedural(roots["web"], world="web", **SMALL)
    assert {p: p.stat().st_mtime_ns for p in roots["web"].rglob("*")} == before


def test_a_users_folder_is_not_overwritten(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="not a folder of procedural pedestrians"):
        build_procedural(tmp_path, **SMALL)
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "change",
    [
        {"identities": {"trian": 3}},
        {"world": "street"},
        {"twin_fraction": 2},
        {"twin_fraction": -1},
        {"images_per_identity": 0},
    ],
)
def test_impossible_arguments_are_refused_before_any_work(tmp_path, change):
    with pytest.raises(ConfigError):
        build_procedural(tmp_path / "new", **(SMALL | change))
    assert list(tmp_path.iterdir()) == []


def test_another_world_in_the_same_folder_is_refused(roots):
    with pytest.raises(ConfigError, match="world: there 'web', asked for 'camera'"):
        build_procedural(roots["web"], world="camera", **SMALL)
