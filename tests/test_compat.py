"""Workarounds for dependencies change what they are for, and nothing else."""

import gc

import mmengine.config.config
import yapf.yapflib.yapf_api
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from cada_plugin import registry  # noqa: F401  applies them


def test_a_config_is_formatted_once_and_again_when_it_changes(monkeypatch):
    config = Config({"model": {"type": "CADA", "numbers": list(range(60))}, "name": "first of its kind"})
    expected = config.pretty_text
    calls = []
    reformat = yapf.yapflib.yapf_api.FormatTree
    monkeypatch.setattr(yapf.yapflib.yapf_api, "FormatTree", lambda *a, **k: calls.append(1) or reformat(*a, **k))
    assert [config.pretty_text for _ in range(3)] == [expected] * 3
    assert not calls
    config.name = "second of its kind"
    assert config.pretty_text == expected.replace("first", "second")
    assert len(calls) == 1
    config.merge_from_dict({"name": "first of its kind"})
    assert config.pretty_text == expected
    assert len(calls) == 1
    # as yapf itself writes it
    plain = mmengine.config.config.FormatCode.__wrapped__
    style = {
        "based_on_style": "pep8",
        "blank_line_before_nested_class_or_def": True,
        "split_before_expression_after_opening_paren": True,
    }
    assert plain(expected, style_config=style)[0] == expected
    assert mmengine.config.config.FormatCode("a=1", "a.py")[0] == "a = 1\n"


def test_data_sets_are_built_without_a_search_for_garbage(monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: 1 / 0)
    data = BaseDataset(serialize_data=True, lazy_init=True, test_mode=True)
    data.data_list = [{"number": number} for number in range(5)]
    data.data_bytes, data.data_address = data._serialize_data()
    data._fully_initialized = True
    assert [item["number"] for item in data] == list(range(5))
