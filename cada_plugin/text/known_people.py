"""What the captions of a person tell of them: what they say, and what the person lacks.

Nobody writes "she carries no bag", but who has a bag is seldom described several times without a word about it.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np

from cada_plugin.portable.meanings import NAMED_THINGS, SENSES, Meaning

Person = TypeVar("Person", bound=Hashable)

_KINDS = list(SENSES)
_BITS = {
    (kind, sense): (1 << place, 1 << list(senses.values()).index(group))
    for kind, senses in SENSES.items()
    for place, (sense, group) in enumerate(senses.items())
}
DOUBT = 0.1
"""A thing counts as absent if the probability that the person has it after all is below this."""


@dataclass(frozen=True)
class KnownPerson:
    """What the captions of a person tell."""

    meanings: list[Meaning]
    """What they say, without repetitions."""
    absent: frozenset[str]
    """The things that the person lacks, see :func:`absent_things`."""

    def judge(self, phrases: "EncodedMeanings") -> np.ndarray:
        """Which of n phrases are true of this person: (n,) int8, 1 true, 0 false, -1 not known.

        A phrase is true if one of the captions says the same of the same thing. It is false if the person lacks the
        thing, or if all that the captions say of the thing contradicts the phrase, or may be about one that does, as
        "coat" beside "black coat". Nothing is known of phrases that tell nothing (see :attr:`Meaning.tells`), such as
        "style", because nothing would contradict them.
        """
        known = self._encoded
        about = phrases.things[:, None] == known.things  # (n, m)
        said = phrases.senses[:, None]  # (n, 1, kinds)
        true = (about & ((said == 0) | (said == known.senses)).all(-1)).any(-1)
        against = about & phrases.contradict(known)
        one = (known.things[:, None] == known.things) & ~known.contradict(known)  # (m, m), may be about one thing
        false = against.any(-1) & (~about | against | (against @ one)).all(-1)
        false |= np.isin(phrases.things, list(self.absent))
        says = (phrases.senses != 0).any(-1) & (phrases.things != "")
        tells = says | np.isin(phrases.things, list(NAMED_THINGS))
        return np.where(tells & (true | false), true, -1).astype(np.int8)

    @cached_property
    def _encoded(self) -> "EncodedMeanings":
        return EncodedMeanings.of(self.meanings)


class EncodedMeanings(NamedTuple):
    """What n phrases say, as numbers."""

    things: np.ndarray
    """(n,) str, what they are about; empty if nothing."""
    senses: np.ndarray
    """(n, kinds) int64, what the words of each kind mean: one bit for each sense."""
    groups: np.ndarray
    """(n, kinds) int64, the groups of the words, likewise."""

    @classmethod
    def of(cls, meanings: Sequence[Meaning]) -> "EncodedMeanings":
        bits = np.zeros((2, len(meanings), len(_KINDS)), dtype=np.int64)
        for row, meaning in enumerate(meanings):
            for kind, senses in meaning.says.items():
                for sense in senses:
                    bits[:, row, _KINDS.index(kind)] |= _BITS[kind, sense]
        return cls(np.array([meaning.thing or "" for meaning in meanings], dtype=np.str_), *bits)

    def contradict(self, others: "EncodedMeanings") -> np.ndarray:
        """(n, m) bool, whether two phrases, if they are about one thing, cannot both be true."""
        ours, theirs = self.groups[:, None], others.groups
        return ((ours & theirs == 0) & (ours != 0) & (theirs != 0)).any(-1)


def known_people(captions: Mapping[Person, Sequence[Sequence[Meaning]]]) -> dict[Person, KnownPerson]:
    """What is known of each person.

    Args:
        captions: for each person, and each caption, what its phrases say.
    """
    absent = absent_things(
        {
            person: [{phrase.thing for phrase in caption if phrase.thing is not None} for caption in of_person]
            for person, of_person in captions.items()
        }
    )
    found = {}
    for person, of_person in captions.items():
        meanings: list[Meaning] = []
        for phrase in chain.from_iterable(of_person):
            if phrase.tells and phrase not in meanings:
                meanings.append(phrase)
        found[person] = KnownPerson(meanings, absent[person])
    return found


def absent_things(mentioned: Mapping[Person, Sequence[Collection[str]]]) -> dict[Person, frozenset[str]]:
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
