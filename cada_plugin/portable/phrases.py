"""Attribute phrases of a caption, by a word list and the chunk grammar of CADA's phrase mode. Works without torch."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources

_CODES = {"JJ": "J", "CC": "C", "NN": "N", "NNS": "S"}
_PHRASE = re.compile(r"(?:JC?)*N?S?")
_ARTICLES = frozenset({"a", "an", "the", "his", "her", "their", "its", "this", "that", "these", "those"})
_PREPOSITIONS = frozenset({"in", "on", "at", "over", "across", "around", "under", "by"})
PLACES = frozenset({
    "ankle", "ankles", "arm", "arms", "back", "chest", "elbow", "hand", "hands", "head", "hip", "hips", "knee", "knees",
    "neck", "shoulder", "shoulders", "side", "waist", "wrist",
})  # fmt: skip
"""Nouns that say where a thing is worn or carried."""
MARKS = frozenset({"checks", "dots", "flowers", "spots", "squares", "stripes"})
"""Nouns for the pattern of a garment."""
_HAIRDOS = frozenset({"bun", "ponytail", "pigtail", "pigtails", "braid", "braids"})
_JOINERS = ("-", "'")
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


def whole_phrase_spans(words: Sequence[str], tags: Sequence[str]) -> list[tuple[int, int]]:
    """Word spans ``[start, end)`` of the attribute phrases, each with what belongs to its thing: where it is, the
    pattern of a garment, how hair is worn; and compound nouns as one.

    Alone, "right hand" or "black checks" say nothing that a picture could show to be true or false.

    >>> words = "a black sun hat and a red bag in her left hand".split()
    >>> [" ".join(words[start:end]) for start, end in whole_phrase_spans(words, lexicon_tags(words))]
    ['black sun hat', 'red bag in her left hand']
    """
    whole: list[tuple[int, int]] = []
    for start, end in phrase_spans(tags):
        if whole and _belongs(words, tags, whole[-1], (start, end)):
            whole[-1] = whole[-1][0], end
        else:
            whole.append((start, end))
    return whole


def _belongs(words: Sequence[str], tags: Sequence[str], thing: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether a phrase says more of the thing of the phrase before it."""
    link, last = list(words[thing[1] : other[0]]), words[other[1] - 1]
    if not link:
        return tags[thing[1] - 1].startswith("NN") and tags[other[0]].startswith("NN")
    if len(link) == 2 and link[1] in _ARTICLES:
        link.pop()
    if link == ["with"]:
        return last in MARKS
    is_hairdo = last in _HAIRDOS and words[thing[1] - 1] == "hair"
    return len(link) == 1 and link[0] in _PREPOSITIONS and (last in PLACES or is_hairdo)


def phrase_numbers(pieces: Sequence[str]) -> list[int]:
    """The number of the whole attribute phrase that each WordPiece of a caption is in, from 0, and -1 outside of them.

    The words are put together again from the pieces; hyphens and apostrophes join what stands beside them.

    >>> phrase_numbers(["[CLS]", "a", "pale", "t", "-", "shirt", "and", "jean", "##s", "[SEP]"])
    [-1, -1, 0, 0, 0, 0, -1, 1, 1, -1]
    """
    words: list[str] = []
    word_of = []
    joins = False
    for place, piece in enumerate(pieces):
        joiner = piece in _JOINERS and 0 < place < len(pieces) - 1 and _is_word(pieces[place - 1], pieces[place + 1])
        if words and (joiner or joins or piece.startswith("##")):
            words[-1] += piece.removeprefix("##")
        else:
            words.append(piece)
        joins = joiner
        word_of.append(len(words) - 1)
    spans = enumerate(whole_phrase_spans(words, lexicon_tags(words)))
    number_of = {word: number for number, span in spans for word in range(*span)}
    return [number_of.get(word, -1) for word in word_of]


def _is_word(*pieces: str) -> bool:
    return all(_PUNCTUATION.match(piece.removeprefix("##")) is None for piece in pieces)


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
