"""Test a checkpoint: print the metrics of both stages, and save a picture of ranked galleries in the work dir.

cada test cada_procedural work_dirs/cada_procedural/epoch_2.pth --out metrics.json
"""

import argparse

from cada_plugin.cli.common import add_common_arguments, add_yaml_arguments, read_job
from cada_plugin.cli.running import run_command
from cada_plugin.engine.start import run_test


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada test", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument(
        "checkpoint", help="ours, released weights of CADA, BLIP, CLIP, IRRA or RDE, or a Hugging Face folder"
    )
    parser.add_argument("--out", metavar="FILE.json", help="write the metrics here")
    parser.add_argument("--queries", metavar="FILE.npz", help="write rank and precision of every query here")
    parser.add_argument(
        "--partial",
        metavar="FILE.json",
        help="test captions cut to one, two and three phrases, and captions with one wrong phrase, as well, and write "
        "their metrics here; for procedural people",
    )
    add_yaml_arguments(parser)
    return run_command(_run, parser.parse_intermixed_args(argv))


def _run(args: argparse.Namespace) -> None:
    config = read_job(args, "test")
    if args.dry_run:
        print(config.pretty_text)
    else:
        run_test(config, args.checkpoint, args.out, args.queries, args.amp, args.partial)
