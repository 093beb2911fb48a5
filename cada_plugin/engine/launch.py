"""From command line to Runner, for the train and test tools: the flags of OpenMMLab's tools and what they change."""

import argparse
import os
import signal
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from cada_plugin.checkpoints import load_into_runner
from cada_plugin.compat import quiet_dependencies
from cada_plugin.engine.config import override, read_config
from cada_plugin.engine.interruption import Interrupted, interruptible, signals_first
from cada_plugin.engine.loops import RetrievalTestLoop, RetrievalValLoop
from cada_plugin.engine.resume import choose_start, last_checkpoint
from cada_plugin.engine.runner import config_errors, first_line
from cada_plugin.errors import CADAError, ConfigError, explain_lost_workers
from cada_plugin.evaluation import TextToImageRetrieval
from cada_plugin.files import check_writable, only_writer, replacing, write_json
from cada_plugin.progress import write_above_bars

__all__ = ["last_checkpoint", "load_config", "run_tool", "test", "train", "use_amp", "write_json"]


class _Overrides(DictAction):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: list[str], *args
    ) -> None:
        if wrong := [value for value in values if "=" not in value]:
            parser.error(f"--cfg-options takes KEY=VALUE pairs, got {wrong[0]!r}")
        super().__call__(parser, namespace, values, *args)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a config file, such as configs/cada_procedural.py")
    parser.add_argument("--work-dir", help="where logs, checkpoints and pictures go (default: work_dirs/<config name>)")
    parser.add_argument("--amp", action="store_true", help="bf16 autocast where the device has it")
    add_overrides(parser)
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="several processes"
    )
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_Overrides,
        metavar="KEY=VALUE",
        help="override settings: train_cfg.max_epochs=3",
    )


def run_tool(tool: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run a tool; an error that the user can act on becomes one message and exit status 2, not a traceback."""
    quiet_dependencies()
    try:
        with interruptible(), signals_first():
            tool(args)
    except (CADAError, KeyboardInterrupt) as error:
        # every process of a job gets the signal that ends it, but one of them is enough to say so
        if not isinstance(error, KeyboardInterrupt) or os.environ.get("RANK", "0") == "0":
            write_above_bars(f"error: {_message(error)}\n")
        return 2
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return str(error) if isinstance(error, Interrupted) else "interrupted"
    # the loader puts the traceback of its worker before the message
    return str(error).split(f"{type(error).__module__}.{type(error).__qualname__}: ")[-1].strip()


def train(args: argparse.Namespace) -> None:
    """Train by the config, then test the epoch that was best on the validation split; the last one without such."""
    config = load_config(args, "train")
    if args.amp:
        use_amp(config)
    if args.auto_scale_lr:
        if "base_batch_size" not in (config.get("auto_scale_lr") or {}):
            raise ConfigError("--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config")
        config.auto_scale_lr.enable = True
    if int(os.environ.get("RANK", 0)) == 0:
        with only_writer(Path(config.work_dir), "training"):
            _train_and_test(config, args.resume)
    else:
        _train_and_test(config, args.resume)


def _train_and_test(config: Config, resume: str | None) -> None:
    work_dir = Path(config.work_dir)
    weights, notes = choose_start(config, resume)
    runner = build_runner(config)
    for note in notes:
        runner.logger.warning(note)
    if weights:
        load_into_runner(runner, weights)
    build_early(runner)
    try:
        with signals_first(), explain_lost_workers("train_dataloader"):
            runner.train()
    except KeyboardInterrupt as error:
        last = last_checkpoint(work_dir)
        advice = (
            f"--resume goes on from {last}" if last else "no epoch was finished, so it starts again from its beginning"
        )
        raise Interrupted(getattr(error, "number", signal.SIGINT), advice) from error
    if runner.test_loop is None:
        return
    barrier()  # the first process may still be writing it
    best = runner.message_hub.runtime_info.get("best_ckpt")
    chosen = Path(best) if best else last_checkpoint(work_dir)
    if chosen is None:
        runner.logger.info("testing the weights as they are: no checkpoint was written")
    else:
        why = "the best epoch on the validation split" if best else "the last epoch: there is no validation split"
        runner.logger.info(f"testing {why} ({chosen})")
        load_into_runner(runner, chosen)
        fresh_hooks(runner, config)
    runner.test()


def fresh_hooks(runner: Runner, config: Config) -> None:
    """Hooks as a new Runner has them. Those that trained may keep other weights, as EMAHook does, and would put them in
    the place of the checkpoint's: the test would not be that of the file."""
    runner._hooks = []
    runner.register_hooks(config.get("default_hooks"), config.get("custom_hooks"))


def test(args: argparse.Namespace) -> None:
    """Test one checkpoint; ``--out`` writes its metrics, ``--queries`` what every query contributes to them."""
    config = load_config(args, "test")
    for out in (args.out, args.queries):
        if out:
            check_writable(Path(out))
    config.resume, config.load_from = False, None
    if args.amp:
        config.test_cfg.amp = True
    runner = build_runner(config)
    load_into_runner(runner, args.checkpoint)
    with config_errors():
        _ = runner.test_loop
    retrieval = [metric for metric in runner.test_evaluator.metrics if isinstance(metric, TextToImageRetrieval)]
    if args.queries and not retrieval:
        raise ConfigError("--queries needs test_evaluator=dict(type='TextToImageRetrieval')")
    metrics = runner.test()
    if args.queries and is_main_process():
        write_queries(Path(args.queries), retrieval[0])
    if args.out and is_main_process():
        write_json(Path(args.out), metrics)


def load_config(args: argparse.Namespace, job: str) -> Config:
    """The config of the command line with its overrides, fit for ``job`` (train, test); ``work_dir`` is always set.

    A tool that reads more than MMEngine's configs has a function for it in ``args.read_config``.
    """
    if not Path(args.config).is_file():
        raise ConfigError(f"no config file {args.config}: give a path such as configs/cada_procedural.py")
    try:
        config = args.read_config(args) if "read_config" in args else read_config(args.config)
    except CADAError:
        raise
    except Exception as error:  # a config is a Python file: it can fail in any way
        raise ConfigError(f"{args.config} cannot be read as a config: {first_line(error)}") from error
    if args.cfg_options:
        try:
            override(config, args.cfg_options)
        except CADAError:
            raise
        except Exception as error:  # MMEngine: TypeError, KeyError, IndexError ... of a path that is none
            raise ConfigError(
                f"--cfg-options {' '.join(args.cfg_options)}: {first_line(error)}: give the path of a setting, such as "
                "train_dataloader.batch_size=32"
            ) from error
    if f"{job}_dataloader" not in config:
        raise ConfigError(f"{args.config} has no {job}_dataloader, so there is nothing to {job}")
    for key in ("max_epochs", "max_iters"):
        value = (config.get("train_cfg") or {}).get(key)
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"train_cfg.{key}={value!r}: expected an integer from 1")
    config.work_dir = args.work_dir or config.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    config.launcher = args.launcher
    if args.launcher == "pytorch" and "RANK" not in os.environ:
        raise ConfigError(
            f"--launcher pytorch needs torchrun: torchrun --nproc-per-node 4 tools/{job}.py {args.config} "
            "--launcher pytorch"
        )
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return config


def use_amp(config: Config) -> None:
    """Train under bf16 autocast; a GPU without bf16 is refused and not given fp16, whose range the losses exceed."""
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("--amp needs a device with bf16: leave the flag out")
    config.optim_wrapper.type = "cada_plugin.BF16OptimWrapper"  # whatever the default scope is


def build_runner(config: Config) -> Runner:
    """The Runner of a config, ready for this machine's devices."""
    if config.launcher != "none" and not torch.cuda.is_available():  # MMEngine would ask CUDA for its device
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
    """Build what MMEngine builds late: a wrong setting or file of any split ends the run before its first step."""
    with config_errors():
        loops = runner.train_loop, runner.val_loop, runner.test_loop
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    for loop in loops[1:]:
        if isinstance(loop, RetrievalValLoop | RetrievalTestLoop):
            loop.try_first_item()
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if not isinstance(loops[1], RetrievalValLoop) or loops[1].reranks(model):
        return
    for hook in runner.hooks:
        for key in (isinstance(hook, CheckpointHook) and hook.save_best and hook.key_indicators) or ():
            if key.startswith(("t2i/", "t2i_match/")):
                raise ConfigError(
                    f"save_best={key!r} is not measured, because validation does not re-rank: "
                    f"use 't2i_global/{key.split('/')[1]}', or a model that matches and val_cfg.rerank_topk > 0"
                )


def write_queries(path: Path, metric: TextToImageRetrieval) -> None:
    """What each of the Q queries of an evaluation contributes to its metrics, as an ``.npz`` of (Q,) arrays.

    ``person_ids``; ``caption_crc32``, by which two files can be seen to hold the same queries; and for each stage that
    was evaluated ``t2i_global/first_rank``, ``/ap``, ``/inp``, see :func:`~cada_plugin.evaluation.rank_queries`.
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
