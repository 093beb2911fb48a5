"""From command line to Runner, for the train and test tools: the flags of OpenMMLab's tools and what they change."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from cada_plugin.checkpoints import load_into_runner
from cada_plugin.compat import allow_mmengine_checkpoints
from cada_plugin.errors import CADAError, ConfigError


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a config file, such as configs/cada_procedural.py")
    parser.add_argument("--work-dir", help="where logs, checkpoints and pictures go (default: work_dirs/<config name>)")
    parser.add_argument("--amp", action="store_true", help="bf16 autocast where the device has it")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override settings: train_cfg.max_epochs=3",
    )
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="several processes"
    )
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def run_tool(tool: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run a tool; an error that the user can act on becomes one message and exit status 2, not a traceback."""
    #warnings.filterwarnings("ignore", category=FutureWarning)  # of dependencies: nobody who trains can act on them
    try:
        tool(args)
    except (CADAError, KeyboardInterrupt) as error:
        print(f"error: {error or 'interrupted'}", file=sys.stderr)
        return 2
    return 0


def train(args: argparse.Namespace) -> None:
    """Train by the config, then test the epoch that was best on the validation split; the last one without such."""
    config = load_config(args)
    if args.amp:
        use_amp(config)
    if args.auto_scale_lr:
        if "base_batch_size" not in config.get("auto_scale_lr", {}):
            raise ConfigError("--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config")
        config.auto_scale_lr.enable = True
    weights = config.pop("load_from", None)
    if args.resume:
        config.resume = True
        config.load_from = None if args.resume == "auto" else args.resume
    runner = build_runner(config)
    if weights and not args.resume:
        load_into_runner(runner, weights)
    runner.train()
    if "test_dataloader" not in config:
        return
    best = runner.message_hub.runtime_info.get("best_ckpt")
    if best:
        runner.logger.info(f"testing the best epoch on the validation split, {best}")
        load_into_runner(runner, best)
    else:
        runner.logger.info("testing the last epoch: this data set has no validation split to choose one on")
    runner.test()


def test(args: argparse.Namespace) -> None:
    """Test one checkpoint and, with ``--out``, write its metrics."""
    config = load_config(args)
    config.resume, config.load_from = False, None
    config.test_cfg.amp = args.amp
    runner = build_runner(config)
    load_into_runner(runner, args.checkpoint)
    metrics = runner.test()
    if args.out and is_main_process():
        write_json(Path(args.out), metrics)


def load_config(args: argparse.Namespace) -> Config:
    """The config of the command line with its overrides; ``work_dir`` is always set."""
    if not Path(args.config).is_file():
        raise ConfigError(f"no config file {args.config}: give a path such as configs/cada_procedural.py")
    config = Config.fromfile(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    config.work_dir = args.work_dir or config.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    config.launcher = args.launcher
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return config


def use_amp(config: Config) -> None:
    """Train under bf16 autocast; a GPU without bf16 is refused and not given fp16, whose range the losses exceed."""
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise ConfigError("--amp needs a device with bf16: leave the flag out")
    config.optim_wrapper.type = "BF16OptimWrapper"


def build_runner(config: Config) -> Runner:
    """The Runner of a config, ready for this machine's devices."""
    allow_mmengine_checkpoints()
    if config.launcher != "none" and not torch.cuda.is_available():  # MMEngine would ask CUDA for its device
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        config.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
    return RUNNERS.get(config.get("runner_type", "CalmRunner")).from_cfg(config)


def write_json(path: Path, content: dict) -> None:
    """Written beside the target, then renamed: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
