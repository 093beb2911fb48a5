"""From a config to a run: what ``cada train`` and ``cada test`` do after they have read their command line."""

import contextlib
import copy
import os
import signal
import zlib
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from cada_plugin.checkpoints import load_into_runner
from cada_plugin.engine.checkpoint_hook import settle_best
from cada_plugin.engine.finite import divergence_first
from cada_plugin.engine.loops import RetrievalTestLoop, RetrievalValLoop
from cada_plugin.engine.partial import captions_of, evaluate_partial, partial_tables
from cada_plugin.engine.resume import Place, choose_start
from cada_plugin.engine.runner import config_errors
from cada_plugin.errors import ConfigError, explain_lost_workers
from cada_plugin.evaluation import RetrievalResult, TextToImageRetrieval
from cada_plugin.files import only_writer, replacing, writable_file, write_json
from cada_plugin.portable.interruption import Interrupted, signals_first


def prepare(config: Config, job: str, source: str, work_dir: str | None = None, launcher: str = "none") -> Config:
    """Prepare a config for a job, in place. Afterwards ``work_dir`` is always set.

    Args:
        job: ``train`` or ``test``.
        source: file or name that the config was read from, used for the default work dir and in errors.
        work_dir: replaces the config's own.
        launcher: how several processes are started, see MMEngine.

    Raises:
        ConfigError: the config has no data for this job, or the processes were not started as the launcher needs.
    """
    if f"{job}_dataloader" not in config:
        raise ConfigError(f"{source} has no {job}_dataloader, so there is nothing to {job}")
    for key in ("max_epochs", "max_iters"):
        value = (config.get("train_cfg") or {}).get(key)
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"train_cfg.{key}={value!r}: expected an integer from 1")
    loader = config.get("train_dataloader") or {}
    if "batch_size" in (loader.get("sampler") or {}) and "batch_size" in loader:
        loader.sampler.batch_size = loader.batch_size  # that of the sampler follows
    config.work_dir = work_dir or config.get("work_dir") or str(Path("work_dirs") / Path(source).stem)
    config.launcher = launcher
    if launcher != "none" and "RANK" not in os.environ and (launcher == "pytorch" or not torch.cuda.is_available()):
        raise ConfigError(
            f"--launcher {launcher} {'' if launcher == 'pytorch' else 'without a GPU '}needs torchrun: torchrun "
            f"--nproc-per-node 4 -m cada_plugin {job} {source} --launcher pytorch"
        )
    return config


def run_training(config: Config, resume: str | None = None, amp: bool = False, auto_scale_lr: bool = False) -> None:
    """Train by a prepared config, then test, on the test split, the epoch that was best in validation, or the last one.

    Args:
        resume: a checkpoint, or ``auto`` for the work dir's last good one.
        amp: bf16 autocast.
        auto_scale_lr: scale the learning rate with the global batch size.
    """
    if amp:
        use_amp(config)
    if auto_scale_lr:
        if "base_batch_size" not in (config.get("auto_scale_lr") or {}):
            raise ConfigError("--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config")
        config.auto_scale_lr.enable = True
    if process_rank(config.launcher) == 0:
        place = Place.of(config)
        with contextlib.ExitStack() as stack:
            for folder in dict.fromkeys((place.work_dir, place.folder)):
                stack.enter_context(only_writer(folder, "training"))
            _train_and_test(config, resume)
    else:
        _train_and_test(config, resume)


def process_rank(launcher: str) -> int:
    """Rank of this process, from the environment, as MMEngine has not set up its processes yet."""
    names = {"slurm": "SLURM_PROCID", "mpi": "OMPI_COMM_WORLD_RANK"}
    return int(os.environ.get("RANK") or os.environ.get(names.get(launcher, ""), 0))


def _train_and_test(config: Config, resume: str | None) -> None:
    place = Place.of(config)
    weights, notes = choose_start(config, resume)
    runner = build_runner(config)
    for note in [*notes, *_schedule_notes(config)]:
        runner.logger.warning(note)
    if weights:
        load_into_runner(runner, weights)
    build_early(runner)
    try:
        with signals_first(), explain_lost_workers("train_dataloader"), divergence_first(runner):
            runner.train()
    except KeyboardInterrupt as error:
        last = place.last()
        advice = (
            f"--resume goes on from {last}" if last else "no epoch was finished, so it starts again from its beginning"
        )
        raise Interrupted(getattr(error, "number", signal.SIGINT), advice) from error
    if runner.test_loop is None:
        return
    barrier()  # the main process may still be writing the checkpoint
    best = _best_checkpoint(runner)
    chosen = Path(best) if best else place.last()
    if chosen is None:
        runner.logger.info("testing the weights as they are: no checkpoint was written")
    else:
        why = "the best epoch on the validation split" if best else "the last epoch, as no best one was chosen"
        runner.logger.info(f"testing {why} ({chosen})")
        load_into_runner(runner, chosen)
        fresh_hooks(runner, config)
    runner.test()


def _schedule_notes(config: Config) -> list[str]:
    """What to know if the learning rate ends at another epoch than training does."""
    epochs = (config.get("train_cfg") or {}).get("max_epochs")
    schedulers = config.get("param_scheduler") or []
    schedulers = schedulers if isinstance(schedulers, list | tuple) else [schedulers]
    ends = [(place, one.end) for place, one in enumerate(schedulers) if one.get("by_epoch", True) and one.get("end")]
    if not epochs or not ends or max(end for _, end in ends) == epochs:
        return []
    place, end = max(ends, key=lambda one: one[1])
    kept = f" and param_scheduler.{place}.T_max" if "T_max" in schedulers[place] else ""
    return [
        f"training has {epochs} epochs, and the schedule of its learning rate {end}: set param_scheduler.{place}.end"
        f"{kept} as well, unless this is meant"
    ]


def _best_checkpoint(runner: Runner) -> str | None:
    """Of the best epoch on the validation split, by the first metric if ``save_best`` names several."""
    info = runner.message_hub.runtime_info  # MMEngine calls it best_ckpt_METRIC where there are several
    return next((path for key, path in info.items() if key.partition("_ckpt")[0] == "best" and path), None)


def fresh_hooks(runner: Runner, config: Config) -> None:
    """Replace the hooks by new ones. Hooks that were used in training may hold other weights (EMAHook does) and would
    test those in place of the checkpoint's."""
    runner._hooks = []
    runner.register_hooks(config.get("default_hooks"), config.get("custom_hooks"))


def run_test(
    config: Config,
    checkpoint: str,
    out: str | None = None,
    queries: str | None = None,
    amp: bool = False,
    partial: str | None = None,
) -> None:
    """Test one checkpoint by a prepared config. The metrics are written to the file ``out``, the contribution of every
    query to the file ``queries``, see :func:`write_queries`, and metrics of cut and wrong captions to the file
    ``partial``, see :func:`~cada_plugin.engine.partial.evaluate_partial`."""
    for path, option in ((out, "--out"), (queries, "--queries"), (partial, "--partial")):
        if path:
            writable_file(Path(path), option)
    runner = _test_runner(config, checkpoint, amp)
    retrieval = [metric for metric in runner.test_evaluator.metrics if isinstance(metric, TextToImageRetrieval)]
    if queries and not retrieval:
        raise ConfigError("--queries needs test_evaluator=dict(type='TextToImageRetrieval')")
    asked = None
    if partial:
        asked = captions_of(runner)  # before the test, because a data set without claims should fail now
        runner.test_loop.keep_encoded = True
    metrics = runner.test()
    if asked is not None:
        found = evaluate_partial(runner, asked)
        if is_main_process():
            runner.logger.info(partial_tables(found))
            write_json(Path(partial), found)
    if queries and is_main_process():
        write_queries(Path(queries), retrieval[0])
    if out and is_main_process():
        write_json(Path(out), metrics)


def evaluate_split(config: Config, checkpoint: str, split: str, amp: bool = False) -> RetrievalResult:
    """The scores of all queries of a split, by a prepared config.

    Args:
        checkpoint: the weights to evaluate.
        split: ``val`` or ``test``. Both are evaluated with the settings of ``test_cfg``, but without its correction of
            hubness: a search has the plain scores.
        amp: encode and match under bf16 autocast.
    """
    config = copy.deepcopy(config)
    loader = config.get(f"{split}_dataloader")
    if not loader:
        raise ConfigError(f"the config has no {split}_dataloader: give it one with a labelled split")
    config.test_dataloader, config.test_evaluator = loader, {"type": "cada_plugin.TextToImageRetrieval"}
    config.custom_hooks = []  # they would draw, or test other weights, as EMAHook does
    config.test_cfg.pop("hubness", None)
    runner = _test_runner(config, checkpoint, amp)
    runner.test()
    (metric,) = runner.test_evaluator.metrics
    return metric.result


def _test_runner(config: Config, checkpoint: str, amp: bool) -> Runner:
    """A Runner with the weights of a checkpoint and its test loop built."""
    config.resume, config.load_from = False, None
    if amp:
        config.test_cfg.amp = True
    runner = build_runner(config)
    load_into_runner(runner, checkpoint)
    with config_errors():
        _ = runner.test_loop
    return runner


def use_amp(config: Config) -> None:
    """Train under bf16 autocast. A GPU without bf16 is refused; fp16 is not used instead: losses exceed its range."""
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("--amp needs a device with bf16: leave the flag out")
    config.optim_wrapper.type = "cada_plugin.BF16OptimWrapper"  # whatever the default scope is


def build_runner(config: Config) -> Runner:
    """The Runner of a config, ready for this machine's devices."""
    if config.launcher != "none" and not torch.cuda.is_available():  # MMEngine would look for a CUDA device
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        config.model_wrapper_cfg = {
            "type": "MMDistributedDataParallel",
            "device_ids": None,
            "broadcast_buffers": False,
            "find_unused_parameters": config.get("find_unused_parameters", False),
        }
    kind = RUNNERS.get(config.get("runner_type", "CalmRunner"))
    if kind is None:
        raise ConfigError(f"runner_type={config.runner_type!r} is no registered Runner: use 'CalmRunner' or your own")
    with config_errors():
        return kind.from_cfg(config)


def build_early(runner: Runner) -> None:
    """Build now what MMEngine builds late, so that a wrong setting or file of any split ends the run before its first
    step."""
    with config_errors():
        loops = runner.train_loop, runner.val_loop, runner.test_loop
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    for loop in loops[1:]:
        if isinstance(loop, RetrievalValLoop | RetrievalTestLoop):
            loop.try_first_item()
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):  # also MMEngine's own, which a host's config may use
            settle_best(hook, runner)


def write_queries(path: Path, metric: TextToImageRetrieval) -> None:
    """Write what each of the Q queries of an evaluation contributes to its metrics, as an ``.npz`` of (Q,) arrays.

    The arrays are ``person_ids``; ``caption_crc32``, which shows whether two files hold the same queries; and for each
    evaluated stage ``first_rank``, ``ap`` and ``inp``, such as ``t2i_global/ap``. See
    :func:`~cada_plugin.evaluation.rank_queries`.
    """
    arrays = {
        "person_ids": metric.result.query_ids.numpy(),
        "caption_crc32": np.array([zlib.crc32(caption.encode()) for caption in metric.result.captions], np.uint32),
    }
    for stage, ranks in metric.ranks.items():
        arrays |= {f"{stage}/{name}": values for name, values in ranks.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)
