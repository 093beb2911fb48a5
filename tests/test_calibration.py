"""Probabilities of scores: the fit against scipy and against known curves, and where they are used."""

import json
import re
from collections import Counter
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from naive_judge import is_true
from scipy.optimize import minimize

from cada_plugin import load_retriever
from cada_plugin.cli.calibrate import _judged_phrases
from cada_plugin.cli.main import main
from cada_plugin.errors import ConfigError
from cada_plugin.evaluation.calibration import (
    Calibration,
    JudgedPhrases,
    calibrate,
    calibration_path,
    fit_logistic,
    reliability,
    scored_pairs,
)
from cada_plugin.evaluation.result import RetrievalResult
from cada_plugin.portable.meanings import phrase_meaning
from cada_plugin.portable.phrases import lexicon_tags, phrase_spans
from cada_plugin.portable.stages import FINAL, STAGE_ONE
from cada_plugin.text import CaptionTokenizer
from cada_plugin.text.known_people import known_people
from cada_plugin.visualization.reliability import draw_reliability


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def sampled(slope: float, offset: float, n: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.normal(0.6, 0.2, n)
    return scores, random.random(n) < sigmoid(slope * scores + offset)


def result(scores: torch.Tensor, right: torch.Tensor) -> RetrievalResult:
    """A result whose cosines are ``scores`` (Q, G); image g shows the person of query q where ``right``, which needs
    one query or one image for each."""
    Q, G = scores.shape
    return RetrievalResult(
        text_embed=torch.eye(Q),
        image_embed=scores.T.contiguous(),
        query_ids=torch.zeros(Q, dtype=torch.long),
        gallery_ids=torch.where(right, 0, 1),
        query_images=torch.zeros(Q, dtype=torch.long),
        captions=["a"] * Q,
        img_paths=["b"] * G,
    )


def test_the_fit_is_the_likeliest_curve():
    scores, right = sampled(8.0, -5.0, n=500)
    targets = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))

    def loss(weights):
        p = sigmoid(weights[0] * scores + weights[1])
        return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum()

    expected = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).x
    np.testing.assert_allclose(fit_logistic(scores, right), expected, rtol=1e-4)


def test_a_known_curve_is_found_again_and_is_reliable():
    slope, offset = fit_logistic(*sampled(9.0, -6.0))
    assert slope == pytest.approx(9.0, rel=0.05)
    assert offset == pytest.approx(-6.0, rel=0.05)
    scores, right = sampled(9.0, -6.0, seed=1)
    assert reliability(sigmoid(slope * scores + offset), right)["error"] < 0.015
    assert reliability(sigmoid(3 * slope * scores + 3 * offset), right)["error"] > 0.05  # too sure of itself


def test_scores_that_separate_right_from_wrong_keep_a_finite_slope():
    slope, _ = fit_logistic(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]))
    assert 0 < slope < 1000


def test_every_curve_is_drawn(tmp_path, monkeypatch):
    names = [f"{stage}, {split}" for split in ("validation", "test") for stage in ("stage 1", "re-ranked", "phrases")]
    curve, drawn = reliability(np.linspace(0, 1, 50), np.arange(50) > 20), []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.legend", lambda axes, **_: drawn.extend(line.get_label() for line in axes.lines)
    )
    draw_reliability(dict.fromkeys(names, curve), "title", tmp_path / "curves.png")
    assert [label.partition(":")[0] for label in drawn] == ["as stated", *names]


def test_reliability_bins_what_was_stated():
    found = reliability(np.array([0.05, 0.95, 0.95, 1.0]), np.array([False, True, True, False]))
    assert found["count"] == [1, 3]
    assert found["stated"] == pytest.approx([0.05, 2.9 / 3])
    assert found["happened"] == pytest.approx([0.0, 2 / 3])
    assert found["error"] == pytest.approx((0.05 + 3 * (2.9 / 3 - 2 / 3)) / 4)


def test_ten_times_the_gallery_is_a_tenth_of_the_odds():
    calibration = Calibration("m", 100, 1.0, {STAGE_ONE: (5.0, -2.0)})
    p, q = (calibration.probability(STAGE_ONE, np.array([0.3, 0.7]), images) for images in (100, 1000))
    np.testing.assert_allclose(p, sigmoid(np.array([-0.5, 1.5])))
    np.testing.assert_allclose(q / (1 - q), p / (1 - p) / 10)


def test_the_prior_of_a_larger_gallery_is_right():
    """Images of one population: a curve that was fitted on few is right for many only with the term of their number."""
    random = np.random.default_rng(3)

    def gallery(images: int, queries: int = 400) -> tuple[np.ndarray, np.ndarray]:
        right = np.zeros((queries, images), dtype=bool)
        right[:, :2] = True
        scores = random.normal(0.4, 0.12, (queries, images)) + 0.3 * right
        best = np.argsort(-scores, 1)[:, :20]
        return np.take_along_axis(scores, best, 1).ravel(), np.take_along_axis(right, best, 1).ravel()

    calibration = Calibration("m", 100, 1.0, {STAGE_ONE: fit_logistic(*gallery(100))})
    scores, right = gallery(2000)
    with_term = reliability(calibration.probability(STAGE_ONE, scores, 2000), right)["error"]
    without = reliability(calibration.probability(STAGE_ONE, scores, 100), right)["error"]
    assert with_term < 0.02 < 0.2 < without


def test_both_stages_are_fitted_on_the_shortlists():
    random = torch.Generator().manual_seed(0)
    right = torch.arange(50) % 5 == 0
    scores = torch.rand(40, 50, generator=random) + 0.4 * right
    one_stage = result(scores, right)
    ranked, is_right = scored_pairs(one_stage)[STAGE_ONE]
    np.testing.assert_allclose(np.sort(ranked.reshape(40, 32)), np.sort(scores.numpy())[:, -32:], rtol=1e-6)
    assert is_right.sum() == sum(right[row.topk(32).indices].sum().item() for row in scores)
    two = replace(one_stage, shortlist=scores.topk(10).indices, match_logits=scores.topk(10).values * 3)
    assert calibrate(two, "m").stages.keys() == {STAGE_ONE, FINAL}
    pairs = scored_pairs(two)
    np.testing.assert_allclose(pairs[FINAL][0], 4 * pairs[STAGE_ONE][0], rtol=1e-5)
    assert calibrate(two, "m").stages[FINAL][0] == pytest.approx(calibrate(two, "m").stages[STAGE_ONE][0] / 4, rel=1e-3)
    with pytest.raises(ConfigError, match="right images do not score higher"):
        calibrate(result(-scores, right), "m")
    with pytest.raises(ConfigError, match="needs right and wrong images"):
        calibrate(result(scores, right & False), "m")


def test_a_file_is_read_back_and_a_damaged_one_is_refused(tmp_path):
    path = calibration_path(tmp_path / "epoch_2.pth")
    assert path.name == "epoch_2.calibration.json"
    calibration = Calibration("m", 100, 1.0, {STAGE_ONE: (5.0, -2.0)}, "about")
    calibration.save(path)
    assert Calibration.load(path) == calibration
    content = json.loads(path.read_text())
    for wrong in ("{", "[]", json.dumps(content | {"format": "x"}), json.dumps(content | {"gallery_images": 0})):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=r"is no calibration .* make it again with `cada calibrate`"):
            Calibration.load(path)


def test_the_shipped_weights_are_calibrated_and_other_weights_do_not_take_theirs(tmp_path, caplog):
    shipped = load_retriever("cada_procedural")
    assert shipped.calibration is not None
    assert shipped.calibration.fingerprint == shipped.fingerprint()
    torch.save(shipped.model.state_dict(), tmp_path / "mine.pth")
    shipped.calibration.save(tmp_path / "mine.calibration.json")
    assert load_retriever("cada_procedural", tmp_path / "mine.pth").calibration == shipped.calibration
    next(shipped.model.parameters()).data.add_(0.1)
    torch.save(shipped.model.state_dict(), tmp_path / "mine.pth")
    with caplog.at_level("WARNING"):
        assert load_retriever("cada_procedural", tmp_path / "mine.pth").calibration is None
    assert "Make it again with `cada calibrate`" in caplog.text


@pytest.mark.parametrize(("setting", "value"), [("cosine_weight", 3.0), ("phrase_weight", 0.5)])
def test_a_calibration_of_other_scores_is_not_taken(tmp_path, caplog, setting, value):
    shipped = load_retriever("cada_procedural")
    torch.save(shipped.model.state_dict(), tmp_path / "mine.pth")
    replace(shipped.calibration, **{setting: value}).save(tmp_path / "mine.calibration.json")
    with caplog.at_level("WARNING"):
        assert load_retriever("cada_procedural", tmp_path / "mine.pth").calibration is None
    assert f"made with {setting}={value:g} and this config has" in caplog.text


@pytest.mark.slow
def test_the_command_writes_the_calibration_and_its_picture(tmp_path, capsys):
    weights = tmp_path / "mine.pth"
    torch.save(load_retriever("cada_procedural").model.state_dict(), weights)
    options = [f"data_root={tmp_path / 'people'}", "build.identities.train=10", "build.identities.val=15"]
    options += ["build.identities.test=20", "test_cfg.rerank_topk=10"]
    (tmp_path / "mine.calibration.json").write_text("unreadable")  # is replaced
    words = ["calibrate", "cada_procedural", str(weights), "--check-test", "--work-dir", str(tmp_path / "work")]
    assert main([*words, "--cfg-options", *options]) == 0
    assert "re-ranked, test (60 images): mean difference of stated and true probability" in capsys.readouterr().out
    assert (tmp_path / "mine.reliability.png").stat().st_size > 10_000
    calibration = load_retriever("cada_procedural", weights).calibration
    assert (calibration.gallery_images, set(calibration.stages)) == (45, {STAGE_ONE, FINAL})
    assert not (tmp_path / "work/ranked_gallery.png").exists()  # evaluating the validation split draws no test result


def phrases_like(*slopes: float, offset: float, n: int = 9000) -> JudgedPhrases:
    """Phrases that are true with the probability that slopes and offset give."""
    random = np.random.default_rng(0)
    features = random.normal([0.0, -3.0][: len(slopes)], [1.0, 2.0][: len(slopes)], (n, len(slopes)))
    return JudgedPhrases(features, random.random(n) < sigmoid(features @ slopes + offset))


def calibrated(phrases: JudgedPhrases) -> Calibration:
    return calibrate(result(torch.tensor([[0.9, 0.1]]), torch.tensor([True, False])), "m", phrases=phrases)


def test_phrases_have_a_slope_for_what_speaks_for_them_and_for_their_caption():
    found = calibrated(phrases_like(1.0, 0.5, offset=1.5))
    assert found.phrase_curve == pytest.approx((1.0, 0.5, 1.5), abs=0.1)
    asked = np.array([[0.3, -2.0], [-1.0, 0.5]])
    judged, caption, offset = found.phrase_curve
    np.testing.assert_allclose(found.phrase_probability(asked), sigmoid(asked @ [judged, caption] + offset))
    assert calibrated(phrases_like(2.0, offset=-1.0)).phrase_curve == pytest.approx((2.0, -1.0), abs=0.1)


def test_slopes_and_offset_are_the_likeliest():
    phrases = phrases_like(1.0, 0.5, offset=1.5, n=500)
    true = phrases.true
    targets = np.where(true, (true.sum() + 1) / (true.sum() + 2), 1 / ((~true).sum() + 2))

    def loss(weights):
        p = sigmoid(phrases.features @ weights[:2] + weights[2])
        return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum()

    options = {"xatol": 1e-9, "fatol": 1e-11, "maxiter": 5000}
    expected = minimize(loss, [1.0, 0.5, 1.5], method="Nelder-Mead", options=options).x
    np.testing.assert_allclose(calibrated(phrases).phrase_curve, expected, rtol=1e-3)


def test_a_caption_that_fits_never_makes_its_phrases_less_likely():
    judged, caption, _ = calibrated(phrases_like(1.0, -0.5, offset=0.0)).phrase_curve
    assert judged > 0
    assert caption == 0
    phrases = phrases_like(1.0, -0.5, offset=0.0)
    no_side = np.arange(len(phrases.true)) % 2
    more = JudgedPhrases(np.column_stack([phrases.features, no_side]), phrases.true | (no_side == 1))
    judged, caption, side, _ = calibrated(more).phrase_curve
    assert (judged > 0, caption, side > 0) == (True, 0, True)
    with pytest.raises(ConfigError, match="true ones are not judged higher than false ones"):
        calibrated(phrases_like(-1.0, offset=0.0))


@pytest.fixture
def tokenizer():
    return CaptionTokenizer("procedural", max_length=24)


class _Judge:
    """Knows nothing but which picture it is asked about: phrases of picture n have the log-odds n."""

    judges_phrases = True

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def encode_image(self, paths):
        return Mock(tokens=int(paths[0]))

    def judge_phrases(self, encoded, spans, tokens):
        return np.full((len(spans), 1), float(tokens))


def test_phrases_are_judged_on_the_first_pictures_of_other_people(tokenizer):
    """Two people with two pictures each, and eight with one. Of all captions of a person, only those of three speak of
    a bag, each time if ever; so the others have none."""
    captions = ["a woman in a red coat with a bag", "a man in a red coat", "a woman in a blue coat", "a red bag"]
    captions += ["a man with a black bag", "a black bag", *["a man"] * 6]
    people = torch.tensor([0, 1, 2, 0, 3, 3, 4, 5, 6, 7, 8, 9])
    scores = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    found = RetrievalResult(
        text_embed=torch.eye(12),
        image_embed=scores.T.contiguous(),
        query_ids=people,
        gallery_ids=people,
        query_images=torch.arange(12),
        captions=captions,
        img_paths=[str(number) for number in range(12)],
    )
    told = {person: [] for person in range(10)}
    for caption, person in zip(captions, people.tolist(), strict=True):
        words = caption.split()
        told[person].append([phrase_meaning(words[a:b]) for a, b in phrase_spans(lexicon_tags(words))])
    known = known_people(told)
    assert {person for person in known if "bag" in known[person].absent} == {1, 2, 4, 5, 6, 7, 8, 9}
    expected = {True: Counter(), False: Counter()}
    for query, caption in enumerate(captions):
        others = [image for image in scores[query].argsort(descending=True).tolist() if people[image] != people[query]]
        words = caption.split()
        for image in others[:4]:
            for start, stop in phrase_spans(lexicon_tags(words)):
                phrase = phrase_meaning(words[start:stop])
                verdict = is_true(phrase, known[int(people[image])])
                if verdict is not None:
                    expected[verdict][image] += 1
    judged = _judged_phrases(_Judge(tokenizer), found, "val")
    kept = {True: Counter(), False: Counter()}
    for place, true in zip(judged.features[:, 0].tolist(), judged.true.tolist(), strict=True):
        kept[true][place] += 1
    fewest = min(map(Counter.total, expected.values()))
    assert fewest > 3
    assert [kept[verdict].total() for verdict in (True, False)] == [fewest, fewest]
    assert all(kept[verdict] <= expected[verdict] for verdict in (True, False))


def test_what_nobody_excludes_is_not_calibrated(tokenizer, capsys):
    scores = torch.tensor([[0.9, 0.5], [0.5, 0.9]])
    found = RetrievalResult(
        text_embed=torch.eye(2),
        image_embed=scores.T.contiguous(),
        query_ids=torch.tensor([0, 1]),
        gallery_ids=torch.tensor([0, 1]),
        query_images=torch.arange(2),
        captions=["a woman", "a woman in a red coat"],
        img_paths=["0", "1"],
    )
    assert _judged_phrases(_Judge(tokenizer), found, "test") is None
    assert "phrases of the test split are not calibrated: none is known to be false" in capsys.readouterr().err


def test_a_calibration_with_phrases_is_read_as_it_was_saved(tmp_path):
    calibration = Calibration("m", 9, 1.0, {FINAL: (1.0, 0.5)}, "", 1.0, (2.0, 0.5, 0.25))
    calibration.save(tmp_path / "m.json")
    assert Calibration.load(tmp_path / "m.json") == calibration
    content = json.loads((tmp_path / "m.json").read_text())
    for curve in ((1.0,), (1.0, float("nan")), ("two", 1.0), 2, {"hat": 1.0}):
        (tmp_path / "m.json").write_text(json.dumps(content | {"phrase_curve": curve}))
        with pytest.raises(ConfigError, match=r"m\.json is no calibration.*cada calibrate"):
            Calibration.load(tmp_path / "m.json")


def test_a_calibration_for_other_features_is_refused_where_it_is_used():
    calibration = Calibration("m", 9, 1.0, {FINAL: (1.0, 0.5)}, "", 1.0, (2.0, 0.5, 0.25))
    with pytest.raises(ConfigError, match=r"has 2 slopes .* this version knows 3 things .* `cada calibrate`"):
        calibration.phrase_probability(np.zeros((1, 3)))


@pytest.mark.slow
def test_phrases_are_calibrated_where_the_model_judges_them(tmp_path, capsys, monkeypatch):
    (tmp_path / "judges.py").write_text(
        "_base_ = 'cada_plugin::cada_plus_procedural.py'\nmodel = dict(phrase_weight=0.5)\n"
    )
    weights = tmp_path / "judges.pth"
    torch.save(load_retriever("cada_plus_procedural").model.state_dict(), weights)
    options = [f"data_root={tmp_path / 'people'}", "build.identities.train=10", "build.identities.val=40"]
    options += ["build.identities.test=20", "test_cfg.rerank_topk=10"]
    words = ["calibrate", str(tmp_path / "judges.py"), str(weights), "--check-test", "--work-dir", str(tmp_path / "w")]
    assert main([*words, "--cfg-options", *options]) == 0
    printed = capsys.readouterr().out
    counts = [int(n.replace(",", "")) for n in re.findall(r"phrases, (?:validation|test) \(([\d,]+)\)", printed)]
    assert len(counts) == 2
    assert all(count > 100 for count in counts)
    calibration = load_retriever(str(tmp_path / "judges.py"), weights).calibration
    assert (set(calibration.stages), calibration.phrase_weight) == ({STAGE_ONE, FINAL}, 0.5)
    assert calibration.phrase_curve[0] > 0
    explanation = load_retriever(str(tmp_path / "judges.py"), weights).explain(
        "a man in a red coat", next((tmp_path / "people/imgs").rglob("*.jpg"))
    )
    assert all(0 < phrase.probability < 1 for phrase in explanation.phrases)

    monkeypatch.setattr("cada_plugin.cli.calibrate._MOST_CAPTIONS", 0)  # as if no caption said anything of anybody
    status = main([*words[:3], "--work-dir", str(tmp_path / "w"), "--cfg-options", *options])
    told = capsys.readouterr()
    assert "phrases of the val split are not calibrated: none is known to be true" in told.err
    assert status == 0, told.err
    assert not load_retriever(str(tmp_path / "judges.py"), weights).calibration.phrase_curve
