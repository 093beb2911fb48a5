"""Measure what one model costs: parameters, arithmetic, speed and memory. ``cada benchmark`` runs it for every row.

cada cost cada_procedural --out cost.json
"""

import argparse
from pathlib import Path

from cada_plugin.benchmark.cost import measure_cost
from cada_plugin.cli.common import add_common_arguments, add_yaml_arguments, read_job
from cada_plugin.cli.running import run_command
from cada_plugin.engine.start import use_amp
from cada_plugin.files import writable_file, write_json


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument("--out", metavar="FILE.json", required=True, help="write the numbers here")
    add_yaml_arguments(parser)
    return run_command(_run, parser.parse_intermixed_args(argv))


def _run(args: argparse.Namespace) -> None:
    config = read_job(args, "test")
    if args.amp:
        config.test_cfg.amp = True
        if config.get("train_dataloader"):
            use_amp(config)
    if args.dry_run:
        print(config.pretty_text)
        return
    config.resume, config.load_from = False, None
    writable_file(Path(args.out), "--out")
    write_json(Path(args.out), measure_cost(config))
