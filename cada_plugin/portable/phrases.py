"""Attribute phrases of a caption, by a word list and the chunk grammar of CADA's phrase mode. Works without torch."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources

_CODES = {"JJ": "J", "CC": "C", "NN": "N", "NNS": "S"}
_PHRASE = re.compile(r"(?:JC?)*N?S?")
_ARTICLES = frozenset({"a", "an", "the", "his", "her", "their", "its", "this", "that", "these", "those"})
_PUNCTUATION = re.compile(r"[^\w\s]")


@lru_cache(maxsize=1)
def _lexicon() -> dict[str, str]:
    # by the path within cada_plugin: to import cada_plugin.text needs torch
    text = resources.files("cada_plugin").joinpath("text", "lexicon.json").read_text(encoding="utf-8")
    return {word: tag for tag, words in json.loads(text).items() for word in words}


def lexicon_tags(words: Sequence[str]) -> list[str]:
    """Penn tags of words by the word list that ships with the plugin. ``and`` and ``or`` get the tag CC, and every
    unknown word gets IN."""
    lexicon = _lexicon()
    return ["CC" if word in ("and", "or") else lexicon.get(word, "IN") for word in words]


def phrase_spans(tags: Sequence[str]) -> list[tuple[int, int]]:
    """Word spans ``[start, end)`` of the attribute phrases: ``(<JJ><CC>?)*<NN>?<NNS>?`` over Penn tags.

    >>> phrase_spans(["DT", "JJ", "CC", "JJ", "NN", "IN", "NNS"])  # a red and white shirt with stripes
    [(1, 5), (6, 7)]
    """
    coded = "".join(_CODES.get(tag, "o") for tag in tags)
    return [match.span() for match in _PHRASE.finditer(coded) if match.end() > match.start()]


def without_words(words: Sequence[str], start: int, stop: int) -> str:
    """The caption of ``words`` without those of the span [start, stop), and without the article before it.

    >>> without_words(["a", "man", "in", "a", "red", "coat", ",", "with", "jeans"], 4, 6)
    'a man in, with jeans'
    """
    if start and words[start - 1] in _ARTICLES:
        start -= 1
    text = ""
    for word in (*words[:start], *words[stop:]):
        # no space before a mark: marks of their own would count as words, and the end of a long caption would be cut
        text += word if not text or _PUNCTUATION.fullmatch(word) else f" {word}"
    return text
