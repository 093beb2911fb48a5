"""Train and test several configs with several seeds, measure their cost, and tell real differences from noise.

cada benchmark cada_procedural blip_procedural clip_procedural --seeds 0 1 2 --out runs/bench
cada benchmark cada_cuhk --test-only cada.pth --cross cada_icfg --out runs/transfer
cada benchmark cada_procedural --vary "k4: test_cfg.rerank_topk=4" grids/procedural --out runs/ablations

Every run is a process of its own: if one fails, this is reported and the others go on. If you start the same command
again, it continues where it was stopped and repeats what failed. The folder of --out then holds results.md (tables,
which grow during the runs), results.json (everything, also for each run), results.csv, accuracy.png, cost.png, and the
work dir and log of each run. Exit status: 0 all done, 1 something failed, 2 the request is wrong or was interrupted.
"""

import argparse
import shlex

from cada_plugin.benchmark.plan import Request
from cada_plugin.benchmark.run import benchmark
from cada_plugin.benchmark.variants import Variant, read_grid
from cada_plugin.cli.common import add_overrides, parse_overrides
from cada_plugin.cli.running import run_command
from cada_plugin.errors import ConfigError


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
    parser.add_argument(
        "--vary",
        nargs="+",
        default=[],
        metavar="VARIANT",
        help="run variants of each config as well: 'NAME: KEY=VALUE KEY=VALUE ...', or a YAML file of many; those that "
        "change the test alone are not trained again. 'CONFIG/NAME: ...' varies one config only",
    )
    parser.add_argument(
        "--save", metavar="FILE.json", help="write the results here as well, without paths of runs, for `cada report`"
    )
    add_overrides(parser)
    parser.set_defaults(command=shlex.join(["cada", "benchmark", *argv]))
    return run_command(_run, parser.parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    request = Request(
        args.configs,
        args.out,
        args.seeds,
        args.jobs,
        args.test_only,
        args.cross,
        args.amp,
        args.cfg_options or {},
        [variant for word in args.vary for variant in _read_vary(word)],
        args.save,
        args.command,
    )
    return int(benchmark(request) > 0)


def _read_vary(word: str) -> list[Variant]:
    """The variants of one word of ``--vary``: the one that is written out in it, or those of a grid file.

    Raises:
        ConfigError: the word is neither a variant nor a grid.
    """
    name, colon, settings = word.partition(":")
    if not colon:
        try:
            return read_grid(word)
        except ConfigError as error:
            raise ConfigError(f"--vary {word}: {error} (a single variant is written 'NAME: KEY=VALUE ...')") from error
    try:
        return [Variant(name.strip(), parse_overrides(shlex.split(settings)))]
    except ValueError as error:
        raise ConfigError(f"--vary {word!r}: {error}: write 'NAME: KEY=VALUE KEY=VALUE ...'") from error
