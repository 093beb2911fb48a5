"""Captions of procedural pedestrians, from a small grammar with synonyms, omissions and free order.

They stand in for CUHK-PEDES' two crowd-sourced captions per image (23.5 words on average). A caption is always true to
the attributes, but leaves things out, as people do: more often the shoes than the coat.
"""

import re

import numpy as np

from cada_plugin.datasets.procedural.attributes import NONE, Identity

COLOUR_WORDS = {"gray": ("gray", "grey"), "purple": ("purple", "purple", "violet"), "blonde": ("blonde", "blond")}
NOUNS = {
    "man": ("man", "man", "man", "guy", "male"),
    "woman": ("woman", "woman", "woman", "lady", "female", "girl"),
    "t-shirt": ("t-shirt", "t-shirt", "tee"),
    "shirt": ("shirt", "shirt", "button-up shirt", "collared shirt"),
    "sweater": ("sweater", "sweater", "pullover", "jumper"),
    "jacket": ("jacket", "jacket", "zip jacket"),
    "coat": ("coat", "coat", "long coat", "overcoat"),
    "hoodie": ("hoodie", "hoodie", "hooded sweatshirt"),
    "dress": ("dress", "dress", "knee-length dress"),
    "trousers": ("trousers", "pants", "pants", "slacks"),
    "jeans": ("jeans", "jeans", "denim jeans"),
    "shorts": ("shorts",),
    "skirt": ("skirt", "skirt", "knee-length skirt"),
    "sneakers": ("sneakers", "sneakers", "trainers", "running shoes"),
    "boots": ("boots", "boots", "ankle boots"),
    "shoes": ("shoes", "shoes", "leather shoes"),
    "backpack": ("backpack", "backpack", "rucksack"),
    "shoulder bag": ("shoulder bag", "messenger bag", "crossbody bag"),
    "handbag": ("handbag", "handbag", "purse"),
    "cap": ("cap", "cap", "baseball cap"),
    "beanie": ("beanie", "beanie", "knit hat"),
    "sun hat": ("sun hat", "brimmed hat", "wide hat"),
    "glasses": ("glasses", "glasses", "eyeglasses", "spectacles"),
    "sunglasses": ("sunglasses", "sunglasses", "dark glasses"),
    "phone": ("phone", "cell phone", "mobile phone", "smartphone"),
    "umbrella": ("umbrella", "umbrella", "folded umbrella"),
    "bottle": ("bottle", "bottle", "water bottle"),
    "book": ("book",),
}
PLURAL = ("trousers", "jeans", "shorts", "sneakers", "boots", "shoes", "glasses", "sunglasses")
PATTERN_ADJECTIVES = {
    "striped": ("striped",),
    "checked": ("checked", "checkered", "plaid"),
    "dotted": ("dotted", "spotted", "polka-dot"),
}
PATTERN_NOUNS = {"striped": ("stripes",), "checked": ("checks", "squares"), "dotted": ("dots", "spots")}
PLACES = {
    "backpack": ("on {his} back", "on {his} back", "", ""),
    "shoulder bag": ("over {his} shoulder", "across {his} body", "", ""),
    "handbag": ("in {his} hand", "in one hand", "", ""),
    "held": ("in {his} hand", "in one hand", "", ""),
}
VIEWS = {
    "front": ("facing the camera", "walking toward the camera", "walking forward"),
    "back": ("walking away", "seen from behind", "facing away from the camera"),
    "side": ("walking past", "seen from the side", "walking by"),
}

# Relative weights for choosing the things that a caption mentions, and the probability that a thing's colour is
# mentioned.
_WEIGHTS = {
    "upper": 30, "lower": 18, "hair": 3, "pattern": 5, "bag": 6, "hat": 5, "shoes": 2.5, "held": 3.5,
    "glasses": 1.6, "sleeve": 0.8,
}  # fmt: skip
_COLOUR_SAID = {"upper": 0.97, "lower": 0.95, "bag": 0.9, "hat": 0.9, "shoes": 0.92, "held": 0.85, "hair": 0.9}
_UNIT_OF_SLOT = {
    "hair_length": "hair", "hair_colour": "hair", "upper_type": "upper", "upper_colour": "upper",
    "upper_pattern": "pattern", "pattern_colour": "pattern", "sleeve": "sleeve", "lower_type": "lower",
    "lower_colour": "lower", "shoe_type": "shoes", "shoe_colour": "shoes", "bag": "bag", "bag_colour": "bag",
    "hat": "hat", "hat_colour": "hat", "glasses": "glasses", "held": "held", "held_colour": "held",
}  # fmt: skip
_TYPE_SLOT = {"upper": "upper_type", "lower": "lower_type", "shoes": "shoe_type"}


class _Speaker:
    """Makes the random choices of one caption about ``identity``; ``must`` holds the fields that it has to mention."""

    def __init__(self, identity: Identity, rng: np.random.Generator, must: tuple[str, ...]) -> None:
        self.i, self.rng, self.must = identity, rng, must

    def one_of(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def colour(self, slot: str, p: float = 1.0) -> str:
        value = getattr(self.i, slot)
        if value == NONE or not (slot in self.must or self.chance(p)):
            return ""
        return self.one_of(COLOUR_WORDS.get(value, (value,)))

    def thing(self, unit: str) -> str:
        """A noun phrase for one thing other than the upper garment: 'a black backpack', 'blue jeans'."""
        kind = getattr(self.i, _TYPE_SLOT.get(unit, unit))
        colour_slot = {"shoes": "shoe_colour"}.get(unit, f"{unit}_colour")
        colour = self.colour(colour_slot, _COLOUR_SAID[unit]) if unit in _COLOUR_SAID else ""
        noun = self.one_of(NOUNS[kind])
        if kind in PLURAL:
            pair = "a pair of " if self.chance(0.1) else ""
            return f"{pair}{colour} {noun}"
        return f"a {colour} {noun}"

    def upper(self, units: set[str]) -> str:
        """A noun phrase for the upper garment, with its sleeves and pattern if these are in ``units``."""
        i, noun = self.i, self.one_of(NOUNS[self.i.upper_type])
        sleeve = f"{i.sleeve}-sleeved" if "sleeve" in units else ""
        colour = self.colour("upper_colour", _COLOUR_SAID["upper"])
        if "pattern" not in units:
            plain = "plain" if i.upper_pattern == "plain" and self.chance(0.06) else ""
            return f"a {plain} {colour} {sleeve} {noun}"
        pattern_colour = self.colour("pattern_colour", 0.85)
        # "red and white striped" does not say which colour is the ground: it is not used if the twins differ in that.
        twins = set(self.must) & {"upper_colour", "pattern_colour"}
        if pattern_colour and (not colour or twins or self.chance(0.6)):
            return f"a {colour} {sleeve} {noun} with {pattern_colour} {self.one_of(PATTERN_NOUNS[i.upper_pattern])}"
        adjective = self.one_of(PATTERN_ADJECTIVES[i.upper_pattern])
        if colour and pattern_colour:
            return f"a {colour} and {pattern_colour} {adjective} {sleeve} {noun}"
        return f"a {adjective} {colour} {sleeve} {noun}"

    def hair(self) -> str:
        i = self.i
        if i.hair_length == "bald":
            return "a bald head"
        colour = self.colour("hair_colour", _COLOUR_SAID["hair"])
        if i.hair_length == "ponytail":
            return f"a {colour} ponytail" if self.chance(0.4) else f"{colour} hair in a ponytail"
        return f"{i.hair_length} {colour} hair"


def _choose(speaker: _Speaker, count: int, view: str | None) -> set[str]:
    """The things to mention: those that must be, filled up to ``count`` by weighted sampling."""
    i = speaker.i
    exists = {
        "upper": True, "hair": True, "sleeve": True, "shoes": True, "lower": i.lower_type != NONE,
        "pattern": i.upper_pattern != "plain", "bag": i.bag != NONE, "hat": i.hat != NONE,
        "glasses": i.glasses != NONE, "held": i.held != NONE,
    }  # fmt: skip
    # Glasses are hidden in a view from behind, and of a backpack only two straps are visible from the front.
    factor = {("glasses", "back"): 0.05, ("bag", "front"): 0.6 if i.bag == "backpack" else 1}
    chosen = {_UNIT_OF_SLOT[slot] for slot in speaker.must}
    if chosen & {"pattern", "sleeve"}:
        chosen.add("upper")
    # Efraimidis-Spirakis keys: weighted sampling without replacement.
    keys = {u: speaker.rng.random() ** (1 / (w * factor.get((u, view), 1))) for u, w in _WEIGHTS.items()}
    for unit in sorted(_WEIGHTS, key=keys.__getitem__, reverse=True):
        # Hair counts as two things, length and colour.
        if exists[unit] and len(chosen) + ("hair" in chosen) < count:
            chosen.add(unit)
    # A pattern or a sleeve can only be mentioned together with its garment.
    if chosen & {"pattern", "sleeve"}:
        chosen.add("upper")
    return chosen


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([,.])", r"\1", text)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def describe(
    identity: Identity,
    rng: np.random.Generator,
    num_attributes: tuple[int, int] = (5, 8),
    *,
    must_mention: str | tuple[str, ...] = (),
    view: str | None = None,
) -> str:
    """One caption of an identity, mostly 12 to 40 words, one to four sentences.

    ``num_attributes`` is the inclusive range for the number of things mentioned, of which the sex is one; a person who
    has fewer is described in full. ``must_mention`` lists fields of ``Identity`` whose values are always mentioned. If
    ``view`` (front, back, side) is given, things that it hides are rarely mentioned, and the view itself is sometimes.
    """
    must = (must_mention,) if isinstance(must_mention, str) else tuple(must_mention)
    say = _Speaker(identity, rng, must)
    units = _choose(say, int(rng.integers(num_attributes[0], num_attributes[1] + 1)) - 1, view)
    his, he = ("his", "he") if identity.sex == "man" else ("her", "she")
    noun = say.one_of(NOUNS[identity.sex])

    wears = [u for u in ("upper", "lower", "shoes", "hat", "glasses") if u in units]
    if say.chance(0.45):
        wears = [wears[k] for k in rng.permutation(len(wears))]
    worn = [say.upper(units) if u == "upper" else say.thing(u) for u in wears]

    opening = f"{say.one_of(('a', 'a', 'the', 'this'))} {noun}"
    extra: list[str] = []
    if "hair" in units:
        if say.chance(0.75):
            opening += f" with {say.hair()}"
        else:
            extra.append(f"{he} has {say.hair()}")
    carried = []
    if "bag" in units:
        place = say.one_of(PLACES[identity.bag]).format(his=his)
        carried.append((say.one_of(("carries", "is carrying", "has")), f"{say.thing('bag')} {place}"))
    if "held" in units:
        place = say.one_of(PLACES["held"]).format(his=his)
        carried.append((say.one_of(("holds", "is holding")), f"{say.thing('held')} {place}"))
    if len(carried) == 2 and say.chance(0.5):
        carried.reverse()
    if carried and say.chance(0.2):
        # Free order: carried things can come before clothes.
        opening += f" with {carried.pop(0)[1]}" if " with " not in opening else f" and {carried.pop(0)[1]}"
    if carried:
        extra.append(f"{he} {' and '.join(f'{verb} {what}' for verb, what in carried)}")

    view_words = f", {say.one_of(VIEWS[view])}," if view and say.chance(0.12) else ""
    first, rest = (worn, []) if len(worn) <= 2 or say.chance(1.4 - 0.2 * len(worn)) else (worn[:2], worn[2:])
    sentences = []
    if first:
        verb = say.one_of(("is wearing", "is wearing", "wears", "is dressed in", "has on"))
        sentences.append(f"{opening}{view_words} {verb} {_join(first)}")
    else:
        sentences.append(f"{opening}{view_words} is walking")
    if rest:
        extra.append(f"{he} {say.one_of(('is also wearing', 'also wears', 'has on'))} {_join(rest)}")
    sentences += [extra[k] for k in rng.permutation(len(extra))]
    return " ".join(_tidy(s[0].upper() + s[1:]) + "." for s in sentences)
