"""What attribute phrases say: "a dark-blue parka" says of an upper garment that it is a navy coat. Needs no torch."""

from collections.abc import Sequence
from typing import NamedTuple

from cada_plugin.portable.phrases import lexicon_tags

KINDS: dict[str, str] = {
    "colour": """
        black jet-black blackish; white / cream ivory off-white; gray grey silver grayish; orange;
        red scarlet crimson reddish / maroon burgundy; yellow golden mustard; green emerald greenish / olive;
        blue cobalt azure bluish / navy dark-blue / light-blue; teal turquoise; purple violet / lavender lilac;
        pink rose / magenta fuchsia; brown chocolate chestnut / tan beige khaki""",
    "upper": """
        t-shirt tee tshirt; shirt blouse; sweater jumper pullover / cardigan; hoodie sweatshirt; jacket windbreaker;
        coat overcoat parka; dress gown; polo; blazer; vest waistcoat""",
    "lower": "trousers slacks chinos pants; jeans denims; shorts; skirt; leggings tights; joggers sweatpants",
    "shoes": "trainers sneakers; boots; loafers moccasins; sandals; heels; slippers",
    "bag": "rucksack backpack knapsack; satchel messenger; handbag purse; tote; suitcase luggage; briefcase",
    "hat": "cap visor; beanie; helmet",
    "held": "phone smartphone cellphone; umbrella parasol; bottle; book notebook; cup; folder",
    "glasses": "glasses spectacles eyeglasses; sunglasses shades",
    "hair": "ponytail pigtail; bun; bald",
    "length": "short cropped; long",
    "side": "left; right",
    "pattern": "striped; checked plaid checkered; dotted spotted polka-dot; plain; floral",
    "sleeve": "long-sleeved; short-sleeved; sleeveless",
    "order": "over; under",
    "sex": "man male gentleman guy; woman lady female girl",
}
"""Kinds of words, in groups separated by semicolons. Words of different groups exclude each other; within a group they
may be true of the same thing, so one never replaces another. Only those that no slash separates mean the same."""

_HAIR_COLOURS = {"blonde": "blonde", "blond": "blonde", "fair": "blonde", "ginger": "red", "auburn": "red"}
_NAMES = {"garment": "upper", "top": "upper", "footwear": "shoes", "headwear": "hat"}
_NAMES |= {name: name for name in ("shoes", "hat", "bag")}  # also before "in her left hand"
_THINGS = ("sex", "upper", "lower", "shoes", "bag", "hat", "held", "glasses", "hair")  # the other kinds say how one is

_WORDS = [
    (word, kind, group.split()[0], same.split()[0])
    for kind, groups in KINDS.items()
    for group in groups.split(";")
    for same in group.split("/")
    for word in same.split()
]
GROUP_OF = {word: (kind, group) for word, kind, group, _ in _WORDS}
"""Kind and group of each word; a group is called by its first word."""
_SENSE_OF = {word: sense for word, _, _, sense in _WORDS}
SENSES = {kind: {sense: group for _, its_kind, group, sense in _WORDS if its_kind == kind} for kind in KINDS}
"""The senses of each kind, each called by the first of the words that mean the same, and their groups."""
SENSES["colour"]["blonde"] = "blonde"  # of hair alone, see _HAIR_COLOURS, so never exchanged with other colours


def exclude(a: str, b: str) -> bool:
    """Whether two words that have a group cannot both be true of one thing."""
    (kind_a, group_a), (kind_b, group_b) = GROUP_OF[a], GROUP_OF[b]
    return kind_a == kind_b and group_a != group_b


class Meaning(NamedTuple):
    """What a phrase says."""

    thing: str | None
    """What it speaks of: a kind of thing, such as ``upper``, or else its last noun; None if it has none."""
    says: dict[str, frozenset[str]]
    """What its words of each kind mean, such as ``{"colour": {"navy"}, "upper": {"coat"}}`` for "dark-blue parka"."""


def phrase_meaning(words: Sequence[str]) -> Meaning:
    says: dict[str, frozenset[str]] = {}
    for word in words:
        if word in GROUP_OF:
            kind = GROUP_OF[word][0]
            says[kind] = says.get(kind, frozenset()) | {_SENSE_OF[word]}
    nouns = [word for word, tag in zip(words, lexicon_tags(words), strict=True) if tag.startswith("NN")]
    named = [kind for kind in _THINGS if kind in says] + [_NAMES[noun] for noun in nouns if noun in _NAMES]
    thing = next(iter(named + nouns[-1:]), None)
    if thing == "hair" and (colours := {_HAIR_COLOURS[word] for word in words if word in _HAIR_COLOURS}):
        says["colour"] = says.get("colour", frozenset()) | colours
    return Meaning(thing, says)
