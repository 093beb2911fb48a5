"""Make the tables and charts of a benchmark again, from the file of its results.

cada report docs/results/procedural.json --out docs/results

`cada benchmark ... --save FILE.json` writes that file, which can be committed. For procedural.json, this
command writes procedural.md, procedural_accuracy.png and procedural_cost.png; nothing is trained or tested.
"""

import argparse
from pathlib import Path

from cada_plugin.benchmark.saved import remake
from cada_plugin.cli.running import run_command


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", metavar="FILE.json", help="results that `cada benchmark --save` wrote")
    parser.add_argument("--out", metavar="DIR", help="where tables and charts go (default: beside the file)")
    return run_command(_run, parser.parse_args(argv))


def _run(args: argparse.Namespace) -> None:
    path = Path(args.results)
    for written in remake(path, Path(args.out) if args.out else path.parent):
        print(written)
