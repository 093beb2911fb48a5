"""Train a model of the plugin, then test its best epoch and draw what it found.

python tools/train.py configs/cada_procedural.py
torchrun --nproc-per-node 4 tools/train.py configs/cada_cuhk.py --launcher pytorch --amp
"""

import argparse
import sys

from cada_plugin.engine.launch import add_common_arguments, run_tool, train


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint, by default the work dir's last",
    )
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate with the global batch size"
    )
    return run_tool(train, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
