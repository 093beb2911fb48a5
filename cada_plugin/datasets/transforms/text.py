"""Caption transforms: tokenising, attribute tags, and the masking that the ARA loss trains on."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from cada_plugin.datasets.cache import read_cache, write_cache
from cada_plugin.errors import ConfigError
from cada_plugin.portable.meanings import Meaning, phrase_meaning
from cada_plugin.portable.phrases import whole_phrase_spans
from cada_plugin.progress import progress_bar
from cada_plugin.registry import TASK_UTILS, TRANSFORMS, build_part
from cada_plugin.text import phrase_spans
from cada_plugin.text.known_people import KnownPerson, known_people
from cada_plugin.text.opposites import Opposites
from cada_plugin.text.tagger import ATTRIBUTE_TAGS


@TRANSFORMS.register_module()
class EncodeCaptions:
    """Tokenise ``caption`` or ``captions`` into ``encoded``, a list of ``EncodedCaption``.

    Args:
        tokenizer: config of the model's tokenizer.
    """

    def __init__(self, tokenizer: dict) -> None:
        self.tokenizer = build_part(TASK_UTILS, tokenizer)

    def prepare(self, captions: list[str]) -> None:
        """Log, once per data set, how many captions exceed the tokenizer's limits and are cut."""
        cut = self.tokenizer.count_truncated(captions)
        if cut:
            print_log(
                f"{cut:,} of {len(captions):,} captions exceed {self.tokenizer.max_words} words or "
                f"{self.tokenizer.max_length} tokens: they are cut before their last token",
                logger="current",
            )

    def __call__(self, item: dict) -> dict:
        captions = item["captions"] if "captions" in item else [item["caption"]]
        return {**item, "encoded": [self.tokenizer.encode(caption) for caption in captions]}


class _Tagging:
    """Tags of the captions of a data set. Each caption is tagged once, because the data set calls ``prepare`` before
    its workers start; captions that ``KeepPhrases`` cut are new ones, and tagged in every epoch.

    Args:
        tagger: config of a tagger of :mod:`cada_plugin.text.tagger`.
        tokenizer: config of the model's tokenizer; it splits captions into the words that the tagger gets.
    """

    def __init__(self, tagger: dict, tokenizer: dict) -> None:
        self.tagger = build_part(TASK_UTILS, tagger)
        self.tokenizer = build_part(TASK_UTILS, tokenizer)
        self._cache: dict[str, list[str]] = {}

    def prepare(self, captions: Iterable[str]) -> None:
        """Tag all captions in advance. The tags are kept in the cache folder between runs."""
        if not self.tagger.cacheable:
            return
        captions = sorted(set(captions))
        # the tokenizer decides what a word is, and max_words how many of them are tagged
        rules = type(self.tokenizer).__name__
        key = "\n".join([self.tagger.name, rules, str(self.tokenizer.max_words), *captions])
        digest = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
        name = f"tags-{re.sub('[^a-zA-Z0-9_.-]+', '_', self.tagger.name)}-{digest}.json"
        self._cache = read_cache(name) or {}
        if len(self._cache) != len(captions):
            progress = progress_bar(
                captions, desc=f"tagging captions ({self.tagger.name})", delay=2, disable=not is_main_process()
            )
            self._cache = {caption: self.tagger.tag(self.tokenizer.split(caption)) for caption in progress}
            write_cache(name, self._cache)

    def tags(self, caption: str, words: list[str]) -> list[str]:
        """Penn tags of the words of a caption."""
        return self._cache.get(caption) or self.tagger.tag(words)


@TRANSFORMS.register_module()
class KeepPhrases(_Tagging):
    """Cut a training caption to some of its attribute phrases, so that the model learns to read short sentences.

    With the given probability, ``caption`` becomes a list of 1 to n of its n phrases, as many and which ones at random,
    in their order and with their articles: "A woman in a red coat carries a black backpack." becomes "a red coat and a
    black backpack". Otherwise, and without any phrase, the caption stays. The transform stands before
    ``EncodeCaptions``. A cut caption fits more people than the one it was written for, whom the losses take for wrong
    ones, so a small probability is advised.

    Args:
        tagger, tokenizer: see ``TagAttributes``, which has the same ones.
        probability: probability of cutting a caption.
    """

    def __init__(self, tagger: dict, tokenizer: dict, probability: float) -> None:
        if not 0 <= probability <= 1:
            raise ConfigError(f"KeepPhrases probability={probability}: use a number from 0 to 1")
        super().__init__(tagger, tokenizer)
        self.probability = probability

    def __call__(self, item: dict) -> dict:
        if "caption" not in item or "encoded" in item:
            raise ConfigError(
                "KeepPhrases cuts the captions of training items before they are tokenised: put it before "
                "EncodeCaptions, and leave it out of the pipelines of val_dataloader and test_dataloader"
            )
        if torch.rand(()) >= self.probability:
            return item
        words = self.tokenizer.split(item["caption"])
        spans = whole_phrase_spans(words, self.tags(item["caption"], words))
        if not spans:
            return item
        count = 1 + int(torch.randint(len(spans), ()))
        kept = sorted(torch.randperm(len(spans))[:count].tolist())
        phrases = [" ".join(_with_article(words, *spans[number])) for number in kept]
        return {**item, "caption": " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))}


def _with_article(words: list[str], start: int, end: int) -> list[str]:
    return words[start - (start > 0 and words[start - 1] in ("a", "an")) : end]


@TRANSFORMS.register_module()
class TagAttributes(_Tagging):
    """Add to every word piece the part-of-speech tag of its word and the number of its attribute phrase.

    The new fields are ``piece_tags`` (list of Penn tags, "" for ``[CLS]`` and ``[SEP]``) and ``phrase_index`` (list, -1
    outside of phrases). The transform is for training items only. Each caption is tagged once, because the data set
    calls ``prepare`` before its workers start.

    Args:
        tagger: config of a tagger of :mod:`cada_plugin.text.tagger`.
        tokenizer: config of the model's tokenizer; it splits captions into the words that the tagger gets.
    """

    def __call__(self, item: dict) -> dict:
        encoded = item["encoded"][0]
        tags = self.tags(item["caption"], encoded.words)
        phrase_of = {}
        for number, (start, end) in enumerate(phrase_spans(tags)):
            phrase_of.update(dict.fromkeys(range(start, end), number))
        return {
            **item,
            "piece_tags": ["" if word < 0 else tags[word] for word in encoded.word_index],
            "phrase_index": [phrase_of.get(word, -1) for word in encoded.word_index],
        }


@TRANSFORMS.register_module()
class MaskAttributes:
    """Replace random attribute words by ``[MASK]``.

    The new fields are ``masked_ids`` and ``masked_positions`` (bool), lists with one entry per word piece. ``[CLS]``
    and ``[SEP]`` are never masked (the released code can mask the final ``[SEP]``).

    Args:
        tokenizer: config of the model's tokenizer.
        unit: ``words`` (the released setting) masks each word piece tagged JJ, NN, NNS, NNP or NNPS independently;
            ``phrases`` masks whole attribute phrases.
        probability: probability of masking a unit. The released values are 0.4 for words and 0.8 for phrases.
    """

    UNITS = ("words", "phrases")

    def __init__(self, tokenizer: dict, unit: str = "words", probability: float = 0.4) -> None:
        if unit not in self.UNITS:
            raise ConfigError(f"MaskAttributes unit={unit!r}: use one of {', '.join(self.UNITS)}")
        if not 0 <= probability <= 1:
            raise ConfigError(f"MaskAttributes probability={probability}: use a number from 0 to 1")
        self.mask_id = build_part(TASK_UTILS, tokenizer).mask_id
        self.unit, self.probability = unit, probability

    def __call__(self, item: dict) -> dict:
        if "piece_tags" not in item:
            raise ConfigError("MaskAttributes needs tags: put dict(type='TagAttributes', tagger=...) before it")
        ids = item["encoded"][0].input_ids
        if self.unit == "words":
            sampled = torch.rand(len(ids)) < self.probability
            masked = [bool(s) and tag in ATTRIBUTE_TAGS for s, tag in zip(sampled, item["piece_tags"], strict=True)]
        else:
            sampled = torch.rand(max(item["phrase_index"]) + 1) < self.probability
            masked = [phrase >= 0 and bool(sampled[phrase]) for phrase in item["phrase_index"]]
        masked_ids = [self.mask_id if m else i for i, m in zip(ids, masked, strict=True)]
        return {**item, "masked_ids": masked_ids, "masked_positions": masked}


@TRANSFORMS.register_module()
class MaskTokens:
    """Mask random word pieces of any kind, as BERT does.

    The new fields are ``masked_ids`` and ``masked_positions`` (bool), lists with one entry per word piece. Of the
    chosen pieces 80 % become ``[MASK]``, 10 % become a random token and 10 % stay (Devlin et al., NAACL 2019, section
    3.1). The first and the last token are never chosen. IRRA is trained this way. For ARA this is the ablation: it
    masks any token instead of attributes.

    Args:
        tokenizer: config of the model's tokenizer.
        probability: probability of choosing a piece.
    """

    def __init__(self, tokenizer: dict, probability: float = 0.15) -> None:
        if not 0 <= probability <= 1:
            raise ConfigError(f"MaskTokens probability={probability}: use a number from 0 to 1")
        tokenizer = build_part(TASK_UTILS, tokenizer)
        self.mask_id, self.words = tokenizer.mask_id, torch.tensor(tokenizer.word_ids)
        self.probability = probability

    def __call__(self, item: dict) -> dict:
        ids = torch.tensor(item["encoded"][0].input_ids)
        masked = torch.rand(len(ids)) < self.probability
        masked[[0, -1]] = False
        kind = torch.rand(len(ids))
        random_words = self.words[torch.randint(len(self.words), (len(ids),))]
        masked_ids = torch.where(masked & (kind < 0.8), self.mask_id, ids)
        masked_ids = torch.where(masked & (kind >= 0.9), random_words, masked_ids)
        return {**item, "masked_ids": masked_ids.tolist(), "masked_positions": masked.tolist()}


class _Falsifying:
    """Transforms that replace words by their opposites.

    Args:
        tokenizer: config of the model's tokenizer.
    """

    def __init__(self, tokenizer: dict) -> None:
        self.tokenizer = build_part(TASK_UTILS, tokenizer)
        self._opposites: Opposites | None = None

    def prepare(self, captions: Iterable[str]) -> None:
        """Count the words of all training captions, because only these may replace others."""
        self._opposites = Opposites(self.tokenizer.split(caption) for caption in captions)

    @property
    def opposites(self) -> Opposites:
        if self._opposites is None:
            raise ConfigError(
                f"{type(self).__name__} must be a direct step of the data set's pipeline, which prepares it"
            )
        return self._opposites


@TRANSFORMS.register_module()
class FalsifyCaption(_Falsifying):
    """Add ``false_ids``: a copy of the caption in which a word or two are replaced or exchanged so that it is false.

    ``CADA(false_captions=...)`` trains the match head on them. The list is empty if no word of the caption has an
    opposite, or if the copy has another number of word pieces. See :mod:`cada_plugin.text.opposites`.

    Args:
        tokenizer: config of the model's tokenizer.
    """

    def __call__(self, item: dict) -> dict:
        false = self.opposites.falsify(item["encoded"][0].words)
        ids = [] if false is None else self.tokenizer.encode(" ".join(false)).input_ids
        return {**item, "false_ids": ids if len(ids) == len(item["encoded"][0].input_ids) else []}


class SaidPhrase(NamedTuple):
    """An attribute phrase, alone."""

    words: tuple[str, ...]
    pieces: tuple[int, ...]
    """The word pieces of its words."""

    @property
    def meaning(self) -> Meaning:
        return phrase_meaning(self.words)


@TRANSFORMS.register_module()
class ReadPhrases(_Tagging):
    """Add the attribute phrases of a caption that tell something, and what all captions of its person tell.

    The new fields are ``said_phrases``, a list of :class:`SaidPhrase`, and ``known``, a :class:`KnownPerson`.
    ``CADA(loss_phrases=...)`` judges each phrase of a batch with each of its images, and what is known of the person
    decides whether it is true. All captions count, because people call one colour by several names: what one of them
    says is not false. And what none of several captions speaks of is absent, if people mostly speak of it where it is
    there. Phrases are whole ones, see :func:`cada_plugin.portable.phrases.whole_phrase_spans`. The transform stands
    after ``EncodeCaptions``.

    Args:
        tagger, tokenizer: see ``TagAttributes``, which has the same ones.
    """

    def __init__(self, tagger: dict, tokenizer: dict) -> None:
        super().__init__(tagger, tokenizer)
        self._known: dict[int, KnownPerson] | None = None

    def prepare_people(self, captions: Mapping[int, Sequence[str]]) -> None:
        """Read all captions of each person."""
        self._known = known_people(
            {person: [self._meanings(caption) for caption in of_person] for person, of_person in captions.items()}
        )

    def _meanings(self, caption: str) -> list[Meaning]:
        words = self.tokenizer.split(caption)
        spans = whole_phrase_spans(words, self.tags(caption, words))
        return [phrase_meaning(words[start:end]) for start, end in spans]

    def __call__(self, item: dict) -> dict:
        if self._known is None:
            raise ConfigError("ReadPhrases must be a direct step of the data set's pipeline, which prepares it")
        encoded = item["encoded"][0]
        words = encoded.read_words  # of a long caption, the end is cut
        said = []
        for start, end in whole_phrase_spans(words, self.tags(item["caption"], encoded.words)[: len(words)]):
            pieces = [
                piece for piece, word in zip(encoded.input_ids, encoded.word_index, strict=True) if start <= word < end
            ]
            said.append(SaidPhrase(tuple(words[start:end]), tuple(pieces)))
        said = [phrase for phrase in said if phrase.meaning.tells]
        return {**item, "said_phrases": said, "known": self._known[item["person_id"]]}


@TRANSFORMS.register_module()
class ContradictPhrases(_Falsifying):
    """Add to ``said_phrases`` a copy of each phrase in which a word is replaced by one that excludes it.

    Beside "black bag in her left hand" then also "black bag in her right hand" is judged, with each image of the batch.
    By themselves, two phrases of a batch rarely differ in one detail only, and a head that never meets them learns no
    details. The transform stands after ``ReadPhrases``. See :mod:`cada_plugin.text.opposites`.

    Args:
        tokenizer: config of the model's tokenizer.
    """

    def __call__(self, item: dict) -> dict:
        if "said_phrases" not in item:
            raise ConfigError("ContradictPhrases needs phrases: put dict(type='ReadPhrases', tagger=...) before it")
        copies = []
        for phrase in item["said_phrases"]:
            words = self.opposites.falsify(list(phrase.words))
            if words is not None and phrase_meaning(words) != phrase.meaning:
                pieces = self.tokenizer.encode(" ".join(words)).input_ids[1:-1]
                copies.append(SaidPhrase(tuple(words), tuple(pieces)))
        return {**item, "said_phrases": item["said_phrases"] + copies}
