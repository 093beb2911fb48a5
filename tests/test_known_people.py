"""What captions tell of a person: which phrases are true, and what several captions are all silent about."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from gallery_factory import BUILD
from naive_judge import is_true

from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.datasets.procedural.partial import procedural_records
from cada_plugin.datasets.procedural.writer import claims_of_phrase
from cada_plugin.portable.meanings import Meaning, phrase_meaning
from cada_plugin.portable.phrases import lexicon_tags, whole_phrase_spans
from cada_plugin.text.known_people import DOUBT, EncodedMeanings, KnownPerson, absent_things, known_people


@pytest.mark.parametrize(
    ("phrase", "known", "expected"),
    [
        ("red coat", ["woman", "long scarlet overcoat"], True),
        ("red coat", ["blue coat"], False),
        ("red coat", ["red jacket"], False),
        ("red coat", ["coat"], None),  # of any colour
        ("coat", ["red coat"], True),
        ("red coat", ["red trousers"], None),  # nothing about what she wears above
        ("red coat", ["black jacket", "red coat"], True),
        ("red coat", ["black jacket", "white shirt"], False),  # one open above the other
        ("red coat", ["black jacket", "coat"], None),
        ("red coat", ["black coat", "coat"], False),  # the same coat
        ("red coat", ["black jacket", "black coat", "long-sleeved coat"], False),
        ("blue coat", ["navy coat"], None),  # perhaps
        ("navy coat", ["dark-blue parka"], True),
        ("cardigan", ["red pullover"], None),
        ("red cardigan", ["blue pullover"], False),
        ("maroon shoes", ["red boots"], None),
        ("long blonde hair", ["long brown hair"], False),
        ("blonde hair", ["fair bun"], True),
        ("black dress", ["black and white dress"], None),
        ("green scarf", ["green scarf"], True),
        ("green scarf", ["pink scarf"], False),
        ("shawl", ["green scarf"], True),
        ("green scarf", ["scarf"], None),
        ("belt", ["green belt"], None),  # nothing would exclude a belt
        ("pedestrian", ["woman"], True),
        ("black bag in her left hand", ["black bag in her right hand"], False),
        ("black bag in her left hand", ["black bag"], None),
        ("black bag in her left hand", ["black bag", "black bag in her right hand"], False),
        ("dark coat", ["blue coat"], None),
        ("dark coat", ["dark coat"], True),
        ("dark coat", ["pale coat"], False),
        ("white coat with black checks", ["white coat with red checks"], False),
        ("white coat with black checks", ["checked white coat"], None),
        ("white coat with black checks", ["black coat"], False),
        ("striped", ["striped"], None),  # of what?
        ("woman", [], None),
    ],
)
def test_phrases_confirm_or_exclude_each_other(phrase, known, expected):
    person = KnownPerson([phrase_meaning(one.split()) for one in known], frozenset())
    one = phrase_meaning(phrase.split())
    assert person.judge(EncodedMeanings.of([one])).tolist() == [{True: 1, False: 0, None: -1}[expected]]
    assert is_true(one, person) is expected


def test_all_phrases_are_judged_as_one_by_one():
    """Of people with up to six phrases, made of words of few kinds, so that many confirm or contradict each other."""
    random = np.random.default_rng(0)
    words = ["red", "maroon", "blue", "navy", "long-sleeved", "coat", "parka", "sweater", "cardigan", "boots", "scarf"]
    words += ["blonde", "ginger", "long", "hair", "ponytail", "bag", "tote", "left", "and", "dark", "with", "checks"]
    phrases = [phrase_meaning(random.choice(words, random.integers(1, 5)).tolist()) for _ in range(300)]
    counts = Counter()
    for _ in range(60):
        known = [phrases[place] for place in random.integers(0, 300, random.integers(0, 7))]
        lacks = frozenset({"bag", "hair"} - {one.thing for one in known})
        person = KnownPerson(known, lacks)
        expected = [is_true(phrase, person) for phrase in phrases]
        counts.update(expected)
        assert person.judge(EncodedMeanings.of(phrases)).tolist() == [-1 if one is None else one for one in expected]
    assert min(counts[verdict] for verdict in (True, False, None)) > 300
    assert KnownPerson([], frozenset()).judge(EncodedMeanings.of([])).shape == (0,)


def test_verdicts_agree_with_the_attributes_of_procedural_people(tmp_path):
    """Of people whose attributes are known: what a caption says, judged by the captions of another picture."""
    build = {"world": "camera", "seed": 5, "identities": {"train": 2, "val": 2, "test": 60}, "images_per_identity": 1}
    records = procedural_records(ProceduralPEDES(data_root=str(tmp_path), split="test", build=build))[0]

    def spoken(caption: str) -> list[Meaning]:
        words = caption.lower().replace(",", "").replace(".", "").split()
        return [phrase_meaning(words[start:stop]) for start, stop in whole_phrase_spans(words, lexicon_tags(words))]

    right = {True: [], False: []}
    for record in records:
        claims = [claims_of_phrase(record["claims"][0], phrase["unit"]) for phrase in record["phrases"][0]]
        phrases = [record["captions"][0][phrase["start"] : phrase["stop"]] for phrase in record["phrases"][0]]
        for other in records:
            person = known_people({0: [spoken(caption) for caption in other["captions"]]})[0]
            for claim, phrase in zip(claims, phrases, strict=True):
                spans = spoken(phrase)
                verdict = is_true(spans[0], person) if len(spans) == 1 else None
                if verdict is not None:
                    truth = all(other["attributes"][slot] in values for slot, values in claim.items())
                    right[verdict].append(truth is verdict)
    assert min(map(len, right.values())) > 1000
    assert sum(right[False]) / len(right[False]) > 0.99
    assert sum(right[True]) / len(right[True]) > 0.97


def tell(bag: list[list[int]]) -> dict[int, list[set[str]]]:
    """One person for each list; its captions speak of a bag or do not."""
    return {person: [{"bag"} if told else set() for told in captions] for person, captions in enumerate(bag)}


@pytest.mark.parametrize("captions", [1, 2, 3, 4])
def test_bayes_rule_decides_how_long_a_silence_means_absence(captions):
    silent = [[0] * captions] * 3
    mentioned = tell([[1, 1], [1, 0], *silent])
    again = Fraction(2, 3)  # of three other captions of those with a bag, two speak of it too
    have = Fraction(3, 4 + 3 * captions) / again
    doubt = have * (1 - again) ** captions / (have * (1 - again) ** captions + 1 - have)
    expected = frozenset({"bag"} if doubt < DOUBT else ())
    assert list(absent_things(mentioned).values()) == [frozenset(), frozenset(), *[expected] * 3]
    assert ("bag" in expected) == (captions > 1)


def test_what_all_have_is_never_absent_and_what_is_told_once_means_nothing():
    shoes = {person: [{"shoes"} if (person + caption) % 2 else set() for caption in range(4)] for person in range(40)}
    shoes[40] = [set()] * 4
    assert not any(absent_things(shoes).values())
    assert not any(absent_things(tell([[1, 0, 0], [0, 0, 0], [0, 0, 0]])).values())
    assert absent_things({}) == {}


def test_people_who_carry_nothing_are_told_from_those_of_whom_it_was_not_said():
    random = np.random.default_rng(0)
    carries = random.random(2000) < 0.4
    told = random.random((2000, 5)) < np.where(carries, 0.7, 0.0)[:, None]
    absent = absent_things(tell(told.tolist()))
    found = np.array(["bag" in absent[person] for person in range(2000)])
    assert not found[told.any(1)].any()
    assert found[~told.any(1)].all()
    assert carries[found].mean() < 0.01  # 0.4 x 0.3^5 = 0.1 % of all


@pytest.mark.slow
def test_procedural_people_lack_what_their_captions_never_tell(tmp_path):
    """The true attributes say whether it is so."""
    build = BUILD | {"identities": {"train": 60, "val": 2, "test": 20}}
    dataset = ProceduralPEDES(data_root=str(tmp_path / "people"), split="train", build=build)
    told: dict[int, list[set[str]]] = {}
    has: dict[int, dict] = {}
    for record in procedural_records(dataset)[0]:
        has[record["id"]] = record["attributes"]
        for caption in record["captions"]:
            words = caption.lower().replace(",", " ").replace(".", " ").split()
            spans = whole_phrase_spans(words, lexicon_tags(words))
            things = {phrase_meaning(words[start:end]).thing for start, end in spans} - {None}
            told.setdefault(record["id"], []).append(things)
    absent = absent_things(told)
    lacking = [
        (person, thing) for person, found in absent.items() for thing in ("bag", "hat", "held") if thing in found
    ]
    assert len(lacking) > 40
    assert np.mean([has[person][thing] in (None, "none") for person, thing in lacking]) > 0.9
