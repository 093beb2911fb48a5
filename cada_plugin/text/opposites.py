"""False captions that differ from a true one in a word or two, and are known to be false.

"A woman in a red coat with a black bag" becomes "a woman in a black coat with a red bag", or "... with a white bag".
Such counterfactual captions as negatives come from NegCLIP (Yuksekgonul et al., ICLR 2023, arXiv 2210.01936), where
models that never saw them read captions as bags of words.
"""

from collections import Counter
from collections.abc import Iterable

import torch

from cada_plugin.portable.meanings import GROUP_OF, exclude

SWAP = 0.5
"""Probability that a word is exchanged with one of the same caption, if there is one that excludes it. Otherwise a word
of the training captions replaces it."""


class Opposites:
    """Makes false captions out of true ones.

    Args:
        captions: the training captions, as lists of words. Only words that occur in them replace others, in proportion
            to their counts, so that a false caption cannot be told by a strange word.
    """

    def __init__(self, captions: Iterable[list[str]]) -> None:
        counts = Counter(word for words in captions for word in words if word in GROUP_OF)
        self._words: dict[str, list[str]] = {}
        for word in sorted(counts):
            self._words.setdefault(GROUP_OF[word][0], []).append(word)
        self._counts = {kind: torch.tensor([float(counts[w]) for w in words]) for kind, words in self._words.items()}

    def falsify(self, words: list[str]) -> list[str] | None:
        """A false copy of a true caption, or None if no word of it has an opposite. Random, by torch's generator."""
        places = [place for place, word in enumerate(words) if word in GROUP_OF]
        changed = list(words)
        # "black and white" may be one thing, of which "white and black" is true as well
        far = [(a, b) for k, a in enumerate(places) for b in places[k + 1 :] if b - a > 2]
        pairs = [(a, b) for a, b in far if exclude(words[a], words[b])]
        if pairs and torch.rand(()) < SWAP:
            a, b = pairs[int(torch.randint(len(pairs), ()))]
            changed[a], changed[b] = words[b], words[a]
            return _with_articles(changed, (a, b))
        for k in torch.randperm(len(places)).tolist():
            other = self._other(words[places[k]])
            if other is not None:
                changed[places[k]] = other
                return _with_articles(changed, (places[k],))
        return None

    def _other(self, word: str) -> str | None:
        """A word that excludes it; None if there is none."""
        kind = GROUP_OF[word][0]
        candidates = self._words.get(kind, [])
        allowed = [exclude(word, candidate) for candidate in candidates]
        weights = self._counts.get(kind, torch.zeros(0)) * torch.tensor(allowed)
        return candidates[int(torch.multinomial(weights, 1))] if len(candidates) and weights.sum() > 0 else None


def _with_articles(words: list[str], places: tuple[int, ...]) -> list[str]:
    """Correct 'a' and 'an' before the changed words."""
    for place in places:
        if place and words[place - 1] in ("a", "an"):
            words[place - 1] = "an" if words[place][0] in "aeiou" else "a"
    return words
