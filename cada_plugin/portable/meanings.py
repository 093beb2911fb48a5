"""What attribute phrases say: "a navy coat" says of an upper garment that it is a coat and blue. Needs no torch."""

from collections.abc import Iterable, Mapping, Sequence
from math import log
from statistics import fmean
from typing import NamedTuple

from cada_plugin.portable.phrases import lexicon_tags

KINDS: dict[str, str] = {
    "colour": """
        black jet-black blackish; white cream ivory off-white; gray grey silver grayish; orange;
        red scarlet crimson reddish maroon burgundy; yellow golden mustard; green emerald olive greenish;
        blue cobalt azure navy dark-blue light-blue bluish; teal turquoise; purple violet lavender lilac;
        pink rose magenta fuchsia; brown chocolate chestnut tan beige khaki""",
    "upper": """
        t-shirt tee tshirt; shirt blouse; sweater jumper pullover cardigan; hoodie sweatshirt; jacket windbreaker; coat
        overcoat parka; dress gown; polo; blazer; vest waistcoat""",
    "lower": "trousers slacks chinos pants; jeans denims; shorts; skirt; leggings tights; joggers sweatpants",
    "shoes": "trainers sneakers; boots; loafers moccasins; sandals; heels; slippers",
    "bag": "rucksack backpack knapsack; satchel; handbag purse; tote; suitcase luggage; briefcase",
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
may be true of the same thing, so one never replaces another."""

_THINGS = ("sex", "upper", "lower", "shoes", "bag", "hat", "held", "glasses", "hair")  # the other kinds say how one is

GROUP_OF = {
    word: (kind, group.split()[0])
    for kind, groups in KINDS.items()
    for group in groups.split(";")
    for word in group.split()
}
"""Kind and group of each word; a group is called by its first word."""


def exclude(a: str, b: str) -> bool:
    """Whether two words that have a group cannot both be true of one thing."""
    (kind_a, group_a), (kind_b, group_b) = GROUP_OF[a], GROUP_OF[b]
    return kind_a == kind_b and group_a != group_b


class Meaning(NamedTuple):
    """What a phrase says."""

    thing: str | None
    """What it speaks of: a kind of thing, such as ``upper``, or else its last noun; None if it has none."""
    says: dict[str, frozenset[str]]
    """For each kind of its words their groups, such as ``{"colour": {"blue"}, "upper": {"coat"}}``."""


Counts = Mapping[str, Mapping[str, Mapping[str, int]]]
"""How often phrases about a thing say something of a kind: ``counts["upper"]["colour"]["blue"]``."""


def phrase_meaning(words: Sequence[str]) -> Meaning:
    says: dict[str, frozenset[str]] = {}
    for word in words:
        if word in GROUP_OF:
            kind, group = GROUP_OF[word]
            says[kind] = says.get(kind, frozenset()) | {group}
    nouns = [word for word, tag in zip(words, lexicon_tags(words), strict=True) if tag.startswith("NN")]
    thing = next((kind for kind in _THINGS if kind in says), nouns[-1] if nouns else None)
    return Meaning(thing, says)


def is_true(phrase: Meaning, known: Iterable[Meaning]) -> bool | None:
    """Whether a phrase is true of somebody of whom some phrases are known to be true.

    Returns:
        True if one of them says the same of the same thing; False if all that speak of the thing exclude it; otherwise
        None, also of a phrase that says nothing with a group, such as "scarf", because nothing would exclude it.
    """
    if not phrase.says:
        return None
    same = [other.says for other in known if phrase.thing is not None and other.thing == phrase.thing]
    says = phrase.says.items()
    if any(all(other.get(kind) == groups for kind, groups in says) for other in same):
        return True
    excluded = [any(kind in other and not other[kind] & groups for kind, groups in says) for other in same]
    return False if excluded and all(excluded) else None


def count_meanings(phrases: Iterable[Meaning]) -> dict[str, dict[str, dict[str, int]]]:
    """Count what phrases say, see :data:`Counts`."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for thing, says in phrases:
        for kind, groups in says.items():
            of_kind = counts.setdefault(str(thing), {}).setdefault(kind, {})
            for group in sorted(groups):
                of_kind[group] = of_kind.get(group, 0) + 1
    return counts


def log_share(phrase: Meaning, counts: Counts) -> float | None:
    """How common a claim is: the logarithm of its share among all that is said of the same thing.

    Kinds of words count as independent, so the share of navy coats is that of blue ones times that of coats. Of several
    groups of one kind, as in "black and white", the mean logarithm is taken. Nothing is impossible: every group is
    counted once more than it occurs. None for a phrase that says nothing with a group.
    """
    if not phrase.says:
        return None
    total = 0.0
    for kind, groups in phrase.says.items():
        found = counts.get(str(phrase.thing), {}).get(kind, {})
        all_counts = sum(found.values()) + KINDS[kind].count(";") + 1
        total += fmean(log((found.get(group, 0) + 1) / all_counts) for group in groups)
    return total
