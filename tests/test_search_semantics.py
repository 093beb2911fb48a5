"""What the options of a search mean, on procedural people: the figures of the docs with fewer people."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("lancedb")


@pytest.mark.slow
def test_and_brings_pictures_with_its_phrase_and_feedback_brings_right_images_forward(tmp_path, monkeypatch):
    path = Path(__file__).parents[1] / "examples" / "search_semantics.py"
    spec = importlib.util.spec_from_file_location("search_semantics", path)
    semantics = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(semantics)
    monkeypatch.setattr(semantics, "LEAST", 8)
    figures = semantics.measure(tmp_path, people=120)
    wanted = figures["sentence alone, phrase wanted"]
    assert figures["--and"]["phrase true"] > wanted["phrase true"]
    assert figures["feedback"]["searches"] >= 5
    assert figures["feedback"]["after"] < 0.9 * figures["feedback"]["before"]
