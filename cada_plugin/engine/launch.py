"""From command line to Runner, for the train and test tools: the flags of OpenMMLab's tools and what they change."""

import argparse
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from cada_plugin.checkpoints.io import read_checkpoint
from cada_plugin.compat import allow_mmengine_checkpoints, quiet_dependencies
from cada_plugin.engine.loops import RetrievalValLoop
from cada_plugin.engine.runner import config_errors, first_line
from cada_plugin.errors import CADAError, CheckpointError, ConfigError
from cada_plugin.evaluation import TextToImageRetrieval


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
        tool(args)
    except (CADAError, KeyboardInterrupt) as error:
        print(f"error: {_message(error)}", file=sys.stderr)
        return 2
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
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
    weights = choose_start(config, args.resume)
    runner = build_runner(config)
    if weights:
        load_into_runner(runner, weights)
    build_early(runner)
    runner.train()
    if runner.test_loop is None:
        return
    best = runner.message_hub.runtime_info.get("best_ckpt")
    barrier()  # the first process may still be writing it
    if best:
        runner.logger.info(f"testing the best epoch on the validation split, {best}")
        load_into_runner(runner, best)
    else:
        runner.logger.info("testing the last epoch: no epoch was chosen on a validation split")
    runner.test()


def test(args: argparse.Namespace) -> None:
    """Test one checkpoint; ``--out`` writes its metrics, ``--queries`` what every query contributes to them."""
    config = load_config(args, "test")
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
        config = args.read_config(args) if "read_config" in args else Config.fromfile(args.config)
        if args.cfg_options:
            config.merge_from_dict(args.cfg_options)
    except CADAError:
        raise
    except Exception as error:  # a config is a Python file: it can fail in any way
        raise ConfigError(f"{args.config} cannot be read as a config: {first_line(error)}") from error
    if f"{job}_dataloader" not in config:
        raise ConfigError(f"{args.config} has no {job}_dataloader, so there is nothing to {job}")
    config.work_dir = args.work_dir or config.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    config.launcher = args.launcher
    if args.launcher == "pytorch" and "RANK" not in os.environ:
        raise ConfigError(
            f"--launcher pytorch needs torchrun: torchrun --nproc-per-node 4 tools/{job}.py {args.config} "
            "--launcher pytorch"
        )
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return config


def choose_start(config: Config, resume: str | None) -> str | None:
    """Set what the Runner resumes from, or return the weights to start with (None: from scratch).

    ``resume`` is a path or ``auto``: the last checkpoint of the work dir if there is one, else a first start. A config
    may say the same with ``resume`` and ``load_from``.
    """
    weights = config.pop("load_from", None)
    if resume is None and config.get("resume"):
        resume, weights = weights or "auto", None
    if resume == "auto":
        resume = last_checkpoint(Path(config.work_dir))
    config.resume = resume is not None
    if resume is None:
        return weights
    check_training_state(Path(resume))
    config.load_from = str(resume)
    return None


def last_checkpoint(work_dir: Path) -> Path | None:
    """What ``last_checkpoint`` of a work dir names, also where the whole folder was moved since."""
    note = work_dir / "last_checkpoint"
    return work_dir / Path(note.read_text().strip()).name if note.is_file() else None


def check_training_state(path: Path) -> None:
    """Refuse to resume from a file that is damaged or holds weights alone; costs one reading of it."""
    try:
        state = read_checkpoint(path)
        if not {"meta", "optimizer", "message_hub"} <= state.keys():
            raise CheckpointError(f"{path} holds no training state: use it as load_from=... to start with its weights")
    except CheckpointError as error:
        others = sorted((p for p in path.parent.glob("epoch_*.pth") if p != path), key=lambda p: p.stat().st_mtime)
        advice = f". The checkpoint written before it: --resume {others[-1]}" if others else ""
        raise CheckpointError(f"cannot resume: {error}{advice}") from error


def use_amp(config: Config) -> None:
    """Train under bf16 autocast; a GPU without bf16 is refused and not given fp16, whose range the losses exceed."""
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("--amp needs a device with bf16: leave the flag out")
    config.optim_wrapper.type = "BF16OptimWrapper"


def build_runner(config: Config) -> Runner:
    """The Runner of a config, ready for this machine's devices."""
    allow_mmengine_checkpoints()
    if config.launcher != "none" and not torch.cuda.is_available():  # MMEngine would ask CUDA for its device
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        config.model_wrapper_cfg = {
            "type": "MMDistributedDataParallel",
            "device_ids": None,
            "broadcast_buffers": False,
            "find_unused_parameters": config.get("find_unused_parameters", False),
        }
    with config_errors():
        return RUNNERS.get(config.get("runner_type", "CalmRunner")).from_cfg(config)


def build_early(runner: Runner) -> None:
    """Build what MMEngine builds late: a wrong setting or file of any split ends the run before its first step."""
    with config_errors():
        loops = runner.train_loop, runner.val_loop, runner.test_loop
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
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
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def write_json(path: Path, content: dict) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, renamed at the end: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    temporary.replace(path)
