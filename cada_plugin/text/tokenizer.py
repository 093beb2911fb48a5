"""Captions to WordPiece ids, as BLIP and CADA read them: lower case, a few marks blanked, 72 words, 73 ids.

The vocabulary is bert-base-uncased's plus ``[DEC]`` and ``[ENC]``, appended in this order. Ids are never padded here:
the collate function pads to the longest caption of a batch.
"""

import os
import re
from typing import NamedTuple

from mmengine.logging import print_log
from transformers import AutoTokenizer, BertTokenizerFast

from cada_plugin.errors import ConfigError
from cada_plugin.registry import TASK_UTILS

DECODE_TOKEN, ENCODE_TOKEN = "[DEC]", "[ENC]"
_BLANKED = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))
_WORD = re.compile(r"\w+(?:[-']\w+)*|[^\w\s]")


def clean_caption(caption: str, max_words: int = 72) -> str:
    """Lower-case, blank the ten marks BLIP removes, collapse spaces, keep at most ``max_words`` words."""
    return " ".join(caption.lower().translate(_BLANKED).split()[:max_words])


class EncodedCaption(NamedTuple):
    """One caption as ids. ``word_index[t]`` is the position in ``words`` of the word that piece t belongs to, -1 for
    ``[CLS]`` and ``[SEP]``; both lists are as long as ``input_ids``."""

    input_ids: list[int]
    word_index: list[int]
    words: list[str]
    truncated: bool


@TASK_UTILS.register_module()
class CaptionTokenizer:
    """WordPiece tokenizer with ``[DEC]`` and ``[ENC]``.

    Args:
        vocab: a ``vocab.txt``, a folder with a Hugging Face BERT tokenizer, or a name transformers can resolve
            (``bert-base-uncased``; needs the hub or its cache).
        max_words: words kept of a caption.
        max_length: ids kept, ``[CLS]`` and ``[SEP]`` included. A longer caption is cut before its ``[SEP]``; the number
            of cut captions is in ``num_truncated`` and the first one is reported in the log.
    """

    def __init__(self, vocab: str = "bert-base-uncased", max_words: int = 72, max_length: int = 73) -> None:
        if max_length < 3:
            raise ConfigError(f"max_length={max_length} leaves no room for a word between [CLS] and [SEP]: use 3 or more")
        self.vocab, self.max_words, self.max_length = vocab, max_words, max_length
        self.num_truncated = 0
        self._tokenizer = self._load(vocab)
        self._tokenizer.add_special_tokens({"additional_special_tokens": [DECODE_TOKEN, ENCODE_TOKEN]})
        ids = self._tokenizer.convert_tokens_to_ids
        self.pad_id, self.mask_id, self.sep_id = ids("[PAD]"), ids("[MASK]"), ids("[SEP]")
        self.dec_id, self.enc_id = ids(DECODE_TOKEN), ids(ENCODE_TOKEN)

    @staticmethod
    def _load(vocab: str) -> BertTokenizerFast:
        if os.path.isfile(vocab):
            with open(vocab, encoding="utf-8") as file:
                tokens = file.read().splitlines()
            missing = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} - set(tokens)
            if missing:
                raise ConfigError(f"{vocab} is not a WordPiece vocabulary: it lacks {', '.join(sorted(missing))}")
            return BertTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, do_lower_case=True)
        try:
            return AutoTokenizer.from_pretrained(vocab)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"tokenizer vocab={vocab!r} is neither a vocab.txt, a folder with a tokenizer, nor a model name that "
                "transformers can fetch or find in its cache: set tokenizer.vocab to a local bert-base-uncased vocab.txt"
            ) from error

    def __len__(self) -> int:
        """Size of the vocabulary, ``[DEC]`` and ``[ENC]`` included."""
        return len(self._tokenizer)

    def encode(self, caption: str) -> EncodedCaption:
        """Clean and tokenise one caption."""
        words = _WORD.findall(clean_caption(caption, self.max_words))
        encoding = self._tokenizer(words, is_split_into_words=True, add_special_tokens=True, verbose=False)
        ids, word_index = list(encoding["input_ids"]), encoding.word_ids()
        truncated = len(ids) > self.max_length or len(caption.split()) > self.max_words
        if len(ids) > self.max_length:
            ids = [*ids[: self.max_length - 1], self.sep_id]
            word_index = [*word_index[: self.max_length - 1], None]
        if truncated:
            self._report_truncation(caption)
        return EncodedCaption(ids, [-1 if w is None else w for w in word_index], words, truncated)

    def decode(self, ids: list[int]) -> list[str]:
        """Word pieces of ids, for pictures and logs."""
        return self._tokenizer.convert_ids_to_tokens(ids)

    def _report_truncation(self, caption: str) -> None:
        self.num_truncated += 1
        if self.num_truncated == 1:
            print_log(
                f"A caption exceeds {self.max_words} words or {self.max_length} tokens and is cut at its end "
                f"(reported once; later ones are only counted): {caption[:80]!r}...",
                logger="current",
            )
