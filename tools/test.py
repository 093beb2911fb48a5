"""Test a checkpoint: both stages' metrics, a table, and a ranked-gallery sheet in the work dir.

python tools/test.py configs/cada_procedural.py work_dirs/cada_procedural/epoch_4.pth --out metrics.json
"""

import argparse
import sys

from cada_plugin.engine.launch import add_common_arguments, run_tool, test


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("checkpoint", help="ours, released CADA, BLIP, or a Hugging Face BLIP folder")
    parser.add_argument("--out", metavar="FILE.json", help="write the metrics here")
    return run_tool(test, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
