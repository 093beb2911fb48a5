"""What people do not have, as far as captions tell: nobody writes "she carries no bag", but who has a bag is seldom
described several times without a word about it."""

from collections.abc import Collection, Hashable, Mapping, Sequence

import numpy as np

DOUBT = 0.1
"""A thing counts as absent if the probability that the person has it after all is below this."""


def absent_things(mentioned: Mapping[Hashable, Sequence[Collection[str]]]) -> dict[Hashable, frozenset[str]]:
    """The things that each person lacks.

    A caption of somebody who has a thing speaks of it with a probability m: that with which another caption of a person
    speaks of it if one does. Then c / m of the people have it, if a share c of all captions speaks of it, and of those
    whose n captions are all silent about it, by Bayes' rule

        h (1 - m)^n / (h (1 - m)^n + 1 - h),  h = c / m,

    have it. Things that all people have, such as shoes, are never absent by this rule, however seldom they are told.

    Args:
        mentioned: for each person, and each caption, the things that it speaks of.
    """
    captions = np.array([len(of_person) for of_person in mentioned.values()], dtype=np.float64)  # (P,)
    things = sorted({thing for of_person in mentioned.values() for one in of_person for thing in one})
    absent: list[set[str]] = [set() for _ in mentioned]
    for thing in things:
        times = np.array([sum(thing in one for one in of_person) for of_person in mentioned.values()])
        others = (times * (captions - 1)).sum()  # captions beside one that speaks of it
        again = (times * (times - 1)).sum() / others if others else 0.0
        if not again:
            continue  # never told twice of anybody: silence means nothing
        have = min(times.sum() / captions.sum() / again, 1.0)
        silent = have * (1 - again) ** captions
        doubt = silent / np.maximum(silent + 1 - have, 1e-12)
        for person in np.flatnonzero((times == 0) & (doubt < DOUBT) & (have < 1)):
            absent[person].add(thing)
    return {person: frozenset(found) for person, found in zip(mentioned, absent, strict=True)}
