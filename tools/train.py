"""Train a model of the plugin, then test its best epoch and draw what it found.

python tools/train.py configs/cada_procedural.py
torchrun --nproc-per-node 4 tools/train.py configs/cada_cuhk.py --launcher pytorch --amp
python tools/train.py configs/yacs/fastreid_procedural.yml SOLVER.MAX_EPOCH 1
"""

import argparse
import sys

from cada_plugin.engine.launch import add_common_arguments, run_tool, train
from cada_plugin.integrations.yacs import add_arguments


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
    add_arguments(parser)
    return run_tool(train, parser.parse_intermixed_args(argv))


if __name__ == "__main__":
    sys.exit(main())
