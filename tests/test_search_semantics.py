"""What the options of a search mean, on procedural people: the figures of the docs with fewer people."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("lancedb")


@pytest.mark.slow
def test_and_raises_and_without_lowers_the_share_and_feedback_brings_right_images_forward(tmp_path, monkeypatch):
    path = Path(__file__).parents[1] / "examples" / "search_semantics.py"
    spec = importlib.util.spec_from_file_location("search_semantics", path)
    semantics = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(semantics)
    monkeypatch.setattr(semantics, "LEAST", 8)
    figures = semantics.measure(tmp_path, people=160)
    wanted, unwanted = figures["sentence alone, phrase wanted"], figures["sentence alone, phrase unwanted"]
    assert figures["--and"]["phrase true"] > wanted["phrase true"]
    assert figures["--and"]["wanted"] >= wanted["wanted"]
    assert figures["--without"]["phrase true"] < unwanted["phrase true"]
    assert figures["--without"]["wanted"] > unwanted["wanted"]
    assert figures["feedback"]["searches"] >= 5
    assert figures["feedback"]["after"] < 0.5 * figures["feedback"]["before"]
