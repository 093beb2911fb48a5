"""Train and test several configs with several seeds, measure their cost, and say what is more than noise.

python tools/benchmark.py configs/cada_procedural.py configs/baselines/*_procedural.py --seeds 0 1 2 --out runs/bench
python tools/benchmark.py configs/cada_cuhk.py --test-only cada.pth --cross configs/cada_icfg.py --out runs/transfer

Every run is a process of its own: the failure of one is reported and the others go on. The same command started again
goes on where it was stopped and tries again what failed. In the folder of --out: results.md (tables; grows while it
runs), results.json (everything, per run as well), results.csv, accuracy.png, cost.png, and the work dir and log of each
run. Exit status: 0 all done, 1 something failed, 2 the request is wrong or was interrupted.
"""

import argparse
import signal
import sys
from pathlib import Path

from mmengine.config import Config

from cada_plugin.benchmark.run import benchmark
from cada_plugin.engine.config import read_config as read_python_config
from cada_plugin.engine.launch import add_overrides, run_tool
from cada_plugin.integrations.yacs import to_mmengine


def read_config(args: argparse.Namespace) -> Config:
    """Also those of FastReID and torchreid."""
    yaml = Path(args.config).suffix in (".yml", ".yaml")
    return to_mmengine(args.config) if yaml else read_python_config(args.config)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="the rows of the tables, named after their files")
    parser.add_argument("--out", required=True, metavar="DIR", help="where everything goes")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="train once with each (default: 0)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at once, by GPU or CPU core (default: 1)"
    )
    parser.add_argument("--test-only", nargs="+", metavar="CHECKPOINT", help="train nothing: one for each config")
    parser.add_argument(
        "--cross", nargs="+", default=[], metavar="CONFIG", help="test on the test sets of these configs as well"
    )
    parser.add_argument("--amp", action="store_true", help="train and test under bf16 autocast")
    add_overrides(parser)
    parser.set_defaults(read_config=read_config)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the runs end with us

    failures = 0

    def tool(args: argparse.Namespace) -> None:
        nonlocal failures
        failures = benchmark(args, Path(__file__).resolve().parent)

    return run_tool(tool, args) or int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
