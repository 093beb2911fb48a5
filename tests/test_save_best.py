"""Which metric chooses the best epoch if a run does not measure the one in its config."""

import logging
import re
from types import SimpleNamespace

import pytest
import runner_factory as factory
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.logging import MessageHub

from cada_plugin.benchmark.plan import Run
from cada_plugin.benchmark.run import _chosen_checkpoint
from cada_plugin.engine import RetrievalValLoop, SafeCheckpointHook
from cada_plugin.errors import ConfigError


@pytest.fixture
def runner(tmp_path):
    """The parts of a Runner that a checkpoint hook uses."""

    def make(can_match: bool = True, rerank_topk: int = 4, loop_type: type = RetrievalValLoop) -> SimpleNamespace:
        loop = loop_type.__new__(loop_type)
        loop.rerank_topk = rerank_topk
        return SimpleNamespace(
            model=SimpleNamespace(can_match=can_match),
            val_loop=loop,
            work_dir=str(tmp_path),
            logger=logging.getLogger("run"),
            message_hub=MessageHub.get_instance(f"save_best_{tmp_path.name}"),
        )

    return make


@pytest.mark.parametrize("stage_one", [{"can_match": False}, {"rerank_topk": 0}])
def test_stage_one_stands_in_for_the_final_list(runner, stage_one, caplog):
    hook = SafeCheckpointHook(save_best="t2i/R1", rule="greater")
    with caplog.at_level(logging.INFO):
        hook.before_train(runner(**stage_one))
        hook.before_train(runner(**stage_one))  # nothing is left to change, nor to say
    assert (hook.save_best, hook.key_indicators, hook.rules) == (["t2i_global/R1"], ["t2i_global/R1"], ["greater"])
    assert hook.is_better_than["t2i_global/R1"](2.0, 1.0)
    assert caplog.text.count("save_best=t2i/R1: validation does not re-rank, so t2i_global/R1 chooses") == 1


def test_a_metric_that_is_named_twice_is_taken_once(runner):
    hook = SafeCheckpointHook(save_best=["t2i/mAP", "t2i_global/mAP", "loss"], rule=["greater", "greater", "less"])
    hook.before_train(runner(can_match=False))
    assert (hook.key_indicators, hook.rules) == (["t2i_global/mAP", "loss"], ["greater", "less"])


def test_a_run_that_measures_the_final_list_keeps_it(runner):
    hook = SafeCheckpointHook(save_best="t2i/R1", rule="greater")
    hook.before_train(runner())
    assert hook.key_indicators == ["t2i/R1"]


def test_a_loop_of_another_package_knows_its_own_metrics(runner):
    hook = SafeCheckpointHook(save_best="t2i/R1", rule="greater")
    hook.before_train(runner(can_match=False, loop_type=type("HostLoop", (), {})))
    assert hook.key_indicators == ["t2i/R1"]


def test_without_validation_no_epoch_is_chosen(runner, caplog):
    hook = SafeCheckpointHook(save_best="t2i/R1", rule="greater")
    without = runner()
    without.val_loop = None
    with caplog.at_level(logging.INFO):
        hook.before_train(without)
    assert hook.save_best is None
    assert "save_best=t2i/R1 is left out: there is no validation split" in caplog.text


@pytest.mark.parametrize("key", ["t2i_match/R1", "t2i/R1_gain_p"])
def test_what_only_reranking_gives_is_an_error(runner, key):
    hook = SafeCheckpointHook(save_best=key, rule="greater")
    with pytest.raises(ConfigError, match=f"save_best='{key}' is not measured.*use 't2i_global/R1'"):
        hook.before_train(runner(rerank_topk=0))


def test_mmengines_own_hook_is_settled_by_our_tools(runner):
    from cada_plugin.engine.checkpoint_hook import settle_best

    hook = MMEngineCheckpointHook(save_best="t2i/R1", rule="greater")
    settle_best(hook, runner(can_match=False))
    assert hook.key_indicators == ["t2i_global/R1"]


@pytest.mark.slow
def test_of_several_metrics_the_first_one_chooses_the_epoch_that_is_tested(tmp_path):
    config = factory.write_run(tmp_path)
    metrics = ("t2i/R1", "t2i/R10")
    options = ("train_cfg.max_epochs=1", f"default_hooks.checkpoint.save_best={','.join(metrics)}")
    outcome = factory.tool("train", config, "--work-dir", "run", "--cfg-options", *options, cwd=tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert re.search(r"testing the best epoch on the validation split \(.*best_t2i_R1_epoch_1\.pth\)", outcome.stderr)
    run = Run("tiny", config, tmp_path / "run", 0)
    config.write_text(f"{config.read_text()}\ndefault_hooks = dict(checkpoint=dict(save_best={metrics}))\n")
    assert _chosen_checkpoint(run).name == "best_t2i_R1_epoch_1.pth"
