"""Whether a phrase is true of a person of whom captions tell, written out phrase by phrase."""

from collections.abc import Mapping

from cada_plugin.portable.meanings import KINDS, NAMED_THINGS, Meaning
from cada_plugin.text.known_people import KnownPerson

KINDS_HERE = KINDS | {"colour of marks": KINDS["colour"], "shade": "dark; pale light bright"}


def group(kind: str, sense: str) -> str:
    """All the words of the group that a word belongs to."""
    return next((one for one in KINDS_HERE[kind].split(";") if sense in one.replace("/", " ").split()), sense)


def contradict(a: Mapping[str, frozenset[str]], b: Mapping[str, frozenset[str]]) -> bool:
    """Whether what two phrases say of a thing cannot both be true of one."""
    for kind in set(a) & set(b):
        if not {group(kind, sense) for sense in a[kind]} & {group(kind, sense) for sense in b[kind]}:
            return True
    return False


def is_true(phrase: Meaning, person: KnownPerson) -> bool | None:
    if phrase.thing is None or not (phrase.says or phrase.thing in NAMED_THINGS):
        return None
    if phrase.thing in person.absent:
        return False
    same = [other.says for other in person.meanings if other.thing == phrase.thing]
    for other in same:
        if all(other.get(kind) == senses for kind, senses in phrase.says.items()):
            return True
    against = [other for other in same if contradict(phrase.says, other)]
    for other in same:
        if other not in against and all(contradict(other, one) for one in against):
            return None  # speaks of something else, of which the phrase may be true
    return False if against else None
