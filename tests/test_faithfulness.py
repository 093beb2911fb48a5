"""Measures of faithfulness, against loops written out and cases whose answer is known."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from export_factory import BERT, FUSION, PREPROCESSOR, retriever

from cada_plugin.errors import ConfigError
from cada_plugin.evaluation.faithfulness import (
    area,
    centres_in,
    compare,
    conclusion,
    hiding_steps,
    hottest_first,
    patch_centre,
    with_hidden,
)

RNG = np.random.default_rng(0)


def test_patches_go_hottest_first_and_ties_in_any_order():
    map = np.array([[0.1, 3.0], [2.0, 0.5]])
    assert hottest_first(map, RNG).tolist() == [1, 2, 3, 0]
    firsts = [hottest_first(np.zeros((8, 4)), RNG)[0] for _ in range(400)]
    assert len(set(firsts)) > 25


def test_centres_lie_in_boxes_as_pixel_by_pixel():
    size, grid = (128, 64), (8, 4)
    boxes = [(5, 30, 41, 57), (40, 100, 64, 128)]
    inside = centres_in(boxes, grid, size)
    for patch in range(32):
        x, y = (patch % 4) * 16 + 8, (patch // 4) * 16 + 8
        assert patch_centre(patch, grid, size) == (x, y)
        assert inside[patch] == any(l <= x < r and t <= y < b for l, t, r, b in boxes)  # noqa: E741
    assert not centres_in([(9, 9, 12, 12)], grid, size).any()  # smaller than a patch, without a centre
    assert centres_in([(8, 8, 9, 9)], grid, size).sum() == 1  # left and top belong to the box, right and bottom do not


@pytest.mark.parametrize("steps", [1, 3, 8, 32])
def test_patches_are_hidden_step_by_step(steps):
    order = np.random.default_rng(1).permutation(32)
    hidden = hiding_steps(order, steps)
    assert hidden.shape == (steps + 1, 32)
    for step, some in enumerate(hidden):
        assert set(np.flatnonzero(some)) == set(order[: round(step * 32 / steps)])


def test_hidden_patches_have_the_colour_and_the_rest_stays():
    picture = np.random.default_rng(2).integers(0, 256, (33, 17, 3), dtype=np.uint8)  # patches of unequal size
    hidden = np.random.default_rng(3).random(8) < 0.5
    found = with_hidden(picture, hidden, (4, 2), (1, 2, 3))
    for y in range(33):
        for x in range(17):
            expected = (1, 2, 3) if hidden[(y * 4 // 33) * 2 + x * 2 // 17] else tuple(picture[y, x])
            assert tuple(found[y, x]) == expected
    np.testing.assert_array_equal(with_hidden(picture, np.zeros(8, bool), (4, 2), (1, 2, 3)), picture)


def test_the_area_is_that_of_the_trapezoids():
    scores = np.random.default_rng(4).normal(size=9)
    assert area(scores) == pytest.approx(np.trapezoid(scores, np.linspace(0, 1, 9)))
    assert (area([2.0, 2.0]), area([1.0, 0.0, 0.0])) == (2.0, 0.25)


def test_a_curve_falls_fastest_if_what_counts_is_hidden_first():
    """A score that is the sum of the map over what is shown: no order of deletion is better than that of the map."""
    map = np.random.default_rng(5).random((8, 4))

    def deletion(order):
        return area([(map.ravel() * ~hidden).sum() for hidden in hiding_steps(order, 16)])

    best = deletion(hottest_first(map, RNG))
    assert best < min(deletion(RNG.permutation(32)) for _ in range(50))


def test_gains_have_the_sign_of_better_and_people_are_resampled():
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(50), 3)
    low = rng.random(150)
    scores = {
        "map": low,
        "random": low + 0.2 + 0.01 * rng.normal(size=150),
        "attention": low + 0.001 * rng.normal(size=150),
    }
    found = compare(scores, higher=False, groups=groups)
    assert found["map"] == {"mean": pytest.approx(low.mean())}
    assert found["random"]["gain"] == pytest.approx((scores["random"] - low).mean())
    assert (found["random"]["p"], found["attention"]["p"] > 0.01) == (0.0, True)
    higher = compare(scores, higher=True, groups=groups)["random"]
    assert (higher["gain"], higher["p"]) == (pytest.approx(-found["random"]["gain"]), 1.0)
    with pytest.raises(ConfigError, match="none of 'ours'"):
        compare(scores, True, groups, ours="ours")


def test_the_conclusion_is_that_maps_explain_only_if_they_win_everywhere():
    win, loss = {"mean": 0.1, "gain": 0.2, "p": 0.0}, {"mean": 0.3, "gain": 0.01, "p": 0.01}
    ours = {"mean": 0.3}
    good = {"pointing": {"map": ours, "random": win}, "deletion": {"map": ours, "random": win}}
    assert conclusion("The maps", good).startswith("The maps explain: better")
    bad = {**good, "deletion": {"map": ours, "random": win, "attention": loss}}
    told = conclusion("The maps", bad)
    assert "do NOT explain" in told
    assert told.endswith("deletion: over attention.")


@pytest.mark.slow
def test_the_example_measures_a_model_and_says_what_it_means(tmp_path, monkeypatch, capsys):
    """A model with random weights: its maps do not explain, and the command says so."""
    path = Path(__file__).parents[1] / "examples" / "explain_faithfulness.py"
    spec = importlib.util.spec_from_file_location("explain_faithfulness", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    text = {"type": "CrossModalBert", **BERT, "depth": 2}
    vision = {**FUSION["visual_encoder"], "image_size": (128, 64), "patch_size": 16}
    tokenizer = {"type": "CaptionTokenizer", "vocab": "procedural", "max_length": 64}
    model = {**FUSION, "type": "CADA", "text_encoder": text, "visual_encoder": vision, "tokenizer": tokenizer}
    made = retriever(
        tmp_path, {**model, "loss_atp": {"type": "MatchingLoss"}, "data_preprocessor": PREPROCESSOR}, (128, 64)
    )
    monkeypatch.setattr(example, "load_retriever", lambda config, checkpoint: made)
    monkeypatch.setattr(example, "STEPS", 2)
    monkeypatch.setattr(example, "PICTURES", 1)
    monkeypatch.setattr("sys.argv", ["explain_faithfulness.py", str(tmp_path), "config", "checkpoint", "6"])
    example.main()
    out = capsys.readouterr().out
    assert "The maps do NOT explain" in out
    figures = json.loads((tmp_path / "faithfulness.json").read_text())
    assert set(figures["maps"]) == set(example.HIGHER_IS_BETTER)
    assert figures["pictures"] == 6
    assert 0 <= figures["maps"]["pointing"]["map"]["mean"] <= figures["best possible pointing"] <= 1
    # the annotation of the phrases is read rightly: leaving one out takes away its letters, and its box is of its part
    record = json.loads((tmp_path / "people" / "reid_raw.json").read_text())[0]
    one = example.Described(made, tmp_path / "people", record)
    words = made.tokenizer.split(one.caption)
    for phrase, (start, stop), boxes in zip(one.phrases, one.spans, one.boxes, strict=True):
        said = one.caption[phrase["start"] : phrase["stop"]]
        assert words[start:stop] == made.tokenizer.split(said)
        region = record["regions"].get(phrase["unit"], {"visible": False})
        assert not region["visible"] or region["box"] in boxes
