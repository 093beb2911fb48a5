"""Captions: cleaning and WordPiece, attribute taggers, phrase chunks. Knows nothing of images or models."""

from .chunks import phrase_spans
from .tagger import LexiconTagger, NLTKTagger, SpacyTagger
from .tokenizer import CaptionTokenizer, CLIPCaptionTokenizer, EncodedCaption, clean_caption

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
