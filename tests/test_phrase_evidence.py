"""The figures of examples/phrase_evidence.py: what is true of whom, and how well evidence tells it."""

import re
import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import runner_factory as factory
import torch
from checkpoint_factory import shake
from conftest import VISION

from cada_plugin.checkpoints import write_weights
from cada_plugin.engine.config import read_config
from cada_plugin.registry import MODELS, build_part
from cada_plugin.text import CaptionTokenizer

OTHERS = ("group", "asked alone", "left out", "predicted", "what it is about", "chance")
EXAMPLE = runpy.run_path(str(factory.REPO / "examples/phrase_evidence.py"))


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    scores, true = [0.1, 0.4, 0.4, 0.8, 0.3, 0.9], [False, True, False, True, False, False]
    pairs = [(a, b) for a, t in zip(scores, true, strict=True) if t for b, f in zip(scores, true, strict=True) if not f]
    expected = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert EXAMPLE["area_under_curve"](scores, true) == pytest.approx(expected)
    assert EXAMPLE["area_under_curve"]([3, 2, 1], [True, True, False]) == 1.0


def test_only_pairs_about_the_same_count_within():
    scores, true, about = [1, 2, 9, 8, 0, 5], [False, True, False, True, False, True], "aabbcb"
    pairs = [(1, 0), (3, 2), (5, 2)]  # true, false
    assert EXAMPLE["area_within"](scores, true, about) == pytest.approx(
        np.mean([scores[t] > scores[f] for t, f in pairs])
    )
    assert EXAMPLE["shares"](true, about) == [0.5, 0.5, *[pytest.approx(2 / 3)] * 2, 0.0, pytest.approx(2 / 3)]
    assert EXAMPLE["area_within"](EXAMPLE["shares"](true, about), true, about) == 0.5


def test_the_most_frequent_things_have_areas_of_their_own():
    scores, true, about = (
        [1, 2, 9, 8, 0, 5],
        [False, True, False, True, False, True],
        [*2 * [("a",)], *3 * [("b",)], ()],
    )
    assert EXAMPLE["areas"](scores, true, about, most=2) == {"b": 0.5, "a": 1.0}


def test_captions_with_true_and_false_phrases_count_for_the_least():
    true = [True, False, True, True, False, False, True]
    scores = [0.1, 0.2, 0.0, 0.3, 0.9, 0.4, 0.5]
    assert EXAMPLE["least_is_false"](scores, true, [2, 2, 3]) == 0.5  # of the first and the last caption


def test_a_phrase_is_true_of_another_if_all_that_it_claims_is():
    claims = {"upper_type": ["coat"], "upper_colour": ["red", "maroon"], "bag": ["backpack"], "bag_colour": ["black"]}
    record = {"claims": [claims], "phrases": [[{"unit": "upper"}, {"unit": "bag"}]]}

    def truths(**attributes: str) -> list[bool]:
        return EXAMPLE["phrase_truths"](record, {"attributes": attributes})

    same = {"upper_type": "coat", "upper_colour": "maroon", "bag": "backpack", "bag_colour": "black"}
    assert truths(**same) == [True, True]
    assert truths(**(same | {"upper_colour": "blue"})) == [False, True]
    assert truths(**(same | {"bag_colour": "red", "upper_type": "shirt"})) == [False, False]


@torch.no_grad()
def test_a_phrase_is_predicted_word_by_word_where_it_is_masked(tiny_model):
    model = tiny_model().eval()
    ids, phrases = torch.tensor([[2, 11, 12, 13, 14, 3]]), torch.tensor([[-1, 0, 0, -1, 1, -1]])
    tokens = torch.randn(1, 9, 16)
    retriever = SimpleNamespace(model=model, tokenizer=model.tokenizer)
    found = EXAMPLE["log_likelihoods"](retriever, ids, phrases, 2, tokens)
    for phrase, places in enumerate(([1, 2], [4])):
        masked = ids.clone()
        masked[0, places] = model.tokenizer.mask_id
        memory = model.text_decoder.bert.image_memory(tokens)
        logits = model.text_decoder(masked, torch.ones_like(ids, dtype=torch.bool), memory)[0]
        expected = sum(logits[place].log_softmax(0)[ids[0, place]] for place in places)
        torch.testing.assert_close(found[phrase], expected, rtol=1e-4, atol=1e-4)


def test_the_kinds_of_words_that_a_head_sees_are_told():
    """A head that knows colours, calls every side a left one, and looks at the picture that the caption is of."""
    captions = ["a man with a red bag in his left hand", "a woman with a blue bag in her right hand"]
    records = [
        {"captions": [one], "phrases": [[{"start": one.index("a", 1 + one.index("with")), "stop": len(one)}]]}
        for one in captions
    ]
    tokenizer = CaptionTokenizer("procedural", max_length=40)

    def judge(encoded, spans, tokens):
        likely = []
        for start, stop in spans:
            words = encoded.words[start:stop]
            right = {"red": 0.0, "blue": 1.0}[words[0]] == float(tokens)
            likely.append([10.0 * right + ("left" in words), 0.0])
        return np.array(likely)

    retriever = SimpleNamespace(tokenizer=tokenizer, judge_phrases=judge)
    gallery = SimpleNamespace(tokens=np.arange(2.0).repeat(60))
    records = [record for record in records for _ in range(60)]
    told = EXAMPLE["told_apart"](retriever, records, gallery)
    assert set(told) == {"colour", "side"}
    assert told["colour"] == (1.0, 120 - told["side"][1])
    assert 0.3 < told["side"][0] < 0.7  # of the captions in which it is the left one
    assert min(count for _, count in told.values()) > 30


@pytest.mark.slow
@pytest.mark.parametrize("judges", [False, True])
def test_all_kinds_of_evidence_are_compared(tmp_path, capsys, judges):
    config = factory.write_world(tmp_path)
    if judges:
        config.write_text(config.read_text() + "model['loss_phrases'] = dict(type='PhraseMatchingLoss')\n")
    model = shake(build_part(MODELS, read_config(config).model))
    write_weights(model.state_dict(), tmp_path / "weights.pth")
    EXAMPLE["main"](str(config), str(tmp_path / "weights.pth"), "8")
    printed = capsys.readouterr().out
    kinds = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")]
    assert kinds == 2 * ["evidence", "---", *(["judged"] if judges else []), *OTHERS]
    assert "8 captions, wrong person first by the cosine: " in printed
    assert "8 captions, wrong person random: " in printed
    assert ("told from a copy: " in printed) == judges
    # the same wrong people, if the same weights choose them, and others, if the embeddings of images are turned round
    for sign, same in ((1, True), (-1, False)):
        model.vision_proj.load_state_dict({key: sign * x for key, x in model.vision_proj.state_dict().items()})
        write_weights(model.state_dict(), tmp_path / "chooser.pth")
        chooser = tmp_path / "chooser.py"
        chooser.write_text(config.read_text() + f"trained_weights = {str(tmp_path / 'chooser.pth')!r}\n")
        EXAMPLE["main"](str(config), str(tmp_path / "weights.pth"), "8", str(chooser))
        assert (capsys.readouterr().out == printed) == same


@pytest.mark.slow
@pytest.mark.parametrize("residual", ["", "residual"])
def test_a_classifier_of_the_true_attributes_judges_the_same_phrases(tmp_path, capsys, monkeypatch, residual):
    monkeypatch.syspath_prepend(factory.REPO / "examples")
    example = runpy.run_path(str(factory.REPO / "examples/attribute_ceiling.py"))
    config = factory.write_world(tmp_path)
    model = shake(build_part(MODELS, read_config(config).model))
    write_weights(model.state_dict(), tmp_path / "weights.pth")
    example["main"](str(config), str(tmp_path / "weights.pth"), "3", residual, 8)
    lines = capsys.readouterr().out.splitlines()
    told = [re.match(r"wrong person (.*): area under the curve (\S+), about the same (\S+), the", one) for one in lines]
    assert [one[1] for one in told] == ["first by the cosine", "random"]
    assert all(0 <= float(number) <= 1 for one in told for number in one.groups()[1:])


@pytest.mark.parametrize("residual", [False, True])
def test_the_classifier_learns_an_attribute_that_shows(monkeypatch, residual):
    monkeypatch.syspath_prepend(factory.REPO / "examples")
    example = runpy.run_path(str(factory.REPO / "examples/attribute_ceiling.py"))
    torch.manual_seed(0)
    dark = torch.arange(64) % 2
    images = (dark[:, None, None, None] * 2.0 - 1.0).expand(64, 3, 32, 16) + 0.1 * torch.randn(64, 3, 32, 16)
    stem = {"stem": "residual"} if residual else {}
    model = example["Classifier"](build_part(MODELS, VISION | stem), [["light", "dark"], ["unknown"]]).train()
    example["train"](model, images, torch.stack([dark, torch.zeros_like(dark)], 1), lambda some: some, 30)
    first, second = model.eval()(images)
    assert first.argmax(1).eq(dark).all()
    assert second.shape == (64, 1)
