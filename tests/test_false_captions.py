"""False copies of captions: how words are exchanged, the transform, and the match head that trains on them."""

from collections import Counter
from itertools import pairwise, product
from unittest.mock import Mock

import pytest
import torch
from conftest import CAPTIONS, TOKENIZER, build_batch, build_tiny

from cada_plugin.datasets.collate import person_collate
from cada_plugin.datasets.transforms import (
    EncodeCaptions,
    FalsifyCaption,
    FalsifyPhrases,
    PackPersonInputs,
    TagAttributes,
)
from cada_plugin.errors import ConfigError
from cada_plugin.portable.meanings import KINDS
from cada_plugin.text.opposites import Opposites

KNOWN = [caption.replace(",", "").split() for caption in CAPTIONS] + [
    ["an", "orange", "coat", "over", "a", "navy", "shirt"]
]


def falsified(words, times=200):
    opposites = Opposites(KNOWN)
    torch.manual_seed(0)
    return [opposites.falsify(words) for _ in range(times)]


def differences(words, false):
    return [(before, after) for before, after in zip(words, false, strict=True) if before != after]


def exclude(a, b):
    """Written anew: whether some kind has the two words in different groups."""
    for groups in KINDS.values():
        where = [[word in group.split() for group in groups.split(";")] for word in (a, b)]
        if any(where[0]) and any(where[1]):
            return where[0] != where[1]
    return False


@pytest.mark.parametrize("words", KNOWN)
def test_one_word_is_replaced_or_two_are_exchanged_so_that_they_exclude_each_other(words):
    for false in falsified(words):
        changed = [(a, b) for a, b in differences(words, false) if (a, b) not in (("a", "an"), ("an", "a"))]
        assert len(changed) in (1, 2)
        assert all(exclude(*pair) for pair in changed), (words, false)
        if len(changed) == 2:
            assert changed[0] == changed[1][::-1]


def test_two_colours_of_one_thing_are_not_exchanged():
    words = ["a", "black", "and", "white", "dress", "with", "red", "and", "blue", "shoes"]
    together = {"black", "white"}, {"red", "blue"}
    exchanged = [pairs for false in falsified(words) if len(pairs := differences(words, false)) == 2]
    assert exchanged
    assert all(set(pairs[0]) not in together for pairs in exchanged)


def test_only_words_of_the_training_captions_replace_others():
    vocabulary = {word for words in KNOWN for word in words}
    assert {word for words in KNOWN for false in falsified(words, 50) for word in false} <= vocabulary | {"a", "an"}


def test_articles_follow_the_word():
    wrong = {("a", vowel) for vowel in "aeiou"} | {("an", letter) for letter in "bcdfghjklmnpqrstvwxyz"}
    for false in falsified(KNOWN[-1]):
        assert not {(article, word[0]) for article, word in pairwise(false)} & wrong, false


def test_words_of_one_group_may_both_be_true_and_never_replace_each_other():
    opposites = Opposites([["navy"], ["blue"], ["coat"], ["overcoat"]])
    assert opposites.falsify(["a", "navy", "coat"]) is None


def test_a_caption_without_opposites_has_no_false_copy():
    assert falsified(["somebody", "walks", "past"], 3) == [None] * 3


def test_no_word_is_in_two_groups():
    words = [word for groups in KINDS.values() for word in groups.replace(";", " ").split()]
    assert [word for word, count in Counter(words).items() if count > 1] == []


def span_of(words, phrase):
    (start,) = (k for k in range(len(words)) if words[k : k + len(phrase)] == phrase)
    return start, start + len(phrase)


@pytest.mark.parametrize("phrase", [["red", "jacket"], ["blue", "jeans"], ["man"]])
def test_a_phrase_is_falsified_in_one_word(phrase):
    words = KNOWN[0]
    opposites = Opposites(KNOWN)
    torch.manual_seed(0)
    found = [opposites.falsify_span(words, *span_of(words, phrase)) for _ in range(300)]
    changed = [differences(phrase, false) for false in found]
    assert all(len(one) == 1 and exclude(*one[0]) for one in changed)
    assert {before for ((before, _),) in changed} == {word for word in phrase if word != "and"}
    if phrase[0] == "red":  # the other colour of the caption is taken more often than by its count
        colours = Counter(after for ((before, after),) in changed if before == "red")
        assert 0.4 < colours["blue"] / colours.total() < 0.75


def test_no_word_is_replaced_by_one_that_its_phrase_has():
    opposites = Opposites([["black", "white", "dress", "red", "shoes"]])
    words = ["black", "and", "white", "dress", "red", "shoes"]
    torch.manual_seed(0)
    found = [opposites.falsify_span(words, 0, 4) for _ in range(50)]
    assert {tuple(false) for false in found} == {("red", "and", "white", "dress"), ("black", "and", "red", "dress")}
    assert Opposites([["black", "white"]]).falsify_span(["black", "and", "white", "dress"], 0, 4) is None
    assert Opposites([[]]).falsify_span(["somebody"], 0, 1) is None


def with_false_phrases(caption, known=CAPTIONS, tokenizer=TOKENIZER):
    """The item, and its false copy as the tokenizer encoded it."""
    tag, falsify = TagAttributes({"type": "LexiconTagger"}, tokenizer), FalsifyPhrases(tokenizer)
    falsify.prepare(known)
    falsify.tokenizer.encode = spy = Mock(side_effect=falsify.tokenizer.encode)
    item = falsify(tag(EncodeCaptions(tokenizer)({"caption": caption})))
    return item, falsify.tokenizer.encode.side_effect(*spy.call_args.args)


@pytest.mark.parametrize("caption", CAPTIONS)
def test_all_phrases_of_the_copy_are_false(caption):
    torch.manual_seed(0)
    for _ in range(20):
        item, copy = with_false_phrases(caption)
        words, word_index = item["encoded"][0].words, item["encoded"][0].word_index
        true = phrases_of(words, word_index, item["phrase_index"])
        false = phrases_of(copy.words, copy.word_index, item["false_phrase_index"])
        assert copy.input_ids == item["false_phrase_ids"]
        assert false.keys() <= true.keys()
        assert len(false) == sum(phrase not in (["person"], ["boy"]) for phrase in true.values())
        for number, phrase in false.items():
            assert phrase not in true.values()
            assert all(exclude(*pair) for pair in differences(true[number], phrase))


def phrases_of(words, word_index, phrase_index):
    found = {}
    for word, phrase in zip(word_index, phrase_index, strict=True):
        if phrase >= 0 and word not in found.setdefault(phrase, []):
            found[phrase].append(word)
    return {phrase: [words[word] for word in places] for phrase, places in found.items()}


def test_a_changed_phrase_that_is_true_elsewhere_is_not_called_false():
    item, _ = with_false_phrases("a red coat over a blue coat", known=["a red coat over a blue coat"])
    assert set(item["false_phrase_index"]) == {-1}  # each phrase can only become the other one


def test_phrases_are_falsified_after_they_are_found():
    with pytest.raises(ConfigError, match=r"put dict\(type='TagAttributes'"):
        FalsifyPhrases(TOKENIZER)(EncodeCaptions(TOKENIZER)({"caption": "a red coat"}))
    item = TagAttributes({"type": "LexiconTagger"}, TOKENIZER)(EncodeCaptions(TOKENIZER)({"caption": "a red coat"}))
    with pytest.raises(ConfigError, match="FalsifyPhrases must be a direct step"):
        FalsifyPhrases(TOKENIZER)(item)


def test_false_phrases_reach_the_batch():
    items = [with_false_phrases(caption)[0] for caption in CAPTIONS]
    for number, item in enumerate(items):
        item |= {"image": torch.zeros(3, 2, 2), "person_id": number, "img_path": ""}
    inputs = person_collate([PackPersonInputs()(item) for item in items])["inputs"]
    for number, item in enumerate(items):
        ids, index = inputs["false_phrase_ids"][number], inputs["false_phrase_index"][number]
        length = len(item["false_phrase_ids"])
        assert (ids[:length].tolist(), index[:length].tolist()) == (
            item["false_phrase_ids"],
            item["false_phrase_index"],
        )
        assert not ids[length:].any()
        assert (index[length:] == -1).all()


def false_batch(captions=CAPTIONS):
    """A batch whose items have a false copy, and the copies as words."""
    transform = FalsifyCaption(TOKENIZER)
    transform.prepare(captions)
    batch, items = build_batch(), []
    torch.manual_seed(1)
    for number, caption in enumerate(captions):
        item = {"caption": caption, "image": batch["inputs"]["images"][number], "person_id": number, "img_path": ""}
        items.append(PackPersonInputs()(transform(EncodeCaptions(TOKENIZER)(item))))
    return batch, person_collate(items)["inputs"]["false_ids"]


def test_the_transform_encodes_the_false_copy_or_nothing():
    batch, false_ids = false_batch((*CAPTIONS[:3], "somebody walks past the camera"))
    ids = batch["inputs"]["input_ids"]
    assert false_ids[3].tolist() == [0] * false_ids.shape[1]
    for row in range(3):
        changed = int((false_ids[row] != ids[row, : false_ids.shape[1]]).sum())
        assert 1 <= changed <= 4
        assert int((false_ids[row] != 0).sum()) == int((ids[row] != 0).sum())


def test_a_pipeline_that_did_not_prepare_the_transform_is_told():
    with pytest.raises(ConfigError, match="direct step of the data set's pipeline"):
        FalsifyCaption(TOKENIZER)({"encoded": [None]})


def fused_texts(model, inputs, samples):
    """The token ids of the wrong captions that a step fuses."""
    seen, fuse = [], model.fuse

    def spy(ids, *args, **kwargs):
        seen.append(ids)
        return fuse(ids, *args, **kwargs)

    model.fuse = spy
    model.loss(inputs, samples)
    B = len(inputs["images"])
    return seen[0][2 * B :, : inputs["input_ids"].shape[1]]


@pytest.mark.parametrize(("share", "group"), list(product((0.0, 1.0), (None, "phrases"))))
def test_the_match_head_gets_the_share_of_false_captions(share, group):
    grouping = None if group is None else {"type": "PhraseGroups", "num_groups": None}
    model = build_tiny(false_captions=share, grouping=grouping)
    batch, false_ids = false_batch((*CAPTIONS[:3], "somebody walks past the camera"))
    inputs = {**batch["inputs"], "false_ids": false_ids}
    wrong = fused_texts(model, inputs, batch["data_samples"])
    own = inputs["input_ids"]
    false = torch.nn.functional.pad(false_ids, (0, own.shape[1] - false_ids.shape[1]))
    for row in range(3):
        assert torch.equal(wrong[row], false[row]) == (share == 1)
    assert any(torch.equal(wrong[3], text) for text in own)  # without a false copy, a caption of the batch


def test_false_captions_without_the_transform_are_refused():
    batch = build_batch()
    with pytest.raises(ConfigError, match="FalsifyCaption"):
        build_tiny(false_captions=0.5).loss(batch["inputs"], batch["data_samples"])


def test_a_share_is_a_share():
    with pytest.raises(ConfigError, match=r"false_captions=1\.5"):
        build_tiny(false_captions=1.5)
