"""What phrases say, whether others confirm or exclude it, and how common it is."""

from itertools import chain
from math import exp, log

import pytest

from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.datasets.procedural.partial import procedural_records
from cada_plugin.datasets.procedural.writer import claims_of_phrase
from cada_plugin.portable.meanings import KINDS, Meaning, count_meanings, is_true, log_share, phrase_meaning
from cada_plugin.portable.phrases import lexicon_tags, phrase_spans


def meaning(text: str) -> Meaning:
    return phrase_meaning(text.split())


@pytest.mark.parametrize(
    ("phrase", "thing", "says"),
    [
        ("navy coat", "upper", {"colour": {"blue"}, "upper": {"coat"}}),
        ("black and white t-shirt", "upper", {"colour": {"black", "white"}, "upper": {"t-shirt"}}),
        ("green scarf", "scarf", {"colour": {"green"}}),
        ("woman", "sex", {"sex": {"woman"}}),
        ("left shoulder", "shoulder", {"side": {"left"}}),
        ("short brown hair", "hair", {"length": {"short"}, "colour": {"brown"}}),
        ("striped", None, {"pattern": {"striped"}}),
    ],
)
def test_a_phrase_speaks_of_one_thing(phrase, thing, says):
    assert meaning(phrase) == Meaning(thing, {kind: frozenset(groups) for kind, groups in says.items()})


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
        ("black dress", ["black and white dress"], None),
        ("green scarf", ["green scarf"], True),
        ("green scarf", ["pink scarf"], False),
        ("scarf", ["green scarf"], None),  # nothing would exclude a scarf
        ("striped", ["striped"], None),  # of what?
        ("woman", [], None),
    ],
)
def test_phrases_confirm_or_exclude_each_other(phrase, known, expected):
    assert is_true(meaning(phrase), [meaning(one) for one in known]) is expected


def test_verdicts_agree_with_the_attributes_of_procedural_people(tmp_path):
    """Of people whose attributes are known: what a caption says, judged by the captions of another picture."""
    build = {"world": "camera", "seed": 5, "identities": {"train": 2, "val": 2, "test": 60}, "images_per_identity": 1}
    records = procedural_records(ProceduralPEDES(data_root=str(tmp_path), split="test", build=build))[0]

    def spoken(caption: str) -> list[Meaning]:
        words = caption.lower().replace(",", "").replace(".", "").split()
        return [phrase_meaning(words[start:stop]) for start, stop in phrase_spans(lexicon_tags(words))]

    right = {True: [], False: []}
    for record in records:
        claims = [claims_of_phrase(record["claims"][0], phrase["unit"]) for phrase in record["phrases"][0]]
        phrases = [record["captions"][0][phrase["start"] : phrase["stop"]] for phrase in record["phrases"][0]]
        for other in records:
            known = list(chain.from_iterable(map(spoken, other["captions"])))
            for claim, phrase in zip(claims, phrases, strict=True):
                spans = spoken(phrase)
                verdict = is_true(spans[0], known) if len(spans) == 1 else None
                if verdict is not None:
                    truth = all(other["attributes"][slot] in values for slot, values in claim.items())
                    right[verdict].append(truth is verdict)
    assert min(map(len, right.values())) > 1000
    assert sum(right[False]) / len(right[False]) > 0.99
    assert sum(right[True]) / len(right[True]) > 0.9


def test_shares_by_hand():
    counts = count_meanings(map(meaning, ["red coat", "scarlet jacket", "blue coat", "red skirt", "woman"]))
    assert counts["upper"] == {"colour": {"red": 2, "blue": 1}, "upper": {"coat": 2, "jacket": 1}}
    colours, uppers = (len(KINDS[kind].split(";")) for kind in ("colour", "upper"))
    assert log_share(meaning("red coat"), counts) == pytest.approx(log(3 / (3 + colours)) + log(3 / (3 + uppers)))
    assert log_share(meaning("green coat"), counts) == pytest.approx(log(1 / (3 + colours)) + log(3 / (3 + uppers)))
    assert log_share(meaning("green scarf"), counts) == pytest.approx(-log(colours))  # nobody has a scarf
    assert log_share(meaning("scarf"), counts) is None


def test_two_colours_are_as_common_as_they_are_alone():
    counts = count_meanings(map(meaning, ["black and white coat", "black coat", "red coat"]))
    assert counts["upper"]["colour"] == {"black": 2, "white": 1, "red": 1}
    every = 4 + len(KINDS["colour"].split(";"))
    of_coats = log_share(meaning("coat"), counts)
    assert log_share(meaning("black and white coat"), counts) == pytest.approx(
        (log(3 / every) + log(2 / every)) / 2 + of_coats
    )
    shares = [log_share(meaning(f"{group.split()[0]} coat"), counts) for group in KINDS["colour"].split(";")]
    assert sum(exp(share - of_coats) for share in shares) == pytest.approx(1)
