"""Slices of the queries of procedural people: groups of captions that ask for one ability each.

- ``twins``: the person has a near-twin; ``binding``: the colours of two things are exchanged between the two;
  ``side``: what the two carry is on opposite sides.
- ``small``: the caption names two or more small things; ``occluded``: it names something that its own picture does not
  show; ``rare``: it has a word that few training captions have.
- ``names hat`` and so on: the caption names an attribute of this kind.
"""

import re
from collections import Counter
from collections.abc import Iterable

from cada_plugin.datasets.procedural.palette import PART_OF_SLOT
from cada_plugin.datasets.procedural.writer import UNIT_OF_SLOT

SMALL_PARTS = ("shoes", "glasses", "scarf", "held", "hat")
RARE = 0.01
"""A word is rare if at most this share of the training captions has it."""


def words_of(caption: str) -> list[str]:
    """Words of a caption, lower case, without punctuation; hyphenated words are one word."""
    return re.findall(r"[a-z]+(?:-[a-z]+)*", caption.lower())


def rare_words(training: Iterable[str], captions: Iterable[str]) -> set[str]:
    """The words of ``captions`` that at most a share of ``RARE`` of the ``training`` captions have."""
    training = list(training)
    counts = Counter(word for caption in training for word in set(words_of(caption)))
    seen = {word for caption in captions for word in words_of(caption)}
    return {word for word in seen if counts[word] <= RARE * len(training)}


def slices_of(
    caption: str, claims: dict[str, tuple[str, ...]], twin_kind: str, hidden: set[str], rare: set[str]
) -> list[str]:
    """The slices of one caption.

    ``hidden`` holds the parts that the person has and the picture does not show, ``rare`` the rare words.
    """
    slices = {"swapped": ["twins", "binding"], "mirrored": ["twins", "side"], "changed": ["twins"]}.get(twin_kind, [])
    parts = {PART_OF_SLOT[slot] for slot in claims if slot in PART_OF_SLOT}
    conditions = {
        "small": len(parts & {*SMALL_PARTS}) >= 2,
        "occluded": bool(parts & hidden),
        "rare": not rare.isdisjoint(words_of(caption)),
    }
    kinds = {UNIT_OF_SLOT.get(slot, slot) for slot in claims} | {"side" for slot in claims if slot.endswith("_side")}
    return [*slices, *(name for name, holds in conditions.items() if holds), *(f"names {k}" for k in sorted(kinds))]
