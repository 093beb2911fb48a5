"""Attribute phrases: the chunk grammar ``(<JJ><CC>?)*<NN>?<NNS>?`` over Penn tags (CADA's phrase mode)."""

import re

# Penn tags of the words that may be masked for ARA
ATTRIBUTE_TAGS = frozenset({"JJ", "NN", "NNS", "NNP", "NNPS"})

_CODES = {"JJ": "J", "CC": "C", "NN": "N", "NNS": "S"}
_PHRASE = re.compile(r"(?:JC?)*N?S?")


def phrase_spans(tags: list[str]) -> list[tuple[int, int]]:
    """Word spans ``[start, end)`` of the attribute phrases.

    >>> phrase_spans(["DT", "JJ", "CC", "JJ", "NN", "IN", "NNS"])  # a red and white shirt with stripes
    [(1, 5), (6, 7)]
    """
    coded = "".join(_CODES.get(tag, "o") for tag in tags)
    return [match.span() for match in _PHRASE.finditer(coded) if match.end() > match.start()]
