"""The rules by which a caption becomes ids, and a tokenizer that follows them without transformers.

BLIP and CADA lower-case a caption, replace some punctuation by spaces and keep 72 words and 73 ids. CLIP only
lower-cases and collapses spaces.
"""

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cada_plugin.errors import CheckpointError, needs_extra

_BLANKED = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))
_WORD = re.compile(r"\w+(?:[-']\w+)*|[^\w\s]")


def clean_caption(caption: str, max_words: int = 72) -> str:
    """Lower-case, replace the ten marks that BLIP removes by spaces, collapse spaces, keep ``max_words`` words."""
    return " ".join(caption.lower().translate(_BLANKED).split()[:max_words])


class EncodedCaption(NamedTuple):
    """One caption as ids. ``word_index``, as long as ``input_ids``, gives for each word piece the position of its word
    in ``words``, or -1 for ``[CLS]`` and ``[SEP]``."""

    input_ids: list[int]
    word_index: list[int]
    words: list[str]

    @property
    def read_words(self) -> list[str]:
        """The words that have a piece: all but those beyond the longest caption of the model."""
        return self.words[: max(self.word_index) + 1]


class CaptionRules(ABC):
    """BLIP's rules. Subclasses set the three attributes and write :meth:`pieces` and :meth:`lengths`."""

    max_words: int
    max_length: int
    end_id: int

    @abstractmethod
    def pieces(self, words: list[str]) -> tuple[list[int], list[int | None]]:
        """Ids of a caption that is split into words, start and end included, and the word of each id."""

    @abstractmethod
    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Number of ids of each cleaned caption, start and end included."""

    def encode(self, caption: str) -> EncodedCaption:
        """Clean and tokenise one caption."""
        words = self.split(caption)
        ids, word_index = self.pieces(words)
        if len(ids) > self.max_length:
            ids = [*ids[: self.max_length - 1], self.end_id]
            word_index = [*word_index[: self.max_length - 1], None]
        return EncodedCaption(ids, [-1 if w is None else w for w in word_index], words)

    def clean(self, caption: str) -> str:
        """The cleaned text, which is what gets tokenised."""
        return clean_caption(caption, self.max_words)

    def split(self, caption: str) -> list[str]:
        """Words and punctuation marks of the cleaned caption. Taggers tag this list."""
        return _WORD.findall(self.clean(caption))

    def count_truncated(self, captions: Sequence[str]) -> int:
        """How many captions ``encode`` would cut. All are tokenised in one call, about 20,000 captions per second."""
        lengths = self.lengths([self.clean(c) for c in captions])
        words = (self._count_words(caption) for caption in captions)
        return sum(i > self.max_length or w > self.max_words for i, w in zip(lengths, words, strict=True))

    def _count_words(self, caption: str) -> int:
        """Number of words of the cleaned caption before it is cut."""
        return len(clean_caption(caption, sys.maxsize).split())


class CLIPRules(CaptionRules):
    """CLIP's rules: cleaning only lower-cases and collapses spaces, and words are what stands between spaces."""

    def clean(self, caption: str) -> str:
        return " ".join(caption.lower().split()[: self.max_words])

    def _count_words(self, caption: str) -> int:
        return len(caption.split())

    def split(self, caption: str) -> list[str]:
        return self.clean(caption).split()


class _FromFile(CaptionRules):
    """A tokenizer from the ``tokenizer.json`` of an exported folder; it gives the same ids as the model's own.

    Args:
        path: of the file.
        max_words, max_length: limits of a caption, as in ``CaptionTokenizer``.
        end_id: id of the token that ends every caption.

    Raises:
        CheckpointError: the file is missing or damaged.
    """

    def __init__(self, path: Path, max_words: int, max_length: int, end_id: int) -> None:
        with needs_extra("onnx"):
            from tokenizers import Tokenizer
        self.max_words, self.max_length, self.end_id = max_words, max_length, end_id
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exceptions
            raise CheckpointError(f"{path} is missing or damaged ({error}): export the model again") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # "[SEP]" in a caption is plain text

    def pieces(self, words: list[str]) -> tuple[list[int], list[int | None]]:
        encoding = self._tokenizer.encode(words, is_pretokenized=True)
        return list(encoding.ids), list(encoding.word_ids)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]


class WordPieceFile(_FromFile):
    """Of a model with ``CaptionTokenizer``."""

    def decode(self, ids: list[int]) -> list[str]:
        """The word pieces of ids."""
        return [self._tokenizer.id_to_token(number) for number in ids]


class CLIPFile(CLIPRules, _FromFile):
    """Of a model with ``CLIPCaptionTokenizer``."""
