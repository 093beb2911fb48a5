"""False copies of captions: how words are exchanged, the transform, and the match head that trains on them."""

import re
from collections import Counter
from itertools import pairwise, product

import pytest
import torch
from conftest import CAPTIONS, TOKENIZER, build_batch, build_tiny

from cada_plugin.datasets.collate import person_collate
from cada_plugin.datasets.transforms import EncodeCaptions, FalsifyCaption, PackPersonInputs
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
        where = [[word in group.replace("/", " ").split() for group in groups.split(";")] for word in (a, b)]
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
    words = [word for groups in KINDS.values() for word in re.split(r"[\s;/]+", groups.strip())]
    assert [word for word, count in Counter(words).items() if count > 1] == []


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
