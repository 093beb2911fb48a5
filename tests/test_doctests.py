"""The examples in docstrings give what they say."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest
import torch

import cada_plugin

FINDER = doctest.DocTestFinder()
MODULES = [
    module.name
    for module in pkgutil.walk_packages(cada_plugin.__path__, "cada_plugin.")
    if not module.name.endswith("__main__")
]
EXAMPLES = [
    test
    for name in MODULES
    for test in FINDER.find(importlib.import_module(name), extraglobs={"np": np, "torch": torch})
    if test.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name.removeprefix("cada_plugin."))
def test_example(example):
    assert doctest.DocTestRunner().run(example).failed == 0


def test_every_loss_shows_a_call():
    from cada_plugin import losses

    shown = {example.name.rpartition(".")[2] for example in EXAMPLES}
    assert [name for name in losses.__all__ if isinstance(getattr(losses, name), type) and name not in shown] == []
