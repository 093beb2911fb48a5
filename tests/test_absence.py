"""What several captions of a person are all silent about."""

from fractions import Fraction

import numpy as np
import pytest
from gallery_factory import BUILD

from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.datasets.procedural.partial import procedural_records
from cada_plugin.portable.meanings import phrase_meaning
from cada_plugin.portable.phrases import lexicon_tags
from cada_plugin.text import phrase_spans
from cada_plugin.text.absence import DOUBT, absent_things


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
            spans = phrase_spans(lexicon_tags(words))
            things = {phrase_meaning(words[start:end]).thing for start, end in spans} - {None}
            told.setdefault(record["id"], []).append(things)
    absent = absent_things(told)
    lacking = [
        (person, thing) for person, found in absent.items() for thing in ("bag", "hat", "held") if thing in found
    ]
    assert len(lacking) > 40
    assert np.mean([has[person][thing] in (None, "none") for person, thing in lacking]) > 0.9
