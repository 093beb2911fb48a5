"""The figures of examples/phrase_evidence.py: what is true of whom, and how well evidence tells it."""

import runpy

import numpy as np
import pytest
import runner_factory as factory
from checkpoint_factory import shake

from cada_plugin.checkpoints import write_weights
from cada_plugin.engine.config import read_config
from cada_plugin.registry import MODELS, build_part

OTHERS = ("group", "asked alone", "left out", "what it is about", "chance")
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


@pytest.mark.slow
@pytest.mark.parametrize("judges", [False, True])
def test_all_kinds_of_evidence_are_compared(tmp_path, capsys, judges):
    config = factory.write_world(tmp_path)
    if judges:
        config.write_text(config.read_text() + "model['loss_phrases'] = dict(type='PhraseMatchingLoss')\n")
    model = shake(build_part(MODELS, read_config(config).model))
    write_weights(model.state_dict(), tmp_path / "weights.pth")
    EXAMPLE["main"](str(config), str(tmp_path / "weights.pth"), 8)
    printed = capsys.readouterr().out
    kinds = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")]
    assert kinds == 2 * ["evidence", "---", *(["judged"] if judges else []), *OTHERS]
    assert "8 captions, wrong person first by the cosine: " in printed
    assert "8 captions, wrong person random: " in printed
