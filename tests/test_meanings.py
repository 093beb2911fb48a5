"""What phrases say."""

import pytest

from cada_plugin.portable.meanings import Meaning, phrase_meaning


def meaning(text: str) -> Meaning:
    return phrase_meaning(text.split())


@pytest.mark.parametrize(
    ("phrase", "thing", "says"),
    [
        ("dark-blue parka", "upper", {"colour": {"navy"}, "upper": {"coat"}}),
        ("black and white t-shirt", "upper", {"colour": {"black", "white"}, "upper": {"t-shirt"}}),
        ("green scarf", "scarf", {"colour": {"green"}}),
        ("woman", "sex", {"sex": {"woman"}}),
        ("left shoulder", "shoulder", {"side": {"left"}}),
        ("short brown hair", "hair", {"length": {"short"}, "colour": {"brown"}}),
        ("fair bun", "hair", {"hair": {"bun"}, "colour": {"blonde"}}),
        ("blonde woman", "sex", {"sex": {"woman"}}),
        ("ginger hair", "hair", {"colour": {"red"}}),
        ("black footwear", "shoes", {"colour": {"black"}}),
        ("red bag at her left hip", "bag", {"colour": {"red"}, "side": {"left"}}),
        ("tote over his shoulder", "bag", {"bag": {"tote"}}),  # not a tote above something
        ("red shoulder bag", "bag", {"colour": {"red"}, "bag": {"satchel"}}),
        ("pink scarf around her neck", "scarf", {"colour": {"pink"}}),
        ("shawl", "scarf", {}),
        ("dark sun hat", "hat", {"shade": {"dark"}, "hat": {"brimmed"}}),
        ("knit hat", "hat", {"hat": {"beanie"}}),
        (
            "white coat with black and red squares",
            "upper",
            {
                "colour": {"white"},
                "upper": {"coat"},
                "pattern": {"checked"},
                "colour of marks": {"black", "red"},
            },
        ),
        (
            "bag with red dots in her left hand",
            "bag",
            {"colour of marks": {"red"}, "pattern": {"dotted"}, "side": {"left"}},
        ),
        ("black checks", "checks", {"colour": {"black"}}),
        ("pedestrian", "sex", {}),
        ("red coat and black shoes", "upper", {"colour": {"red", "black"}, "upper": {"coat"}}),
        ("striped", None, {"pattern": {"striped"}}),
    ],
)
def test_a_phrase_speaks_of_one_thing(phrase, thing, says):
    assert meaning(phrase) == Meaning(thing, {kind: frozenset(groups) for kind, groups in says.items()})


def test_what_has_neither_a_meaning_nor_a_name_tells_nothing():
    told = {one: meaning(one).tells for one in ("red belt", "scarf", "pedestrian", "belt", "striped", "very")}
    assert told == {"red belt": True, "scarf": True, "pedestrian": True, "belt": False, "striped": True, "very": False}
