"""Writes captions of procedural people, and notes exactly what each caption claims.

A caption is always true, but leaves things out, as people do: more often the shoes than the coat. Its *claims* say what
it means: for every slot that it names, the values that its word stands for ("pants" can be trousers or jeans). A reader
that misses nothing knows the claims and no more, so they give the ceiling of any model (see ``oracle``).
"""

import re
from dataclasses import dataclass, field

import numpy as np

from cada_plugin.datasets.procedural.palette import NONE, PART_OF_SLOT
from cada_plugin.datasets.procedural.people import Person, pick
from cada_plugin.datasets.procedural.worlds import Speech, World

PLURAL = (
    "trousers", "slacks", "chinos", "pants", "jeans", "denims", "shorts", "leggings", "tights", "joggers", "sweatpants",
    "sneakers", "trainers", "boots", "loafers", "moccasins", "sandals", "shoes", "footwear", "glasses", "spectacles",
    "eyeglasses", "sunglasses", "shades", "luggage", "headwear",
)  # fmt: skip
_VIEWS = {
    "front": ("facing the camera", "walking toward the camera"),
    "back": ("seen from behind", "walking away"),
    "side": ("seen from the side", "walking past"),
}
UNIT_OF_SLOT = {slot: part for slot, part in PART_OF_SLOT.items() if slot != "sleeve"} | {"sleeve": "sleeve"}
"""The thing that a caption has to mention to name a slot."""
_PHRASE_OF_UNIT = {"pattern": "upper", "sleeve": "upper"}  # said within the phrase of the garment
_OPEN, _CLOSE = 0xE000, "\ue0ff"
# While a caption is put together, each phrase stands between a character that numbers its unit and a closing one. Both
# are from Unicode's private use area, so that no caption contains them.
_PHRASE_UNITS = ("sex", "hair", "upper", "inner", "lower", "shoes", "bag", "hat", "scarf", "glasses", "held")
_MARKS = re.compile(f"[{chr(_OPEN)}-{_CLOSE}]")
_TYPE_SLOT = {"upper": "upper_type", "inner": "inner_type", "lower": "lower_type", "shoes": "shoe_type"}
_COLOUR_SLOT = {"shoes": "shoe_colour"}
# Slots that share their words with others; all remaining ones are colours.
_KINDS = {"inner_type": "upper_type", "bag_side": "side", "held_side": "side"}


Claims = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Phrase:
    """The words ``text[start:stop]`` of a caption, which describe one thing, such as 'a red coat'."""

    unit: str
    start: int
    stop: int


@dataclass
class Caption:
    """A text, and its claims: for each slot that it names, the values that are meant. ``phrases`` says where."""

    text: str
    claims: Claims = field(default_factory=dict)
    phrases: tuple[Phrase, ...] = ()


def claims_of_phrase(claims: Claims, unit: str) -> Claims:
    """What the phrase of a unit claims, out of the claims of its whole caption."""
    return {slot: values for slot, values in claims.items() if _phrase_unit(slot) == unit}


def _phrase_unit(slot: str) -> str:
    unit = UNIT_OF_SLOT.get(slot, slot)
    return _PHRASE_OF_UNIT.get(unit, unit)


def _marked(unit: str, text: str) -> str:
    return f"{chr(_OPEN + _PHRASE_UNITS.index(unit))}{' '.join(text.split())}{_CLOSE}"


def _unmarked(marked: str) -> tuple[str, tuple[Phrase, ...]]:
    """The text without its marks, and the phrases that these enclosed."""
    phrases, start, unit = [], 0, ""
    for removed, mark in enumerate(_MARKS.finditer(marked)):
        place = mark.start() - removed
        if mark.group() == _CLOSE:
            phrases.append(Phrase(unit, start, place))
        else:
            unit, start = _PHRASE_UNITS[ord(mark.group()) - _OPEN], place
    return _MARKS.sub("", marked), tuple(phrases)


class _Writer:
    """Makes the random choices of one caption, and collects its claims."""

    def __init__(self, person: Person, world: World, rng: np.random.Generator, must: tuple[str, ...]) -> None:
        self.p, self.speech, self.rng, self.must = person, world.speech, rng, must
        self.claims: Claims = {}

    def one_of(self, *options: str) -> str:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def word(self, slot: str, kind: str | None = None) -> str:
        """A word for the value of a slot, of which a claim is made. What must be said is said exactly."""
        value = getattr(self.p, slot)
        if kind is None:
            kind = slot if slot in self.speech.words else _KINDS.get(slot, "colour")
        options = {
            word: weight
            for word, (weight, values) in self.speech.words[kind].items()
            if value in values and (slot not in self.must or len(values) == 1)
        }
        word = pick(self.rng, options)
        self.claims[slot] = self.speech.words[kind][word][1]
        return word

    def colour(self, slot: str) -> str:
        exists = getattr(self.p, slot) != NONE
        return self.word(slot) if exists and (slot in self.must or self.chance(self.speech.colour_said)) else ""

    def noun_phrase(self, adjectives: str, noun: str) -> str:
        if noun in PLURAL:
            return f"{adjectives} {noun}"
        return f"a {adjectives} {noun}"

    def thing(self, unit: str) -> str:
        """A noun phrase for one thing: 'a black backpack', 'blue jeans'."""
        slot, colour_slot = _TYPE_SLOT.get(unit, unit), _COLOUR_SLOT.get(unit, f"{unit}_colour")
        colour = self.colour(colour_slot) if hasattr(self.p, colour_slot) else ""
        return self.noun_phrase(colour, self.word(slot))

    def scarf(self) -> str:
        options = {word: weight for word, (weight, _) in self.speech.words["scarf"].items()}
        return f"a {self.word('scarf_colour')} {pick(self.rng, options)}"

    def upper(self, units: set[str]) -> str:
        """A noun phrase for the upper garment, with its sleeves, its pattern and what is under it, if these are in
        ``units``."""
        sleeve = self.word("sleeve") if "sleeve" in units else ""
        colour, adjective, after = self.colour("upper_colour"), "", ""
        if "pattern" in units:
            said = "pattern_noun" in self.speech.words and self.colour("pattern_colour")
            if said:
                after = f" with {said} {self.word('pattern', 'pattern_noun')}"
            else:
                adjective = self.word("pattern")
        noun = self.word("upper_type")
        garment = f"{adjective} {colour} {sleeve} {noun}{after}"
        if "inner" not in units:
            return _marked("upper", f"a {garment}")
        inner, first = _marked("inner", self.thing("inner")), self.chance(0.5)
        garment = _marked("upper", f"{self.one_of('a', 'an open')} {garment}")
        return f"{inner} under {garment}" if first else f"{garment} over {inner}"

    def hair(self) -> str:
        length = self.word("hair")
        if self.p.hair == "bald":
            return "a bald head"
        colour = self.colour("hair_colour")
        if self.p.hair in ("ponytail", "bun"):
            return f"a {colour} {length}" if self.chance(0.4) else f"{colour} hair in a {length}"
        return f"{length} {colour} hair"

    def place(self, unit: str, his: str) -> str:
        """Where a bag or a held thing is, perhaps with its side."""
        kind = getattr(self.p, unit)
        if kind == "backpack":
            return self.one_of("", f"on {his} back")
        slot = f"{unit}_side"
        side = ""
        if self.speech.side_said and (slot in self.must or self.chance(self.speech.side_said)):
            side = self.word(slot)
        if kind in ("shoulder bag", "tote"):
            return f"over {his} {side} shoulder" if kind == "tote" else f"at {his} {side} hip"
        if kind == "suitcase":
            return f"on {his} {side} side" if side else ""
        return f"in {his} {side} hand"


def _choose(writer: _Writer, count: int, shown: set[str]) -> set[str]:
    """The things to mention: those that must be, filled up to ``count`` by weighted sampling."""
    p, speech = writer.p, writer.speech
    exists = {
        "upper": True, "hair": True, "sleeve": True, "shoes": True, "lower": p.lower_type != NONE,
        "pattern": p.pattern != "plain", "inner": p.inner_type != NONE, "bag": p.bag != NONE, "hat": p.hat != NONE,
        "scarf": p.scarf_colour != NONE, "glasses": p.glasses != NONE, "held": p.held != NONE,
    }  # fmt: skip
    chosen = {UNIT_OF_SLOT[slot] for slot in writer.must if UNIT_OF_SLOT[slot] in speech.weights}
    # Efraimidis-Spirakis keys: weighted sampling without replacement.
    keys = {
        unit: writer.rng.random() ** (1 / (weight * (1 if unit in shown else speech.hidden)))
        for unit, weight in speech.weights.items()
    }
    for unit in sorted(keys, key=keys.__getitem__, reverse=True):
        # Hair counts as two things, length and colour.
        if exists[unit] and len(chosen) + ("hair" in chosen) < count:
            chosen.add(unit)
    if chosen & {"pattern", "sleeve", "inner"}:  # these are said of the upper garment only
        chosen.add("upper")
    return chosen


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([,.])", r"\1", text)
    return re.sub(rf"\b([Aa]) (?={_MARKS.pattern}?[aeiou])", r"\1n ", text)


def describe(
    person: Person,
    world: World,
    rng: np.random.Generator,
    *,
    view: str,
    shown: set[str],
    must_mention: tuple[str, ...] = (),
) -> Caption:
    """One caption of a person, for a picture with this ``view`` that shows the parts ``shown``.

    ``must_mention`` lists slots whose values are always said, with a word that stands for nothing else. What a picture
    does not show is mentioned less often.
    """
    writer = _Writer(person, world, rng, must_mention)
    speech: Speech = world.speech
    shown = {*shown, "sleeve"}
    units = _choose(writer, int(rng.integers(speech.things[0], speech.things[1] + 1)), shown)
    text, phrases = _unmarked(_sentences(writer, units, view) if speech.sentences else _phrase(writer, units))
    return Caption(text, writer.claims, phrases)


def _worn(writer: _Writer, units: set[str]) -> list[str]:
    """Noun phrases of what is worn, in some order."""
    order = [unit for unit in ("upper", "lower", "shoes", "hat", "scarf", "glasses") if unit in units]
    if writer.chance(0.45):
        order = [order[k] for k in writer.rng.permutation(len(order))]
    special = {"upper": lambda: writer.upper(units), "scarf": lambda: _marked("scarf", writer.scarf())}
    return [special[unit]() if unit in special else _marked(unit, writer.thing(unit)) for unit in order]


def _phrase(writer: _Writer, units: set[str]) -> str:
    """One phrase, as in the alternative text of a picture: 'a man in a red coat with a bag'."""
    text = f"{writer.one_of('a', 'a', 'the', '')} {_marked('sex', writer.word('sex'))}"
    worn = _worn(writer, units)
    if worn:
        text += f" {writer.one_of('in', 'in', 'wearing', 'with')} {_join(worn)}"
    extra = [_marked("hair", writer.hair())] if "hair" in units else []
    extra += [_marked(unit, writer.thing(unit)) for unit in ("bag", "held") if unit in units]
    if extra:
        text += f"{writer.one_of(',', '')} {writer.one_of('with', 'and') if worn else 'with'} {_join(extra)}"
    return _tidy(text)


def _sentences(writer: _Writer, units: set[str], view: str) -> str:
    """One to four sentences."""
    his, he = ("his", "he") if writer.p.sex == "man" else ("her", "she")
    noun = writer.word("sex")
    if noun == "pedestrian":  # the pronouns must not give away what the noun leaves open
        his, he = "the", "the person"
    opening = f"{writer.one_of('a', 'a', 'the', 'this')} {_marked('sex', noun)}"
    extra: list[str] = []
    if "hair" in units:
        if writer.chance(0.75):
            opening += f" with {_marked('hair', writer.hair())}"
        else:
            extra.append(f"{he} has {_marked('hair', writer.hair())}")
    carried = []
    for unit, verbs in (("bag", ("carries", "is carrying", "has")), ("held", ("holds", "is holding"))):
        if unit in units:
            carried.append((writer.one_of(*verbs), _marked(unit, f"{writer.thing(unit)} {writer.place(unit, his)}")))
    if len(carried) == 2 and writer.chance(0.5):
        carried.reverse()
    if carried and writer.chance(0.2):  # free order: carried things can come before clothes
        opening += f" {'and' if ' with ' in opening else 'with'} {carried.pop(0)[1]}"
    if carried:
        extra.append(f"{he} {' and '.join(f'{verb} {what}' for verb, what in carried)}")
    worn = _worn(writer, units)
    view_words = f", {writer.one_of(*_VIEWS[view])}," if writer.chance(0.12) else ""
    keep = len(worn) <= 2 or writer.chance(1.4 - 0.2 * len(worn))
    first, rest = (worn, []) if keep else (worn[:2], worn[2:])
    sentences = [f"{opening}{view_words} is walking"]
    if first:
        verb = writer.one_of("is wearing", "is wearing", "wears", "is dressed in", "has on")
        sentences = [f"{opening}{view_words} {verb} {_join(first)}"]
    if rest:
        extra.append(f"{he} {writer.one_of('is also wearing', 'also wears', 'has on')} {_join(rest)}")
    sentences += [extra[k] for k in writer.rng.permutation(len(extra))]
    return " ".join(_tidy(s[0].upper() + s[1:]) + "." for s in sentences)
