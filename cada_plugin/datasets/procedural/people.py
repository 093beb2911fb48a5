"""The attributes of procedural people, and how sets of distinct people and near-twins are sampled.

This is the ground truth of both worlds (see ``worlds``). ``wearer`` turns a ``Person`` into pixels, ``writer``
turns it into words. Numbers measured on this data say nothing about real photographs.
"""

import zlib
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from cada_plugin.datasets.procedural.palette import FINE_COLOURS, NONE, SIDES
from cada_plugin.datasets.procedural.worlds import World
from cada_plugin.errors import ConfigError

PLAIN_PATTERNS = ("plain",)
STRIPES_AND_MORE = ("plain", "striped", "checked", "dotted")
# The sleeve lengths and the patterns that each upper garment can have.
UPPERS = {
    "t-shirt": (("short",), ("plain", "striped", "dotted")),
    "shirt": (("long", "short"), ("plain", "striped", "checked")),
    "sweater": (("long",), ("plain", "striped", "dotted")),
    "hoodie": (("long",), ("plain", "striped")),
    "jacket": (("long",), PLAIN_PATTERNS),
    "coat": (("long",), ("plain", "checked")),
    "dress": (("long", "short"), STRIPES_AND_MORE),
    "polo": (("short",), ("plain", "striped")),
    "cardigan": (("long",), ("plain", "striped")),
    "blazer": (("long",), ("plain", "checked")),
    "vest": (("sleeveless",), PLAIN_PATTERNS),
}
OPEN_GARMENTS = ("jacket", "coat", "cardigan", "blazer", "vest")
"""Upper garments that can be open, with another one, ``inner_type``, under them."""
JEANS_COLOURS = ("blue", "black", "gray", "white", "navy")
IN_HAND = ("handbag", "suitcase")
"""Bags that fill a hand. Whatever else is held is in the other one."""


@dataclass(frozen=True)
class Person:
    """One person. Every field is a word; it is ``"none"`` if the thing, and so its colour and side, does not exist."""

    sex: str
    hair: str
    hair_colour: str
    upper_type: str
    upper_colour: str
    pattern: str
    pattern_colour: str
    sleeve: str
    inner_type: str
    inner_colour: str
    lower_type: str
    lower_colour: str
    shoe_type: str
    shoe_colour: str
    bag: str
    bag_colour: str
    bag_side: str
    hat: str
    hat_colour: str
    scarf_colour: str
    glasses: str
    held: str
    held_colour: str
    held_side: str
    skin: str
    """Drawn but never described. It is not part of the signature, so no two people differ in it alone."""

    def signature(self) -> str:
        """A string that is equal for two people if and only if all their describable attributes are equal."""
        return "|".join(f"{slot}={getattr(self, slot)}" for slot in DESCRIBABLE)

    def pool(self) -> int:
        """0 or 1, from the signature alone (through CRC-32, as ``hash`` differs between processes). Each world has a
        pool of its own, so that nobody lives in both."""
        return zlib.crc32(self.signature().encode()) & 1

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


DESCRIBABLE = tuple(field.name for field in fields(Person) if field.name != "skin")


@dataclass(frozen=True)
class SampledPerson:
    """A person in a sampled list. ``twin`` is the position of the twin in that list, ``differs`` holds the slots in
    which the two differ, and ``twin_kind`` is one of ``TWIN_KINDS``."""

    person: Person
    twin: int | None = None
    differs: tuple[str, ...] = ()
    twin_kind: str = NONE


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One of the keys, with probabilities in proportion to the values."""
    names, values = list(weights), np.cumsum(list(weights.values()))
    return names[int(np.searchsorted(values, rng.random() * values[-1], side="right"))]


def sample_person(rng: np.random.Generator, world: World) -> Person:
    """Sample one person of a world, of either pool."""
    values = world.values
    woman = rng.random() < 0.5
    palette = world.palettes[int(rng.integers(len(world.palettes)))]

    def colour(avoid: tuple[str, ...] = (), allowed: tuple[str, ...] = FINE_COLOURS) -> str:
        matching = [c for c in palette if c in allowed and c not in avoid]
        if matching and rng.random() < world.palette_share:
            return matching[int(rng.integers(len(matching)))]
        return pick(rng, {c: w for c, w in values["colour"].items() if c in allowed and c not in avoid})

    hair = pick(rng, {k: w[0 if woman else 1] for k, w in values["hair"].items()})
    upper = pick(rng, {k: w[0 if woman else 1] for k, w in values["upper_type"].items()})
    sleeves, patterns = UPPERS[upper]
    upper_colour = colour()
    pattern = pick(rng, {p: 1.3 if p == "plain" else 1 / max(1, len(patterns) - 1) for p in patterns})
    is_open = upper in OPEN_GARMENTS and (upper == "vest" or rng.random() < world.open_share)
    inner = pick(rng, values["inner_type"]) if is_open else NONE
    lower = NONE if upper == "dress" else pick(rng, {k: w[0 if woman else 1] for k, w in values["lower_type"].items()})
    bag = pick(rng, {k: w[0 if woman else 1] for k, w in values["bag"].items()})
    hat = pick(rng, values["hat"])
    held = pick(rng, values["held"])
    scarf = rng.random() < world.scarf_share
    bag_side = NONE if bag in (NONE, "backpack") else SIDES[int(rng.integers(2))]
    held_side = NONE if held == NONE else SIDES[int(rng.integers(2))]
    if bag in IN_HAND and held != NONE:
        held_side = other_side(bag_side)
    return Person(
        sex="woman" if woman else "man",
        hair=hair,
        hair_colour=NONE if hair == "bald" else pick(rng, values["hair_colour"]),
        upper_type=upper,
        upper_colour=upper_colour,
        pattern=pattern,
        pattern_colour=NONE if pattern == "plain" else colour((upper_colour,)),
        sleeve=sleeves[int(rng.integers(len(sleeves)))],
        inner_type=inner,
        inner_colour=NONE if inner == NONE else colour((upper_colour,)),
        lower_type=lower,
        lower_colour=(
            NONE if lower == NONE else colour((upper_colour,), JEANS_COLOURS if lower == "jeans" else FINE_COLOURS)
        ),
        shoe_type=pick(rng, {k: w[0 if woman else 1] for k, w in values["shoe_type"].items()}),
        shoe_colour=colour(),
        bag=bag,
        bag_colour=NONE if bag == NONE else colour((upper_colour,)),
        bag_side=bag_side,
        hat=hat,
        hat_colour=NONE if hat == NONE else colour(),
        scarf_colour=colour((upper_colour,)) if scarf else NONE,
        glasses=pick(rng, values["glasses"]),
        held=held,
        # A phone is too small for its colour to be seen.
        held_colour=NONE if held in (NONE, "phone") else colour(),
        held_side=held_side,
        skin=pick(rng, {"light": 1, "tan": 1, "dark": 1}),
    )


def other_side(side: str) -> str:
    """The opposite side, or ``NONE`` for ``NONE``."""
    return {"left": "right", "right": "left", NONE: NONE}[side]


def is_consistent(p: Person) -> bool:
    """Whether the attributes fit together: one rule for each way in which a changed slot can contradict others."""
    sleeves, patterns = UPPERS[p.upper_type]
    beside_upper = (p.pattern_colour, p.inner_colour, p.bag_colour, p.scarf_colour, p.lower_colour)
    return (
        p.sleeve in sleeves
        and p.pattern in patterns
        and p.upper_colour not in beside_upper
        and (p.lower_type != "jeans" or p.lower_colour in JEANS_COLOURS)
        and not (p.bag in IN_HAND and p.bag_side == p.held_side)
    )


TWIN_KINDS = ("swapped", "mirrored", "changed")
"""How near-twins differ: the colours of two things are exchanged, bags and held things are on the other side, or one
slot has another value."""

_SWAPS = {
    ("upper_colour", "lower_colour"): 4,
    ("upper_colour", "inner_colour"): 3,
    ("upper_colour", "bag_colour"): 2,
    ("upper_colour", "hat_colour"): 1,
    ("upper_colour", "scarf_colour"): 1,
    ("upper_colour", "pattern_colour"): 1,
    ("lower_colour", "shoe_colour"): 2,
    ("lower_colour", "bag_colour"): 2,
    ("hat_colour", "bag_colour"): 1,
    ("held_colour", "bag_colour"): 1,
}
_CHANGES = {
    "upper_colour": 3, "lower_colour": 2.5, "inner_colour": 1.5, "bag_colour": 1.5, "hat_colour": 1.2,
    "shoe_colour": 1, "pattern_colour": 1, "scarf_colour": 1, "bag": 1.2, "hat": 0.6, "pattern": 0.8, "lower_type": 1,
    "shoe_type": 0.5,
}  # fmt: skip
_EXCHANGEABLE = {
    "bag": ("shoulder bag", "handbag", "tote", "suitcase"),
    "hat": ("cap", "beanie", "sun hat", "helmet"),
    "pattern": ("striped", "checked", "dotted"),
    "lower_type": ("trousers", "shorts", "jeans"),
    "shoe_type": ("boots", "sandals", "sneakers", "loafers"),
}


def make_twin(rng: np.random.Generator, person: Person, world: World) -> SampledPerson | None:
    """Sample a near-twin; ``twin`` is left open. None if this person lacks the sampled thing, or if the change would be
    inconsistent; the caller tries again."""
    kind = pick(rng, world.twin_kinds)
    if kind == "swapped":
        names = list(_SWAPS)
        first, second = names[int(pick(rng, {str(k): w for k, w in enumerate(_SWAPS.values())}))]
        a, b = getattr(person, first), getattr(person, second)
        if NONE in (a, b) or a == b:
            return None
        twin, differs = replace(person, **{first: b, second: a}), (first, second)
    elif kind == "mirrored":
        twin = replace(person, bag_side=other_side(person.bag_side), held_side=other_side(person.held_side))
        differs = tuple(slot for slot in ("bag_side", "held_side") if getattr(person, slot) != NONE)
        if not differs:
            return None
    else:
        slot = pick(rng, _CHANGES)
        old = getattr(person, slot)
        allowed = _EXCHANGEABLE.get(slot, FINE_COLOURS)
        options = {v: 1 for v in world.known(slot) if v in allowed and v != old}
        if old not in allowed or not options:
            return None
        twin, differs = replace(person, **{slot: pick(rng, options)}), (slot,)
    return SampledPerson(twin, None, differs, kind) if is_consistent(twin) else None


def sample_people(
    rng: np.random.Generator, n: int, world: World, twin_fraction: float, taken: set[str] | None = None
) -> list[SampledPerson]:
    """Sample ``n`` distinct people of a world; about ``twin_fraction`` (0 to 1) of them are members of a twin pair.

    The two members of a pair are neighbours in the list. ``taken`` holds signatures that must not be sampled, and the
    new ones are added to it: pass the same set for all splits of a build, so that they have no person in common.

    Raises:
        ConfigError: the fraction is outside [0, 1].
    """
    if not 0 <= twin_fraction <= 1:
        raise ConfigError(f"twin_fraction={twin_fraction} is outside [0, 1]: it is the share of people who have a twin")
    taken = set() if taken is None else taken

    def is_new(person: Person) -> bool:
        return person.pool() == world.pool and person.signature() not in taken

    sampled: list[SampledPerson] = []
    num_paired = 2 * min(round(n * twin_fraction / 2), n // 2)
    while len(sampled) < n:
        person = sample_person(rng, world)
        if not is_new(person):
            continue
        if len(sampled) >= num_paired:
            sampled.append(SampledPerson(person))
            taken.add(person.signature())
            continue
        # Half of all twins fall into the other pool. 16 tries nearly always find a twin; if not, the person is dropped.
        for _ in range(16):
            made = make_twin(rng, person, world)
            if made is None or not is_new(made.person):
                continue
            sampled.append(SampledPerson(person, len(sampled) + 1, made.differs, made.twin_kind))
            sampled.append(replace(made, twin=len(sampled) - 1))
            taken.update((person.signature(), made.person.signature()))
            break
    return sampled
