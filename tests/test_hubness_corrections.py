"""The corrections of examples/hubness_corrections.py against the formulas of their papers, and a run of it."""

import math
import runpy

import numpy as np
import pytest
import runner_factory as factory
import torch
from checkpoint_factory import shake

from cada_plugin.checkpoints import write_weights
from cada_plugin.engine.config import read_config
from cada_plugin.portable.hubness import bank_of, hubness
from cada_plugin.registry import MODELS, build_part

EXAMPLE = runpy.run_path(str(factory.REPO / "examples/hubness_corrections.py"))


def unit_rows(rows, seed):
    return torch.nn.functional.normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_hubness_is_the_mean_of_the_largest_cosines(monkeypatch):
    images, captions = unit_rows(7, 0).numpy(), unit_rows(9, 1).numpy()
    expected = [np.mean(sorted(float(c @ i) for c in captions)[-3:]) for i in images]
    np.testing.assert_allclose(hubness(images, captions, 3), expected, rtol=1e-5)
    np.testing.assert_allclose(hubness(images, captions, 128), (images @ captions.T).mean(1), rtol=1e-5)
    monkeypatch.setattr("cada_plugin.portable.hubness._ELEMENTS", 20)  # two images at a time
    np.testing.assert_allclose(hubness(images, captions, 3), expected, rtol=1e-5)
    assert hubness(images[:0], captions).shape == (0,)


def test_a_large_bank_is_thinned_out_evenly(monkeypatch):
    monkeypatch.setattr("cada_plugin.portable.hubness.MOST_CAPTIONS", 4)
    assert bank_of("abc") == "abc"
    assert bank_of("abcdefghi") == "adg"


def test_qb_norm_changes_the_order_of_queries_that_meet_a_hub():
    """Against the formula of the paper, entry by entry."""
    cosine, bank, beta = unit_rows(8, 0) @ unit_rows(5, 1).T, unit_rows(3, 2) @ unit_rows(5, 1).T, 7.0
    scores, everywhere = (EXAMPLE["qb_norm"](cosine, bank, beta, only_hubs=only) for only in (True, False))
    hubs = {max(range(5), key=row.__getitem__) for row in bank.tolist()}
    normalised = [
        [math.exp(beta * c) / sum(math.exp(beta * row[i]) for row in bank.tolist()) for i, c in enumerate(query)]
        for query in cosine.tolist()
    ]
    met = [max(range(5), key=query.__getitem__) in hubs for query in cosine.tolist()]
    assert any(met)
    assert not all(met)
    for number, query in enumerate(cosine.tolist()):
        expected = normalised[number] if met[number] else query
        assert scores[number].argsort().tolist() == sorted(range(5), key=expected.__getitem__)
        assert everywhere[number].argsort().tolist() == sorted(range(5), key=normalised[number].__getitem__)


@pytest.mark.slow
def test_all_corrections_are_compared(tmp_path, capsys):
    config = factory.write_world(tmp_path)
    model = shake(build_part(MODELS, read_config(config).model))
    write_weights(model.state_dict(), tmp_path / "weights.pth")
    EXAMPLE["main"](str(config), str(tmp_path / "weights.pth"))
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [row[0].split(",")[0].strip() for row in rows[2:]]
    assert names == ["none", "NNN", "QB-Norm", "all test captions"]
    assert all(0 <= float(row[column]) <= 100 for row in rows[2:] for column in (1, 2, 4, 5))
    assert [bool(row[3].strip()) for row in rows[2:]] == [False, True, True, True]
