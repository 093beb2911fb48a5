"""Divides people into training, validation and test for an annotation without splits."""

import hashlib
from collections import Counter
from collections.abc import Iterable

from cada_plugin.errors import AnnotationError

DERIVED_SPLITS = ("train", "val", "test")
_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def split_people(person_ids: Iterable[int]) -> dict[int, str]:
    """The split of every person: about 80 % train, 10 % val, 10 % test, and no person in two splits.

    A person's split follows from a hash of the id, so adding people later changes nobody's split. The one exception is
    a data set so small that a split would be empty: that split gets the person whose hash is nearest, from a split that
    has more than one, until a person is added whose hash belongs there.

    Raises:
        AnnotationError: there are fewer than three people.
    """
    places = {person: _place(person) for person in sorted(set(person_ids))}
    if len(places) < len(DERIVED_SPLITS):
        raise AnnotationError(
            f"no record has a 'split', and {len(places)} people cannot be divided into {', '.join(DERIVED_SPLITS)}: "
            "add a split to every record, or annotate at least three people"
        )
    bounds, begin = {}, 0.0
    for name, share in _SHARES.items():
        bounds[name] = (begin, begin + share)
        begin += share
    # Every place is below 1. Rounding may leave the last bound slightly below 1, hence the default: the last split.
    split_of = {
        p: next((n for n in DERIVED_SPLITS if place < bounds[n][1]), DERIVED_SPLITS[-1]) for p, place in places.items()
    }
    for name in reversed(DERIVED_SPLITS):
        sizes = Counter(split_of.values())
        if not sizes[name]:
            middle = sum(bounds[name]) / 2
            spare = [person for person in places if sizes[split_of[person]] > 1]
            split_of[min(spare, key=lambda person: abs(places[person] - middle))] = name
    return split_of


def _place(person_id: int) -> float:
    """A number in [0, 1) hashed from the id, the same on every machine."""
    digest = hashlib.blake2b(str(person_id).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little") / 2**56
