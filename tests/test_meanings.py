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
        ("red coat and black shoes", "upper", {"colour": {"red", "black"}, "upper": {"coat"}}),
        ("striped", None, {"pattern": {"striped"}}),
    ],
)
def test_a_phrase_speaks_of_one_thing(phrase, thing, says):
    assert meaning(phrase) == Meaning(thing, {kind: frozenset(groups) for kind, groups in says.items()})
