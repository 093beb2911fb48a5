"""Tokenisers from captions to ids: WordPiece with the cleaning of BLIP and CADA, and CLIP's byte-pair encoding.

BLIP and CADA lower-case a caption, replace some punctuation by spaces and keep 72 words and 73 ids. The WordPiece
vocabulary is bert-base-uncased's plus ``[DEC]`` and ``[ENC]``, appended in this order. Ids are not padded here; the
collate function pads to the longest caption of a batch.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerFast

from cada_plugin.errors import ConfigError
from cada_plugin.portable.captions import CaptionRules, CLIPRules
from cada_plugin.registry import TASK_UTILS

DECODE_TOKEN, ENCODE_TOKEN = "[DEC]", "[ENC]"
# Error messages advise this setting, because it changes the model and the pipelines together. If a user changed only
# one of them, the model would get ids of another vocabulary.
_SETTING = "set tokenizer.vocab, which the model and the pipelines share,"
_SHIPPED = {"procedural": str(Path(__file__).with_name("procedural_vocab.txt"))}


def _require_special_tokens(vocab: str, tokens: dict[str, int]) -> None:
    missing = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} - tokens.keys()
    if missing:
        raise ConfigError(f"{vocab} is not a WordPiece vocabulary: it lacks {', '.join(sorted(missing))}. {_advice()}")


def _advice() -> str:
    return (
        f"{_SETTING} to a local vocab.txt of bert-base-uncased, or to one that ships with the plugin: "
        f"{', '.join(_SHIPPED)}"
    )


def _from_pretrained(vocab: str, failure: str) -> PreTrainedTokenizerFast:
    """A tokenizer from a folder or from the Hugging Face hub. Code that comes with it is never run."""
    try:
        return AutoTokenizer.from_pretrained(vocab, trust_remote_code=False)
    except Exception as error:  # a damaged folder can raise anything; the tokenizers package raises plain Exceptions
        raise ConfigError(failure) from error


@TASK_UTILS.register_module()
class CaptionTokenizer(CaptionRules):
    """WordPiece tokenizer with ``[DEC]`` and ``[ENC]``.

    Args:
        vocab: a ``vocab.txt``, a folder with a Hugging Face BERT tokenizer, or a model name such as
            ``bert-base-uncased`` that transformers can fetch or has in its cache. ``procedural`` is
            the small vocabulary of the procedural pedestrians, which ships with the plugin.
        max_words: the most words of a caption to keep.
        max_length: the most ids to keep, ``[CLS]`` and ``[SEP]`` included. A longer caption loses its last word pieces
            and keeps ``[SEP]``.
    """

    def __init__(self, vocab: str = "bert-base-uncased", max_words: int = 72, max_length: int = 73) -> None:
        if max_length < 3:
            raise ConfigError(
                f"max_length={max_length} leaves no room for a word between [CLS] and [SEP]: use 3 or more"
            )
        self.vocab, self.max_words, self.max_length = vocab, max_words, max_length
        self._tokenizer = self._load(_SHIPPED.get(vocab, vocab))
        self._tokenizer.split_special_tokens = True  # "[SEP]" or "<|endoftext|>" in a caption is plain text
        self._set_special_tokens()

    def _set_special_tokens(self) -> None:
        self._tokenizer.add_special_tokens({"additional_special_tokens": [DECODE_TOKEN, ENCODE_TOKEN]})
        ids = self._tokenizer.convert_tokens_to_ids
        self.pad_id, self.mask_id, self.end_id = ids("[PAD]"), ids("[MASK]"), ids("[SEP]")
        self.dec_id, self.enc_id = ids(DECODE_TOKEN), ids(ENCODE_TOKEN)

    @property
    def word_ids(self) -> list[int]:
        """All ids that are not special tokens."""
        return sorted(set(range(len(self))) - set(self._tokenizer.all_special_ids))

    @staticmethod
    def _load(vocab: str) -> BertTokenizerFast:
        if os.path.isfile(vocab):
            try:
                text = Path(vocab).read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise ConfigError(f"{vocab} cannot be read ({error.strerror}): {_advice()}") from error
            tokens = {token: i for i, token in enumerate(text.splitlines())}
            _require_special_tokens(vocab, tokens)  # transformers would silently add missing ones
            return BertTokenizerFast(vocab=tokens, do_lower_case=True)
        tokenizer = _from_pretrained(
            vocab,
            f"tokenizer vocab={vocab!r} is neither a vocab.txt, a folder with a tokenizer, nor a model name that "
            f"transformers can fetch or find in its cache: {_advice()}",
        )
        _require_special_tokens(vocab, tokenizer.get_vocab())
        return tokenizer

    def __len__(self) -> int:
        """Size of the vocabulary, ``[DEC]`` and ``[ENC]`` included."""
        return len(self._tokenizer)

    def pieces(self, words: list[str]) -> tuple[list[int], list[int | None]]:
        encoding = self._tokenizer(words, is_split_into_words=True, add_special_tokens=True, verbose=False)
        return list(encoding["input_ids"]), encoding.word_ids()

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer(list(texts), verbose=False)["input_ids"]]

    def decode(self, ids: list[int]) -> list[str]:
        """The word pieces of ids, for figures and logs."""
        return self._tokenizer.convert_ids_to_tokens(ids)

    def save(self, folder: str | os.PathLike) -> None:
        """Write the vocabulary as a folder that ``vocab`` takes, with a ``tokenizer.json``."""
        self._tokenizer.save_pretrained(folder)


@TASK_UTILS.register_module()
class CLIPCaptionTokenizer(CLIPRules, CaptionTokenizer):
    """CLIP's byte-pair tokenizer. Cleaning only lower-cases and collapses spaces.

    CLIP has no mask token. As in IRRA, the mask takes the id of the last learnt byte pair, 49405, which does not occur
    in captions of people.

    Args:
        vocab: a folder with the tokenizer of a Hugging Face CLIP, or a model name such as
            ``openai/clip-vit-base-patch16`` that transformers can fetch or has in its cache.
        max_words: the most words of a caption to keep.
        max_length: the most ids to keep, start and end token included. A longer caption loses its last word pieces and
            keeps the end token.
    """

    def __init__(self, vocab: str = "openai/clip-vit-base-patch16", max_words: int = 75, max_length: int = 77) -> None:
        super().__init__(vocab, max_words, max_length)

    @staticmethod
    def _load(vocab: str) -> PreTrainedTokenizerFast:
        advice = f"{_SETTING} to the folder of a Hugging Face CLIP, with tokenizer.json or vocab.json"
        tokenizer = _from_pretrained(vocab, f"CLIP tokenizer vocab={vocab!r} cannot be read: {advice}")
        if not tokenizer.bos_token or not tokenizer.eos_token:
            raise ConfigError(f"{vocab} is not a tokenizer of CLIP, it has no start and end token: {advice}")
        return tokenizer

    def _set_special_tokens(self) -> None:
        self.end_id, self.mask_id = self._tokenizer.eos_token_id, self._tokenizer.bos_token_id - 1
        self.pad_id = self._tokenizer.pad_token_id
