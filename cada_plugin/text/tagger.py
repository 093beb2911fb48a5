"""Part-of-speech taggers, which separate attribute words (adjectives and nouns) from the rest of a caption.

Each tagger has ``tag(words) -> Penn tags``, a ``name``, which is part of the key of cached tags, and ``cacheable``. The
latter is False for a tagger that is faster than a cache.
"""

from cada_plugin.errors import MissingExtraError
from cada_plugin.portable.phrases import lexicon_tags
from cada_plugin.registry import TASK_UTILS

# Penn tags of the words that may be masked for ARA
ATTRIBUTE_TAGS = frozenset({"JJ", "NN", "NNS", "NNP", "NNPS"})


@TASK_UTILS.register_module()
class LexiconTagger:
    """Tagger with a word list that ships with the plugin, so that it needs no extra package. The list has the usual
    words of person captions. ``and`` and ``or`` get the tag CC; every unknown word gets IN and is never masked."""

    name = "lexicon"
    cacheable = False  # one dictionary look-up per word is cheaper than a cache

    def tag(self, words: list[str]) -> list[str]:
        return lexicon_tags(words)


@TASK_UTILS.register_module()
class NLTKTagger:
    """NLTK's averaged perceptron tagger, which the released code uses. ``pip install "cada_plugin[nltk]"``."""

    name = "nltk"
    cacheable = True

    def __init__(self) -> None:
        try:
            import nltk
        except ImportError as error:
            raise MissingExtraError('tagger NLTKTagger needs NLTK: pip install "cada_plugin[nltk]"') from error
        try:
            nltk.pos_tag(["word"])
        except LookupError as error:
            raise MissingExtraError(
                "NLTK's tagger data is missing: run  python -m nltk.downloader averaged_perceptron_tagger_eng"
            ) from error
        self._pos_tag = nltk.pos_tag

    def tag(self, words: list[str]) -> list[str]:
        return [tag for _, tag in self._pos_tag(words)]


@TASK_UTILS.register_module()
class SpacyTagger:
    """spaCy's tagger. ``pip install "cada_plugin[spacy]"``.

    Args:
        model: an installed spaCy pipeline with a tagger.
    """

    cacheable = True

    def __init__(self, model: str = "en_core_web_sm") -> None:
        self.name = f"spacy-{model}"
        try:
            import spacy
        except ImportError as error:
            raise MissingExtraError('tagger SpacyTagger needs spaCy: pip install "cada_plugin[spacy]"') from error
        try:
            self._pipeline = spacy.load(model, exclude=["parser", "ner", "lemmatizer"])
        except OSError as error:
            raise MissingExtraError(
                f"spaCy's model {model} is missing: run  python -m spacy download {model}"
            ) from error
        self._doc = spacy.tokens.Doc

    def tag(self, words: list[str]) -> list[str]:
        doc = self._doc(self._pipeline.vocab, words=words)
        for _, component in self._pipeline.pipeline:
            doc = component(doc)
        return [token.tag_ for token in doc]
