"""Measure speed on synthetic inputs: both sides of a comparison in turn, several rounds after a warm-up.

python tools/benchmark_speed.py train --batch-size 16                  # a training step, against the plain path
python tools/benchmark_speed.py rank                                   # metrics, against torchreid's evaluate_rank
python tools/benchmark_speed.py train --device cuda --amp --batch-size 64
python tools/benchmark_speed.py curves --out runs/curves

WORK is train, encode, rerank, rank, load, evaluate or curves; `WORK --help` shows its options. The plain path is
tests/reference_path.py: the same mathematics on the same weights, without what makes ours fast.
"""

import argparse
import sys

from cada_plugin.benchmark.speed import add_commands, run
from cada_plugin.engine.launch import run_tool


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_commands(parser)
    return run_tool(run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
