"""Captions to ids, attribute taggers, phrases, and the cache of tags."""

import json
import random
import sys
import types

import pytest
from clip_factory import write_tokenizer
from conftest import TOKENIZER

from cada_plugin.datasets.cache import cache_dir
from cada_plugin.datasets.transforms import EncodeCaptions, TagAttributes
from cada_plugin.errors import ConfigError, MissingExtraError
from cada_plugin.portable.phrases import lexicon_tags, phrase_numbers, whole_phrase_spans
from cada_plugin.registry import TASK_UTILS
from cada_plugin.text import (
    CaptionTokenizer,
    CLIPCaptionTokenizer,
    LexiconTagger,
    NLTKTagger,
    SpacyTagger,
    clean_caption,
    phrase_spans,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer("procedural")


# Cleaning and word pieces


@pytest.mark.parametrize("mark", '.!"()*#:;~')
def test_marks_that_blip_blanks_part_words(mark):
    assert clean_caption(f"Red{mark}Coat") == "red coat"


def test_other_marks_stay():
    assert clean_caption(" A  man's T-shirt,\tblue? ") == "a man's t-shirt, blue?"


def test_encode_keeps_72_words():
    tokenizer = CaptionTokenizer("procedural", max_length=200)
    encoded = tokenizer.encode("red " * 100)
    assert tokenizer.decode(encoded.input_ids) == ["[CLS]", *["red"] * 72, "[SEP]"]
    assert len(CaptionTokenizer("procedural", max_words=5).encode("red " * 100).words) == 5


def test_long_caption_is_cut_before_its_sep(tokenizer):
    caption = "a man in a long-sleeved red coat " * 20
    cut, whole = tokenizer.encode(caption), CaptionTokenizer("procedural", max_length=500).encode(caption)
    assert len(cut.input_ids) == len(cut.word_index) == 73
    assert cut.input_ids == [*whole.input_ids[:72], tokenizer.end_id]
    assert cut.word_index == [*whole.word_index[:72], -1]


@pytest.mark.parametrize(("words", "length"), [(72, 73), (4, 73), (72, 8), (100, 90)])
def test_count_truncated_is_what_encode_cuts(words, length):
    tokenizer = CaptionTokenizer("procedural", max_words=words, max_length=length)
    everything = CaptionTokenizer("procedural", max_words=10**6, max_length=10**6)
    captions = ["", "a red coat", "red " * 4, "red " * 6, "red " * 7, "red " * 71, "red " * 72, "red " * 90]
    captions += ["red " * 150, "long-sleeved " * 30, "zebra " * 20, "red " * 199]
    cut = [c for c in captions if tokenizer.encode(c).input_ids != everything.encode(c).input_ids]
    assert tokenizer.count_truncated(captions) == len(cut) > 0


def test_dec_and_enc_follow_the_vocabulary_in_this_order(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "red", "coat"]))
    tokenizer = CaptionTokenizer(str(tmp_path / "vocab.txt"))
    assert (tokenizer.dec_id, tokenizer.enc_id, len(tokenizer)) == (7, 8, 9)
    assert tokenizer.encode("Red coat!").input_ids == [2, 5, 6, 3]
    assert (tokenizer.pad_id, tokenizer.mask_id, tokenizer.end_id) == (0, 4, 3)


def test_caption_cannot_smuggle_special_tokens(tokenizer):
    ids = tokenizer.encode("a [ENC] man [MASK] [SEP]").input_ids
    assert not {tokenizer.enc_id, tokenizer.mask_id, tokenizer.end_id} & set(ids[:-1])


def test_special_tokens_in_captions_are_counted_as_text():
    tokenizer = CaptionTokenizer("procedural", max_length=8)
    captions = ["a [ENC]", "a [SEP] b", "[MASK] [MASK] [MASK]", "a b c d e [CLS]"]
    everything = CaptionTokenizer("procedural", max_length=10**6)
    cut = [c for c in captions if tokenizer.encode(c).input_ids != everything.encode(c).input_ids]
    assert tokenizer.count_truncated(captions) == len(cut) > 0


def test_captions_for_clip_cannot_smuggle_special_tokens(tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = CLIPCaptionTokenizer(str(tmp_path))
    special = {tokenizer.end_id, tokenizer.mask_id + 1}
    for word in ("<|endoftext|>", "<|startoftext|>"):
        for caption in (f"a man {word} in red", f"{word}red", word.upper()):
            ids = tokenizer.encode(caption).input_ids
            assert not special & set(ids[1:-1]), caption
            assert {ids[0], ids[-1]} == special
    short = CLIPCaptionTokenizer(str(tmp_path), max_length=10)
    assert short.count_truncated(["<|endoftext|>", "a man"]) == 1  # as text it has more than 8 pieces


def test_word_index_maps_pieces_to_the_words_the_tagger_sees(tokenizer):
    caption = "A man's long-sleeved T-shirt, zebra print & qx-zw shoes."
    ids, word_index, words = tokenizer.encode(caption)
    assert words == ["a", "man's", "long-sleeved", "t-shirt", ",", "zebra", "print", "&", "qx-zw", "shoes"]
    pieces = tokenizer.decode(ids)
    assert word_index[0] == word_index[-1] == -1
    for number, word in enumerate(words):
        of_word = [p.removeprefix("##") for p, w in zip(pieces, word_index, strict=True) if w == number]
        assert "".join(of_word) in (word, "[UNK]")
    assert word_index.count(2) > 1  # a hyphenated word has several pieces
    assert word_index.count(5) > 1  # so has a word that the vocabulary does not know


def test_impossible_vocabularies_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing.txt' is neither a vocab.txt.*set tokenizer.vocab, which the model"):
        CaptionTokenizer(str(tmp_path / "missing.txt"))
    (tmp_path / "words.txt").write_text("red\n[PAD]\n[CLS]\n[SEP]\n")
    with pytest.raises(ConfigError, match=r"words.txt is not a WordPiece vocabulary: it lacks \[MASK\], \[UNK\]"):
        CaptionTokenizer(str(tmp_path / "words.txt"))
    (tmp_path / "model.bin").write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match=r"model.bin is not a WordPiece vocabulary"):
        CaptionTokenizer(str(tmp_path / "model.bin"))


@pytest.mark.parametrize("vocab", ["nobody/nothing", "x" * 5000, "a/" + "x" * 300, "no such name!"])
@pytest.mark.parametrize("kind", [CaptionTokenizer, CLIPCaptionTokenizer])
def test_an_unknown_vocabulary_names_the_setting_and_what_ships(kind, vocab):
    with pytest.raises(ConfigError, match=r"set tokenizer.vocab, which the model and the pipelines share") as caught:
        kind(vocab)
    if kind is CaptionTokenizer:
        assert "ships with the plugin: procedural" in str(caught.value)


def test_a_damaged_tokenizer_folder_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ConfigError, match=r"set tokenizer.vocab"):
        CaptionTokenizer(str(tmp_path))


@pytest.mark.parametrize("kind", [CaptionTokenizer, CLIPCaptionTokenizer])
def test_a_tokenizer_folder_never_runs_its_code(tmp_path, monkeypatch, kind):
    """transformers asks on the terminal whether to run it, and an answer or a setting of the user's may allow it."""
    (tmp_path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}')
    auto_map = {"AutoTokenizer": [None, "code.Tokenizer"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Tokenizer: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ConfigError, match=r"set tokenizer.vocab"):
        kind(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_folder_with_another_kind_of_tokenizer_is_refused(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(vocab={"a": 0, "<unk>": 1}, merges=[], unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>").save_pretrained(tmp_path / "bpe")
    with pytest.raises(ConfigError, match=r"bpe is not a WordPiece vocabulary: it lacks \[CLS\], \[MASK\]"):
        CaptionTokenizer(str(tmp_path / "bpe"))


def test_max_length_needs_room_for_a_word():
    with pytest.raises(ConfigError, match=r"max_length=2 leaves no room.*use 3 or more"):
        CaptionTokenizer("procedural", max_length=2)


def test_prepare_reports_cut_captions_once(capsys):
    transform = EncodeCaptions({**TOKENIZER, "max_length": 6})
    transform.prepare(["a red coat", "a red coat and blue jeans", "red " * 80])
    output = "".join(capsys.readouterr())
    assert output.count("2 of 3 captions exceed 72 words or 6 tokens") == 1
    transform.prepare(["a red coat"])
    assert "captions exceed" not in "".join(capsys.readouterr())


# Taggers


def test_lexicon_tags_person_captions():
    words = ["a", "tall", "woman", "or", "man", "with", "sneakers", ",", "two", "red", "and", "long-sleeved", "xyzzy"]
    expected = ["IN", "JJ", "NN", "CC", "NN", "IN", "NNS", "IN", "IN", "JJ", "CC", "JJ", "IN"]
    assert LexiconTagger().tag(words) == expected


@pytest.mark.parametrize(
    ("tagger", "module", "message"),
    [
        ("NLTKTagger", "nltk", r'needs NLTK: pip install "cada_plugin\[nltk\]"'),
        ("SpacyTagger", "spacy", r'needs spaCy: pip install "cada_plugin\[spacy\]"'),
    ],
)
def test_missing_tagger_package_says_what_to_install(monkeypatch, tagger, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=message):
        TASK_UTILS.build({"type": tagger})


@pytest.mark.slow
def test_nltk_without_data_says_what_to_run(monkeypatch, tmp_path):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(MissingExtraError, match=r"run  python -m nltk\.downloader averaged_perceptron_tagger_eng"):
        NLTKTagger()


def test_nltk_gives_one_tag_a_word(monkeypatch):
    fake = types.SimpleNamespace(pos_tag=lambda words: [(w, "JJ" if w == "red" else "NN") for w in words])
    monkeypatch.setitem(sys.modules, "nltk", fake)
    assert NLTKTagger().tag(["red", "coat"]) == ["JJ", "NN"]


def fake_spacy(monkeypatch, load):
    module = types.ModuleType("spacy")
    module.load, module.tokens = load, types.SimpleNamespace(Doc=lambda vocab, words: [vocab, *words])
    monkeypatch.setitem(sys.modules, "spacy", module)


def test_spacy_without_its_model_says_what_to_run(monkeypatch):
    def load(model, exclude):
        raise OSError(f"[E050] Can't find model '{model}'")

    fake_spacy(monkeypatch, load)
    with pytest.raises(MissingExtraError, match="model en_core_web_md is missing: run  python -m spacy download en_co"):
        SpacyTagger("en_core_web_md")


def test_spacy_tags_the_words_it_is_given(monkeypatch):
    def component(doc):  # spaCy must not split words again: tags and words would part
        vocab, *words = doc
        return [types.SimpleNamespace(tag_=f"{vocab}:{word}") for word in words]

    pipeline = types.SimpleNamespace(vocab="v", pipeline=[("tagger", component)])
    fake_spacy(monkeypatch, lambda model, exclude: pipeline)
    assert SpacyTagger().tag(["t-shirt", "man's"]) == ["v:t-shirt", "v:man's"]
    assert SpacyTagger("a").name != SpacyTagger("b").name


# Phrases


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("", []),
        ("DT IN VBZ", []),
        ("DT JJ CC JJ NN IN NNS", [(1, 5), (6, 7)]),
        ("NN NNS", [(0, 2)]),
        ("NN NN", [(0, 1), (1, 2)]),  # one noun ends a phrase
        ("NNS NN", [(0, 1), (1, 2)]),
        ("JJ JJ DT", [(0, 2)]),
        ("CC NN", [(1, 2)]),
        ("NNP JJ NN", [(1, 3)]),  # proper nouns can be masked, but are in no phrase
    ],
)
def test_phrases_by_hand(tags, spans):
    assert phrase_spans(tags.split()) == spans


def naive_phrases(tags):
    spans, i = [], 0
    while i < len(tags):
        j = i
        while tags[j : j + 1] == ["JJ"]:
            j += 2 if tags[j + 1 : j + 2] == ["CC"] else 1
        for noun in ("NN", "NNS"):
            j += tags[j : j + 1] == [noun]
        if j > i:
            spans.append((i, j))
        i = max(j, i + 1)
    return spans


def test_phrases_equal_a_naive_parser():
    generator = random.Random(0)
    for _ in range(500):
        tags = generator.choices(["JJ", "CC", "NN", "NNS", "NNP", "DT"], k=generator.randrange(12))
        assert phrase_spans(tags) == naive_phrases(tags)


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("a man in a red coat with jeans", ["man", "red coat", "jeans"]),
        ("a black bag in her left hand and a cup", ["black bag in her left hand", "cup"]),
        ("a bag over the shoulder", ["bag over the shoulder"]),
        ("a bag on her very left shoulder", ["bag", "left shoulder"]),
        ("a white coat with black checks in his hand", ["white coat with black checks in his hand"]),
        ("a woman with black hair in a bun", ["woman", "black hair in a bun"]),
        ("a woman in a ponytail", ["woman", "ponytail"]),
        ("a violet sun hat", ["violet sun hat"]),
        ("a red shoulder bag at his hip", ["red shoulder bag at his hip"]),
        ("a hat, on her head", ["hat", "head"]),
        ("in her left hand", ["left hand"]),
        ("jeans under a coat", ["jeans", "coat"]),
        ("", []),
    ],
)
def test_a_whole_phrase_says_where_a_thing_is_and_how_it_is_patterned(caption, phrases):
    words = caption.replace(",", " ,").split()
    spans = whole_phrase_spans(words, lexicon_tags(words))
    assert [" ".join(words[start:end]) for start, end in spans] == phrases


def test_phrases_found_in_pieces_are_those_of_the_words(tokenizer):
    """Of any words, marks and hyphens, but for a hyphen between spaces and a last word that is cut."""
    generator = random.Random(0)
    words = ["a", "red", "t-shirt", "blue-and-white", "man's", "coat", "and", "qxz", "jeans", "5", "shirts,", "don't."]
    words += ["in", "her", "hand", "with", "stripes", "sun", "hat"]
    for _ in range(300):
        encoded = tokenizer.encode(" ".join(generator.choices(words, k=generator.randrange(1, 14))))
        spans = enumerate(whole_phrase_spans(encoded.words, lexicon_tags(encoded.words)))
        number_of = {word: number for number, span in spans for word in range(*span)}
        expected = [number_of.get(word, -1) for word in encoded.word_index]
        assert phrase_numbers(tokenizer.decode(encoded.input_ids)) == expected


# Cache of tags


class CountingTagger:
    cacheable = True
    calls: list[list[str]] = []

    def __init__(self, name: str = "counting", cacheable: bool = True) -> None:
        self.name, self.cacheable = name, cacheable
        self.calls.clear()

    def tag(self, words):
        self.calls.append(words)
        return ["JJ" if word == "red" else "NN" for word in words]


def tags_of(captions, tokenizer=TOKENIZER, **tagger):
    """Number of captions that had to be tagged, and the tags of each piece of each caption."""
    transform = TagAttributes({"type": CountingTagger, **tagger}, tokenizer)
    transform.prepare(captions)
    encode = EncodeCaptions(tokenizer)
    pieces = [transform(encode({"caption": caption}))["piece_tags"] for caption in captions]
    return len(CountingTagger.calls), pieces


def test_tags_are_made_once_and_kept_between_runs():
    captions = ["red coat", "a man", "red coat"]
    count, pieces = tags_of(captions)
    assert (count, pieces[0]) == (2, ["", "JJ", "NN", ""])
    assert len(list(cache_dir().glob("tags-*.json"))) == 1
    assert tags_of(captions) == (0, pieces)
    assert tags_of(captions[::-1])[0] == 0  # the order of captions does not matter


@pytest.mark.parametrize(
    ("captions", "tokenizer", "name"),
    [
        (["red coat", "a man"], TOKENIZER, "other"),
        (["red coat", "a man", "a boy"], TOKENIZER, "counting"),
        (["red coat", "a boy"], TOKENIZER, "counting"),
        (["red coat", "a man"], {**TOKENIZER, "max_words": 1}, "counting"),
    ],
)
def test_another_tagger_caption_or_split_is_tagged_anew(captions, tokenizer, name):
    tags_of(["red coat", "a man"])
    assert tags_of(captions, tokenizer, name=name)[0] == len(captions)


def test_another_rule_for_what_a_word_is_has_tags_of_its_own():
    """CLIP's captions keep marks at their words: tags of one are not those of the other."""
    transform = TagAttributes({"type": CountingTagger}, TOKENIZER)
    transform.prepare(["red coat."])
    first = set(cache_dir().glob("tags-*.json"))
    transform.tokenizer.__class__ = type("AnotherTokenizer", (type(transform.tokenizer),), {})
    transform.prepare(["red coat."])
    assert len(set(cache_dir().glob("tags-*.json")) - first) == 1


def test_tagger_named_by_a_path_is_cached_too():
    tags_of(["red coat"], name="spacy-/models/en")
    assert tags_of(["red coat"], name="spacy-/models/en")[0] == 0


def test_damaged_cache_is_made_anew():
    tags_of(["red coat"])
    (path,) = cache_dir().glob("tags-*.json")
    path.write_text("{")
    assert tags_of(["red coat"])[0] == 1
    assert tags_of(["red coat"])[0] == 0


def test_cheap_tagger_leaves_no_file():
    assert tags_of(["red coat"], cacheable=False)[1] == [["", "JJ", "NN", ""]]
    assert not cache_dir().exists()
