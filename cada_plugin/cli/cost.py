"""Measure what one model costs: parameters, arithmetic, speed and memory. ``cada benchmark`` runs it for every row.

cada cost cada_procedural --out cost.json
cada cost cada_cuhk_12gb --memory --amp

--memory counts what a training step needs, without data, weights or a GPU, in seconds: does this config fit that GPU?
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from cada_plugin.benchmark.cost import measure_cost
from cada_plugin.benchmark.memory import CAPTION_TOKENS, TrainingMemory, count_training_memory
from cada_plugin.cli.common import add_common_arguments, add_yaml_arguments, read_job
from cada_plugin.cli.running import run_command
from cada_plugin.engine.start import use_amp
from cada_plugin.files import writable_file, write_json


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument("--out", metavar="FILE.json", help="write the numbers here; needed without --memory")
    parser.add_argument("--memory", action="store_true", help="count the memory of a training step, and nothing else")
    parser.add_argument(
        "--caption-tokens",
        type=int,
        metavar="N",
        default=CAPTION_TOKENS,
        help="for --memory: tokens of the longest caption of a batch (default: %(default)s)",
    )
    add_yaml_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    if not args.memory and args.out is None:
        parser.error("the following arguments are required: --out")
    return run_command(_run, args)


def _print_memory(memory: TrainingMemory) -> None:
    gb = 2**30
    print(
        f"peak memory of a training step, {memory.pairs} pairs: {memory.peak / gb:.1f} GB of tensors (weights "
        f"{memory.weights / gb:.1f} GB; weights and optimiser between steps {memory.resting / gb:.1f} GB)\n"
        f"{memory.trained / 1e6:.1f} of {memory.parameters / 1e6:.1f} million parameters are trained\n"
        "Counted, not measured: a GPU needs about 1 GB more for CUDA and for gaps."
    )


def _run(args: argparse.Namespace) -> None:
    config = read_job(args, "test")
    if args.amp:
        config.test_cfg.amp = True
        if config.get("train_dataloader"):
            use_amp(config)
    if args.dry_run:
        print(config.pretty_text)
        return
    if args.out:
        writable_file(Path(args.out), "--out")
    if args.memory:
        memory = count_training_memory(config, args.caption_tokens, args.amp)
        _print_memory(memory)
        if args.out:
            write_json(Path(args.out), asdict(memory))
        return
    config.resume, config.load_from = False, None
    write_json(Path(args.out), measure_cost(config))
