"""Measure speed on synthetic inputs. The sides of a comparison are timed in turn, in several rounds after a warm-up.

cada speed train --batch-size 16                  # a training step, against the plain path
cada speed rank                                   # metrics, against torchreid's evaluate_rank
cada speed rerank --against blip                  # re-ranking, against the plain path and transformers' decoder too
cada speed train --device cuda --amp --batch-size 64
cada speed curves --out runs/curves
cada speed search --out runs/search               # indexed galleries of 10,000 to a million images
cada speed gpu --out runs/gpu                     # everything that needs a GPU, in ten minutes

WORK is train, encode, rerank, rank, load, evaluate, curves, search or gpu; `WORK --help` shows its options. The plain
path computes the same with the same weights, but without our optimisations.
"""

import argparse
import shlex
import time
from functools import partial
from pathlib import Path

import torch

from cada_plugin.benchmark.machine import machine, versions
from cada_plugin.benchmark.speed.curves import draw_curves, measure_curves
from cada_plugin.benchmark.speed.gpu import measure_rows
from cada_plugin.benchmark.speed.inputs import CONFIGS
from cada_plugin.benchmark.speed.measure import measure
from cada_plugin.benchmark.speed.report import comparison, evaluation_table, load_table
from cada_plugin.benchmark.speed.whole import evaluate, load
from cada_plugin.benchmark.speed.work import encode_captions, encode_images, rank, rerank, train
from cada_plugin.cli.running import run_command
from cada_plugin.errors import CADAError, ConfigError
from cada_plugin.files import writable_file, writable_folder, write_json

_FOLDERS = ("curves", "search", "gpu")  # works that write into a folder
_AGAINST = {  # the other sides of each work, the default first
    "train": ("reference", "none"),
    "encode": ("reference", "none"),
    "rerank": ("reference", "blip", "none"),
    "rank": ("torchreid", "none"),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_works(parser)
    return run_command(_run, parser.parse_args(argv, argparse.Namespace(command_line=argv)))


def _add_works(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand for each kind of work."""
    commands = parser.add_subparsers(dest="work", required=True, metavar="WORK")

    def command(name: str, about: str, model: bool = True, rounds: int | None = 5) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=about, description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        if name != "search":
            added.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
        if model:
            added.add_argument("--size", choices=list(CONFIGS), default="base", help="of the model")
        if model and name != "gpu":
            added.add_argument(
                "--amp", nargs="?", const="ours", choices=["ours", "both"], help="bf16 autocast, on our side or on both"
            )
        if rounds is not None:
            added.add_argument("--rounds", type=_positive, default=rounds, help="how often everything is timed")
        if name in _AGAINST:
            sides = _AGAINST[name]
            added.add_argument("--against", choices=sides, default=sides[0], help="the other side")
        if name not in _FOLDERS:
            added.add_argument("--json", metavar="FILE", help="write everything here")
        return added

    one = command("train", "training steps")
    one.add_argument("--batch-size", type=_positive, default=8, help="images")
    one.add_argument("--grouping", choices=["tokens", "position"], default="tokens", help="of ATP")
    one = command("encode", "encoding of images, and of captions")
    one.add_argument("--batch-size", type=_positive, default=16, help="images, and captions")
    one = command("rerank", "match scores of shortlists")
    one.add_argument("--k", type=_positive, default=32, help="images of a shortlist, and of the gallery")
    one.add_argument("--sharing", type=_positive, default=30, help="captions that have an image in their shortlist")
    one.add_argument("--images", type=_positive, default=3, help="images whose pairs are scored, at most K")
    one = command("rank", "R@n, mAP and mINP", model=False)
    one.add_argument("--items", type=_positive, default=20_000, help="captions, and images")
    one.add_argument(
        "--torchreid-size", type=_positive, default=4_000, help="items of the comparison: 20,000 take torchreid minutes"
    )
    one = command("load", "data loading, beside what training takes")
    one.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="numbers to try")
    one.add_argument("--images", type=_positive, default=512, help="files")
    one.add_argument("--batch-size", type=_positive, default=8, help="of the training step")
    one = command("evaluate", "a whole two-stage evaluation of decoded images", rounds=None)
    one.add_argument("--queries", type=_positive, default=19_848, help="captions")
    one.add_argument("--gallery", type=_positive, default=19_848, help="images")
    one.add_argument("--k", type=_positive, default=32, help="images of a shortlist")
    one = command("curves", "how cost grows with the work, with the tiny model", model=False, rounds=3)
    one.add_argument("--out", required=True, metavar="DIR", help="for curves.json and curves.png")
    one = command("search", "searching indexed galleries of synthetic embeddings", model=False, rounds=None)
    one.add_argument("--rows", type=_positive, nargs="+", default=[10_000, 100_000, 1_000_000], help="images")
    one.add_argument("--queries", type=_positive, default=200, help="searches of each kind")
    one.add_argument("--out", required=True, metavar="DIR", help="for search.json and search.png")
    one.set_defaults(device="cpu")
    one = command("gpu", "all measurements that wait for a GPU", rounds=None)
    one.add_argument("--minutes", type=float, default=10, help="time limit")
    one.add_argument("--out", required=True, metavar="DIR", help="for README.md and a JSON file for each row")


def _run(args: argparse.Namespace) -> None:
    """Run the measurement of the command line, print a table, and write the files.

    Raises:
        ConfigError: an option is impossible.
        CADAError: the two sides of a comparison give different results.
    """
    _check(args)
    if args.work in _FOLDERS:
        writable_folder(Path(args.out), "--out")
    elif args.json:
        writable_file(Path(args.json), "--json")
    if args.work == "gpu":
        _measure_on_gpu(args)
        return
    place = _where(args.device)
    if args.work == "curves":
        results = measure_curves(args.device, args.rounds)
        draw_curves(
            results, f"{place}; model of size tiny; medians of {args.rounds} rounds", Path(args.out) / "curves.png"
        )
        text, file = f"written: {args.out}/curves.png, curves.json", f"{args.out}/curves.json"
    elif args.work == "search":
        # imported here, because it needs an extra
        from cada_plugin.benchmark.speed.search import measure_search, search_panels, search_table

        results = measure_search(sorted(args.rows), args.queries)
        heading = f"{place}; LanceDB, {args.queries} searches of each kind"
        draw_curves(search_panels(results), heading, Path(args.out) / "search.png")
        text, file = search_table(results), f"{args.out}/search.json"
    elif args.work == "load":
        results = load(args.workers, args.images, args.rounds, args.size, args.batch_size, args.device, args.amp)
        text, file = load_table(results), args.json
    elif args.work == "evaluate":
        results = evaluate(args.size, args.queries, args.gallery, args.k, args.device, args.amp)
        text, file = evaluation_table(results), args.json
    else:
        results = [measure(build, args.rounds) for build in _builds(args)]
        text, file = "\n\n".join(comparison(result) for result in results), args.json
    print(f"{place}\n\n{text}")
    if file:
        about = {
            "command": shlex.join(["cada", "speed", *args.command_line]),
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "versions": versions(),
            "device": args.device,
        }
        write_json(Path(file), {**about, "work": args.work, "results": results})


def _measure_on_gpu(args: argparse.Namespace) -> None:
    failed = measure_rows(Path(args.out), args.device, args.size, args.minutes)
    print((Path(args.out) / "README.md").read_text(encoding="utf-8"))
    if failed:
        raise CADAError(f"not measured: {'; '.join(failed)}. {args.out}/README.md says why")


def _check(args: argparse.Namespace) -> None:
    try:
        device = torch.device(args.device).type
    except RuntimeError:
        device = None
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"--device {args.device}: use cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {args.device}: torch finds no GPU here, use --device cpu")
    if args.work == "rerank" and args.images > args.k:
        raise ConfigError(f"--images {args.images} exceeds --k {args.k}, the images that captions have in common")
    if args.work == "train" and args.batch_size < 2:
        raise ConfigError("--batch-size 1: matching needs a wrong partner, use 2 or more")
    if args.work == "rank" and min(args.items, args.torchreid_size) < 10:
        raise ConfigError("--items and --torchreid-size: R@10 needs 10 or more")
    if args.work == "load" and min(args.workers) < 0:
        raise ConfigError(f"--workers {min(args.workers)}: use 0 or more")


def _builds(args: argparse.Namespace) -> list[partial]:
    """Functions that build what is measured. Processes that measure memory call them again, to build it anew."""
    if args.work == "rank":
        sizes = {args.items: ("ours",)}
        if args.against == "torchreid":
            sizes[args.torchreid_size] = ("ours", "torchreid")
        return [partial(rank, n, n, sides, args.device) for n, sides in sizes.items()]
    common = {"size": args.size, "device": args.device, "amp": args.amp, "against": args.against}
    if args.work == "train":
        return [partial(train, batch_size=args.batch_size, grouping=args.grouping, **common)]
    if args.work == "encode":
        return [partial(work, batch_size=args.batch_size, **common) for work in (encode_images, encode_captions)]
    return [partial(rerank, k=args.k, queries=args.sharing, gallery=args.k, images=args.images, **common)]


def _where(device: str) -> str:
    place = machine()
    name = place["gpu"] if device.startswith("cuda") else f"{place['cpu']}, {place['threads']} threads"
    return f"{device}: {name}, torch {versions()['torch']}"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: use 1 or more")
    return number
