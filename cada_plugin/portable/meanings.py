"""What attribute phrases say: "a dark-blue parka" says of an upper garment that it is a navy coat. Needs no torch."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from cada_plugin.portable.phrases import MARKS, PLACES, lexicon_tags

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
_COMPOUNDS = {
    "shoulder bag": ("bag", "satchel"), "crossbody bag": ("bag", "satchel"), "knit hat": ("hat", "beanie"),
    "knitted hat": ("hat", "beanie"), "woolly hat": ("hat", "beanie"), "sun hat": ("hat", "brimmed"),
    "brimmed hat": ("hat", "brimmed"),
}  # fmt: skip
_PATTERN_OF = {"checks": "checked", "squares": "checked", "stripes": "striped", "dots": "dotted", "spots": "dotted"}
_PATTERN_OF |= {"flowers": "floral"}
_NAMES = {"garment": "upper", "top": "upper", "footwear": "shoes", "headwear": "hat", "shawl": "scarf"}
_NAMES |= {"person": "sex", "pedestrian": "sex"}
_NAMES |= {name: name for name in ("shoes", "hat", "bag", "scarf")}
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
# of hair, of compounds and of marks alone, so words are never exchanged with these
SENSES["colour"]["blonde"] = "blonde"
SENSES["hat"]["brimmed"] = "brimmed"
SENSES["colour of marks"] = SENSES["colour"]
SENSES["shade"] = {"dark": "dark", "pale": "pale", "light": "pale", "bright": "pale"}  # of whatever colour


def exclude(a: str, b: str) -> bool:
    """Whether two words that have a group cannot both be true of one thing."""
    (kind_a, group_a), (kind_b, group_b) = GROUP_OF[a], GROUP_OF[b]
    return kind_a == kind_b and group_a != group_b


class Meaning(NamedTuple):
    """What a phrase says."""

    thing: str | None
    """What it speaks of: a kind of thing, such as ``upper``, or else its last noun; None if it has none."""
    says: dict[str, frozenset[str]]
    """What its words of each kind mean, such as ``{"colour": {"navy"}, "upper": {"coat"}}`` for "dark-blue parka". The
    colours of a pattern have a kind of their own."""

    @property
    def tells(self) -> bool:
        """Whether what captions say of people can confirm or exclude it. "A scarf" only says that there is one."""
        return bool(self.says) or self.thing in NAMED_THINGS


NAMED_THINGS = frozenset({*_THINGS, *_NAMES.values()})
"""The things that go by several names, of which captions therefore surely speak if they speak of them."""


def phrase_meaning(words: Sequence[str]) -> Meaning:
    """What an attribute phrase says; it may be a whole one, with a place and a pattern."""
    says: dict[str, frozenset[str]] = {}

    def say(kind: str, sense: str) -> None:
        says[kind] = says.get(kind, frozenset()) | {sense}

    pattern = list(words).index("with") if "with" in words else len(words)
    marks = [word for word in words[pattern:] if word in MARKS]
    for place, word in enumerate(words):
        kind = GROUP_OF[word][0] if word in GROUP_OF else "order"
        if kind != "order":  # "over" tells where a bag is, and not what is above what
            say("colour of marks" if kind == "colour" and marks and place > pattern else kind, _SENSE_OF[word])
        if word in SENSES["shade"]:
            say("shade", word)
    for mark in marks:
        say("pattern", _PATTERN_OF[mark])
    for pair in pairwise(words):
        if compound := _COMPOUNDS.get(" ".join(pair)):
            say(*compound)
    nouns = [word for word, tag in zip(words, lexicon_tags(words), strict=True) if tag.startswith("NN")]
    nouns = [noun for noun in nouns if noun not in PLACES | MARKS] or nouns
    named = [kind for kind in _THINGS if kind in says] + [_NAMES[noun] for noun in nouns if noun in _NAMES]
    thing = next(iter(named + nouns[-1:]), None)
    if thing == "hair":
        for word in words:
            if word in _HAIR_COLOURS:
                say("colour", _HAIR_COLOURS[word])
    return Meaning(thing, says)
