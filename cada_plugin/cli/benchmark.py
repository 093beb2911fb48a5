"""Train and test several configs with several seeds, measure their cost, and say what is more than noise.

cada benchmark cada_procedural blip_procedural clip_procedural --seeds 0 1 2 --out runs/bench
cada benchmark cada_cuhk --test-only cada.pth --cross cada_icfg --out runs/transfer

Every run is a process of its own: the failure of one is reported and the others go on. The same command started again
goes on where it was stopped and tries again what failed. In the folder of --out: results.md (tables; grows while it
runs), results.json (everything, per run as well), results.csv, accuracy.png, cost.png, and the work dir and log of each
run. Exit status: 0 all done, 1 something failed, 2 the request is wrong or was interrupted.
"""

import argparse

from cada_plugin.benchmark.plan import Request
from cada_plugin.benchmark.run import benchmark
from cada_plugin.cli.common import add_overrides, run_command


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "configs", nargs="+", metavar="CONFIG", help="paths or names; the rows of the tables are named after them"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where everything goes")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[], metavar="N", help="train once with each (default: 0)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at once, by GPU or CPU core (default: 1)"
    )
    parser.add_argument(
        "--test-only", nargs="+", default=[], metavar="CHECKPOINT", help="train nothing: one for each config"
    )
    parser.add_argument(
        "--cross", nargs="+", default=[], metavar="CONFIG", help="test on the test sets of these configs as well"
    )
    parser.add_argument("--amp", action="store_true", help="train and test under bf16 autocast")
    add_overrides(parser)
    return run_command(_run, parser.parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    request = Request(
        args.configs, args.out, args.seeds, args.jobs, args.test_only, args.cross, args.amp, args.cfg_options or {}
    )
    return int(benchmark(request) > 0)
