"""Train a model of the plugin, then test its best epoch and save a picture of ranked galleries.

cada train cada_procedural
torchrun --nproc-per-node 4 -m cada_plugin train cada_cuhk --launcher pytorch --amp
cada train yacs/fastreid_procedural.yml SOLVER.MAX_EPOCH 1
"""

import argparse

from cada_plugin.cli.common import add_common_arguments, add_yaml_arguments, read_job
from cada_plugin.cli.running import run_command
from cada_plugin.engine.start import run_training


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint, by default the work dir's last good one",
    )
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate with the global batch size"
    )
    add_yaml_arguments(parser)
    return run_command(_run, parser.parse_intermixed_args(argv))


def _run(args: argparse.Namespace) -> None:
    config = read_job(args, "train")
    if args.dry_run:
        print(config.pretty_text)
    else:
        run_training(config, args.resume, args.amp, args.auto_scale_lr)
