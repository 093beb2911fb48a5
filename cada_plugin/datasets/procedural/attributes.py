"""The attributes of procedural pedestrians, and how sets of distinct people and near-twins are sampled.

This is the ground truth of the stand-in for CUHK-PEDES. ``render`` turns an ``Identity`` into pixels, and ``captions``
turns it into words. Numbers measured on this data say nothing about real photographs.
"""

import zlib
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from cada_plugin.errors import ConfigError

NONE = "none"
COLOURS = ("black", "white", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
POOLS = ("main", "pretrain")

HAIR_COLOURS = ("black", "brown", "blonde", "gray")
JEANS_COLOURS = ("blue", "black", "gray", "white")
SKIRT_LIKE = ("skirt", NONE)
# The sleeve lengths and the patterns that each garment can have.
UPPERS = {
    "t-shirt": (("short",), ("plain", "striped", "dotted")),
    "shirt": (("long", "short"), ("plain", "striped", "checked")),
    "sweater": (("long",), ("plain", "striped", "dotted")),
    "jacket": (("long",), ("plain",)),
    "coat": (("long",), ("plain", "checked")),
    "hoodie": (("long",), ("plain", "striped")),
    "dress": (("long", "short"), ("plain", "striped", "checked", "dotted")),
}


@dataclass(frozen=True)
class Identity:
    """One person. Every field is a word; it is ``"none"`` if the thing, and so its colour, does not exist."""

    sex: str
    hair_length: str
    hair_colour: str
    upper_type: str
    upper_colour: str
    upper_pattern: str
    pattern_colour: str
    sleeve: str
    lower_type: str
    lower_colour: str
    shoe_type: str
    shoe_colour: str
    bag: str
    bag_colour: str
    hat: str
    hat_colour: str
    glasses: str
    held: str
    held_colour: str
    skin: str
    """Drawn but never described. It is not part of the signature, so no two people differ in it alone."""

    def signature(self) -> str:
        """A string that is equal for two identities if and only if all their describable attributes are equal."""
        return "|".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self) if f.name != "skin")

    def pool(self) -> str:
        """The pool of this person. It depends on the signature only, through CRC-32, as ``hash`` differs between
        processes."""
        return POOLS[zlib.crc32(self.signature().encode()) & 1]

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class SampledIdentity:
    """An identity in a sampled list. ``twin`` is the position of its twin in that list, and ``differs`` holds the
    fields of ``Identity`` in which the two differ."""

    identity: Identity
    twin: int | None = None
    differs: tuple[str, ...] = ()


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    names, values = list(weights), np.cumsum(list(weights.values()))
    return names[int(np.searchsorted(values, rng.random() * values[-1], side="right"))]


def _colour(rng: np.random.Generator, avoid: tuple[str, ...], allowed: tuple[str, ...]) -> str:
    allowed = tuple(c for c in allowed if c not in avoid)
    return allowed[int(rng.integers(len(allowed)))]


PALETTE_SIZE, PALETTE_SHARE = 3, 0.8
"""Size of a person's palette, and probability that a colour comes from it: people match their clothes. Many people then
share their set of colours, so that retrieval depends on *which* thing has which colour."""


def draw_identity(rng: np.random.Generator) -> Identity:
    """Sample one person, of either pool."""
    woman = rng.random() < 0.5
    palette = tuple(COLOURS[k] for k in rng.choice(len(COLOURS), size=PALETTE_SIZE, replace=False))

    def colour(avoid: tuple[str, ...] = (), allowed: tuple[str, ...] = COLOURS) -> str:
        matching = tuple(c for c in palette if c in allowed and c not in avoid)
        if matching and rng.random() < PALETTE_SHARE:
            return matching[int(rng.integers(len(matching)))]
        return _colour(rng, avoid, allowed)

    hair = _pick(
        rng, {"short": 0.25, "long": 0.5, "ponytail": 0.25} if woman else {"short": 0.7, "long": 0.15, "bald": 0.15}
    )
    upper_type = _pick(
        rng, {"t-shirt": 2, "shirt": 2, "sweater": 1.4, "jacket": 1.6, "coat": 1.4, "hoodie": 1.4, "dress": 1.5 * woman}
    )
    sleeves, patterns = UPPERS[upper_type]
    upper_colour = colour()
    pattern = _pick(rng, {p: 1.3 if p == "plain" else 1 / max(1, len(patterns) - 1) for p in patterns})
    lower_type = (
        NONE if upper_type == "dress" else _pick(rng, {"trousers": 3, "jeans": 2, "shorts": 2, "skirt": 2 * woman})
    )
    lower_colour = colour((upper_colour,), JEANS_COLOURS if lower_type == "jeans" else COLOURS)
    bag = _pick(rng, {NONE: 3, "backpack": 2.7, "shoulder bag": 2.2, "handbag": 2.1 if woman else 0.7})
    hat = _pick(rng, {NONE: 5.5, "cap": 2, "beanie": 1.5, "sun hat": 1})
    held = _pick(rng, {NONE: 5, "phone": 1, "umbrella": 1.4, "bottle": 1.2, "book": 1.4})
    return Identity(
        sex="woman" if woman else "man",
        hair_length=hair,
        hair_colour=NONE if hair == "bald" else _colour(rng, (), HAIR_COLOURS),
        upper_type=upper_type,
        upper_colour=upper_colour,
        upper_pattern=pattern,
        pattern_colour=NONE if pattern == "plain" else colour((upper_colour,)),
        sleeve=sleeves[int(rng.integers(len(sleeves)))],
        lower_type=lower_type,
        lower_colour=NONE if lower_type == NONE else lower_colour,
        shoe_type=_pick(rng, {"sneakers": 2, "boots": 1, "shoes": 1}),
        shoe_colour=colour(),
        bag=bag,
        bag_colour=NONE if bag == NONE else colour((upper_colour,)),
        hat=hat,
        hat_colour=NONE if hat == NONE else colour(),
        glasses=_pick(rng, {NONE: 6.5, "glasses": 2, "sunglasses": 1.5}),
        held=held,
        # A phone is too small for its colour to be seen.
        held_colour=NONE if held in (NONE, "phone") else colour(),
        skin=_pick(rng, {"light": 1, "tan": 1, "dark": 1}),
    )


def is_valid(identity: Identity) -> bool:
    """Whether the attributes are consistent: one rule for each way in which a changed field can contradict others."""
    i = identity
    sleeves, patterns = UPPERS[i.upper_type]
    return (
        i.sleeve in sleeves
        and i.upper_pattern in patterns
        and i.upper_colour not in (i.pattern_colour, i.bag_colour)
        and (i.lower_type != "jeans" or i.lower_colour in JEANS_COLOURS)
        and (i.lower_type != "skirt" or i.sex == "woman")
    )


# Fields in which a twin may differ, with their sampling weights and their values. All are visible in every view.
_CHANGES = {
    "upper_colour": (3, COLOURS),
    "lower_colour": (2.5, COLOURS),
    "bag_colour": (1.5, COLOURS),
    "hat_colour": (1.2, COLOURS),
    "shoe_colour": (1, COLOURS),
    "pattern_colour": (1, COLOURS),
    "bag": (1.2, ("backpack", "shoulder bag", "handbag")),
    "hat": (0.6, ("cap", "beanie", "sun hat")),
    "upper_pattern": (0.8, ("striped", "checked", "dotted")),
    "lower_type": (1, ("trousers", "shorts")),
}
_SWAPS = (("upper_colour", "lower_colour"),) * 4 + (
    ("upper_colour", "bag_colour"),
    ("upper_colour", "hat_colour"),
    ("lower_colour", "shoe_colour"),
    ("lower_colour", "bag_colour"),
)
SWAP_FRACTION = 0.4


def make_twin(rng: np.random.Generator, identity: Identity) -> tuple[Identity, tuple[str, ...]] | None:
    """Sample a near-twin: one visible field is changed, or the colours of two things are swapped.

    Returns the twin and the fields in which the two differ. Returns None if this person lacks the sampled thing, or if
    the change would be inconsistent; the caller tries again.
    """
    if rng.random() < SWAP_FRACTION:
        first, second = _SWAPS[int(rng.integers(len(_SWAPS)))]
        a, b = getattr(identity, first), getattr(identity, second)
        if NONE in (a, b) or a == b:
            return None
        twin, differs = replace(identity, **{first: b, second: a}), (first, second)
    else:
        slot = _pick(rng, {name: weight for name, (weight, _) in _CHANGES.items()})
        old, values = getattr(identity, slot), _CHANGES[slot][1]
        if old not in values:
            return None
        twin, differs = replace(identity, **{slot: _colour(rng, (old,), values)}), (slot,)
    return (twin, differs) if is_valid(twin) else None


def draw_identities(
    rng: np.random.Generator, n: int, pool: str, twin_fraction: float = 0.4, taken: set[str] | None = None
) -> list[SampledIdentity]:
    """Sample ``n`` distinct people of one pool; about ``twin_fraction`` (0 to 1) of them are members of a twin pair.

    The two members of a pair are neighbours in the list. ``taken`` holds signatures that must not be sampled, and the
    new ones are added to it: pass the same set for all splits of a build, so that they have no person in common.

    Raises ConfigError for an unknown pool or a fraction outside [0, 1].
    """
    if pool not in POOLS:
        raise ConfigError(f"pool={pool!r} is not a pool of procedural identities: use one of {', '.join(POOLS)}")
    if not 0 <= twin_fraction <= 1:
        raise ConfigError(f"twin_fraction={twin_fraction} is outside [0, 1]: it is the share of people who have a twin")
    taken = set() if taken is None else taken

    def is_new(identity: Identity) -> bool:
        return identity.pool() == pool and identity.signature() not in taken

    sampled: list[SampledIdentity] = []
    num_paired = 2 * min(round(n * twin_fraction / 2), n // 2)
    while len(sampled) < n:
        identity = draw_identity(rng)
        if not is_new(identity):
            continue
        if len(sampled) >= num_paired:
            sampled.append(SampledIdentity(identity))
            taken.add(identity.signature())
            continue
        # Half of all twins fall into the other pool. 12 tries nearly always find a twin; if not, the person is dropped.
        for _ in range(12):
            made = make_twin(rng, identity)
            if made is None or not is_new(made[0]):
                continue
            twin, differs = made
            sampled.append(SampledIdentity(identity, len(sampled) + 1, differs))
            sampled.append(SampledIdentity(twin, len(sampled) - 1, differs))
            taken.update((identity.signature(), twin.signature()))
            break
    return sampled
