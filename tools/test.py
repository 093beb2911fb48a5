"""Test a checkpoint: both stages' metrics, a table, and a ranked-gallery sheet in the work dir.

python tools/test.py configs/cada_procedural.py work_dirs/cada_procedural/epoch_4.pth --out metrics.json
"""

import argparse
import sys

from cada_plugin.engine.launch import add_common_arguments, run_tool, test
from cada_plugin.integrations.yacs import add_arguments


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("checkpoint", help="ours, released CADA, BLIP, or a Hugging Face BLIP folder")
    parser.add_argument("--out", metavar="FILE.json", help="write the metrics here")
    parser.add_argument("--queries", metavar="FILE.npz", help="write rank and precision of every query here")
    add_arguments(parser)
    return run_tool(test, parser.parse_intermixed_args(argv))


if __name__ == "__main__":
    sys.exit(main())
