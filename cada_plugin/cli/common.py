"""What the commands share: the arguments of OpenMMLab's tools, and reading configs."""

import argparse
import logging
import os
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, DictAction

from cada_plugin.engine.config import override
from cada_plugin.engine.start import prepare
from cada_plugin.integrations.any_config import read_any_config


class _Overrides(DictAction):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: list[str], *args
    ) -> None:
        if wrong := [value for value in values if "=" not in value]:
            parser.error(f"--cfg-options takes KEY=VALUE pairs, got {wrong[0]!r}")
        super().__call__(parser, namespace, values, *args)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all commands that run a config."""
    parser.add_argument(
        "config", help="a config: a path, or the name of one that ships with the plugin (cada_procedural)"
    )
    parser.add_argument("--work-dir", help="where logs, checkpoints and pictures go (default: work_dirs/<config name>)")
    parser.add_argument("--amp", action="store_true", help="bf16 autocast; a GPU without bf16 is refused in training")
    add_overrides(parser)
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="several processes"
    )
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config, and run nothing")


def add_yaml_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for YAML configs. Add them last, and parse with ``parse_intermixed_args``."""
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY VALUE", help="for a YAML config: SOLVER.MAX_EPOCH 1"
    )
    parser.add_argument(
        "--ignore-unknown",
        action="store_true",
        help="for a YAML config: report keys that mean nothing here, in place of refusing the file",
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_Overrides,
        metavar="KEY=VALUE",
        help="override settings: train_cfg.max_epochs=3",
    )


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse KEY=VALUE words as ``--cfg-options`` does.

    Raises:
        ValueError: a word is no KEY=VALUE pair, or its brackets do not match.
    """
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise ValueError(f"expected KEY=VALUE pairs, got {wrong[0]!r}")
    parsed = argparse.Namespace()
    try:
        DictAction(["--cfg-options"], "options")(argparse.ArgumentParser(), parsed, list(pairs))
    except AssertionError as error:  # MMEngine asserts that brackets match
        raise ValueError(str(error)) from error
    return parsed.options


def read_job(args: argparse.Namespace, job: str) -> Config:
    """Read the config of a command line, apply its overrides, and prepare it for ``job`` (train, test)."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    if args.dry_run:  # a YAML config reports what became of its keys, also where all of them were taken
        reports = logging.getLogger("cada_plugin")
        reports.addHandler(logging.StreamHandler())
        reports.setLevel(logging.INFO)
    config = read_any_config(args.config, args.overrides, args.ignore_unknown, args.launcher)
    override(config, args.cfg_options or {})
    return prepare(config, job, args.config, args.work_dir, args.launcher)
