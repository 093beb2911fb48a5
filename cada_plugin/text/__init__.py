"""Caption processing: cleaning, tokenisers, attribute taggers, phrase chunks. No dependence on images or models."""

from cada_plugin.portable.captions import EncodedCaption, clean_caption
from cada_plugin.portable.phrases import phrase_spans

from .tagger import LexiconTagger, NLTKTagger, SpacyTagger
from .tokenizer import CaptionTokenizer, CLIPCaptionTokenizer

__all__ = [
    "CLIPCaptionTokenizer",
    "CaptionTokenizer",
    "EncodedCaption",
    "LexiconTagger",
    "NLTKTagger",
    "SpacyTagger",
    "clean_caption",
    "phrase_spans",
]
