"""Who tells a model how far the run is, what happens where nobody does, and the bar in a log."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import runner_factory as factory
import torch
from conftest import build_batch, build_tiny

from cada_plugin.engine import ConsensusDivisionHook, ProgressHook, TrainingProgressHook
from cada_plugin.errors import ConfigError

HOOKS = "dict(type='EpochSeedHook'), "
RISING = {"negatives": "sampled", "negative_scale": (0.0, 20.0)}


def runner_at(iteration: int, model: object = None) -> SimpleNamespace:
    return SimpleNamespace(iter=iteration, max_iters=40, model=model)


@pytest.mark.parametrize("hook", [TrainingProgressHook, ProgressHook])
def test_each_of_both_hooks_tells_the_model(hook):
    model = build_tiny(**RISING)
    hook().before_train_iter(runner_at(10, model), 10)
    assert (model.progress, model.sampling_scale()) == (0.25, 5.0)
    hook().before_train_iter(runner_at(10, torch.nn.Linear(1, 1)), 10)  # a host's own model need not listen


def test_a_rising_scale_that_nobody_moves_is_refused():
    model = build_tiny(**RISING)
    with pytest.raises(ConfigError, match=r"from 0.0 to 20.0 .*add custom_hooks=\[dict\(type='cada_plugin.TrainingPr"):
        model(**build_batch(), mode="loss")
    for changes in ({"negatives": "hardest"}, {"negative_scale": (20.0, 20.0)}, {"loss_atp": None}):
        assert build_tiny(**RISING | changes)(**build_batch(), mode="loss")  # nothing to be moved


@pytest.mark.parametrize("scale", [(1.0,), 5.0, ("low", "high"), (0.0, float("nan")), None])
def test_a_sampling_scale_is_two_numbers(scale):
    with pytest.raises(ConfigError, match=r"negative_scale=.*: expected two numbers"):
        build_tiny(negatives="sampled", negative_scale=scale)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return factory.write_run(tmp_path_factory.mktemp("progress"))


@pytest.mark.slow
@pytest.mark.parametrize(("hooks", "trains"), [("dict(type='ProgressHook')", True), ("", False)], ids=["old", "none"])
def test_a_config_of_before_trains_and_one_without_hooks_is_refused(config, hooks, trains):
    path = config.parent / f"hooks_{trains}.py"
    path.write_text(f"_base_ = ['{config}']\ncustom_hooks = [{HOOKS}{hooks}]\ntrain_cfg = dict(max_epochs=1)\n")
    done = factory.tool("train", path, "--work-dir", config.parent / str(trains), cwd=config.parent)
    assert done.status == (0 if trains else 2), done.stderr
    assert ("type='cada_plugin.TrainingProgressHook'" in done.stderr) != trains
    assert "Traceback" not in done.stderr


def test_the_division_hook_and_a_model_that_wants_no_division_contradict_each_other():
    from test_baselines import build

    with pytest.raises(ConfigError, match=r"model.division=False trains on all pairs"):
        ConsensusDivisionHook().before_train_epoch(SimpleNamespace(model=build("rde", division=False)))


def test_the_bar_does_not_fill_a_log(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    hook, runner = ProgressHook(), SimpleNamespace(iter=0, max_iters=3000)
    now = [0.0]
    hook.before_train(runner)
    monkeypatch.setattr(hook.bar, "_time", lambda: now[0])
    hook.bar.start_t = hook.bar.last_print_t = 0.0
    for _ in range(3000):
        now[0] += 0.1
        hook.after_train_iter(runner, 0)
    hook.after_train(runner)
    assert "\r" not in log.getvalue()
    lines = log.getvalue().splitlines()
    assert 5 <= len(lines) <= 20  # of five minutes
    assert any("training:  50%" in line or "training:  40%" in line for line in lines)
