"""Write a trained model into one folder that opens on any machine.

cada export cada_cuhk work_dirs/cada_cuhk/best.pth cada_cuhk_folder/
cada export cada_cuhk work_dirs/cada_cuhk/best.pth cada_cuhk_onnx/ --format onnx --int8
cada export cada_procedural own procedural_onnx/ --format onnx      (own: the config's own weights)

Formats: folder (what load_retriever opens with PyTorch), onnx (needs the extra [onnx]; opens without torch),
torch-export (for torch.export.load), hf-blip (for transformers' BlipForImageTextRetrieval; CADA and BLIP on square
images). OUT is a new folder, which appears complete or not at all.
Exit status: 0 written, 2 it cannot be.
"""

import argparse
import json
from pathlib import Path

import torch

from cada_plugin.apis import load_retriever
from cada_plugin.benchmark.exported import compare_speed, rank_split, speed_table
from cada_plugin.checkpoints.load import group_names
from cada_plugin.cli.common import add_overrides
from cada_plugin.cli.running import run_command
from cada_plugin.engine.config import override, read_config
from cada_plugin.errors import ConfigError
from cada_plugin.export.folder import write_weights_folder
from cada_plugin.export.hf_blip import write_hf_blip_folder
from cada_plugin.export.onnx_files import write_onnx_folder, write_torch_export_folder
from cada_plugin.files import new_folder
from cada_plugin.registry import DATASETS, build_part

FORMATS = ("folder", "onnx", "torch-export", "hf-blip")
_OWN = "own"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="a config: a path, or the name of one that ships with the plugin")
    parser.add_argument(
        "checkpoint", help=f"weights in any format; {_OWN} means those that the config trained or starts from"
    )
    parser.add_argument("out", help="a new folder")
    parser.add_argument("--format", choices=FORMATS, default="folder", help="what to write (default: folder)")
    parser.add_argument("--int8", action="store_true", help="with onnx: weights in 8 bits (dynamic quantisation)")
    parser.add_argument("--metrics", metavar="FILE.json", help="for the model card, as `cada test --out` writes them")
    parser.add_argument("--measured", metavar="TEXT", help="when and on what machine: '2026-11-28, two CPU cores'")
    parser.add_argument(
        "--licence", default="apache-2.0", help="of the weights, by the Hub's name (default: apache-2.0)"
    )
    parser.add_argument(
        "--compare",
        choices=("speed", "ranking"),
        nargs="+",
        default=[],
        help="with onnx: measure it beside PyTorch; ranking takes R@1 of the config's test split",
    )
    add_overrides(parser)
    return run_command(_run, parser.parse_args(argv))


def _run(args: argparse.Namespace) -> None:
    if (args.int8 or args.compare) and args.format != "onnx":
        option = "--int8" if args.int8 else "--compare"
        raise ConfigError(f"{option} belongs to --format onnx, not to {args.format}")
    config = read_config(args.config)
    override(config, args.cfg_options or {})
    retriever = load_retriever(config, None if args.checkpoint == _OWN else args.checkpoint)
    trained = retriever.trained()
    facts = {"metrics": _read_metrics(args.metrics), "measured": args.measured, "licence": args.licence}
    dropped: list[str] = []
    with torch.no_grad(), new_folder(Path(args.out)) as folder:
        if args.format == "folder":
            write_weights_folder(trained, folder, **facts)
        elif args.format == "onnx":
            write_onnx_folder(trained, folder, int8=args.int8, **facts)
        elif args.format == "torch-export":
            write_torch_export_folder(trained, folder, **facts)
        else:
            dropped = write_hf_blip_folder(trained, folder)
    out = Path(args.out).expanduser()
    files = sorted(path for path in out.iterdir() if path.suffix in (".safetensors", ".onnx", ".pt2"))
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in files)
    print(f"{args.out} ({args.format}{', int8' if args.int8 else ''}): {retriever.name}; {sizes}")
    if dropped:
        print(f"  dropped: {group_names(dropped)}")
    if args.compare:
        exported = load_retriever(out, backend="onnx")
        if "speed" in args.compare:
            print(speed_table(compare_speed(retriever, exported)))
        if "ranking" in args.compare:
            dataset = build_part(DATASETS, config.test_dataloader.dataset)
            for name, one in (("PyTorch", retriever), ("ONNX", exported)):
                print(f"R@1 of {len(dataset.records):,} images, {name}: {rank_split(one, dataset):.2f}")


def _read_metrics(path: str | None) -> dict[str, float] | None:
    if path is None:
        return None
    try:
        metrics = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--metrics {path} cannot be read ({error}): give what `cada test --out` wrote") from error
    numbers = isinstance(metrics, dict) and all(isinstance(value, int | float) for value in metrics.values())
    if not numbers:
        raise ConfigError(f"--metrics {path} holds no metrics by name: give what `cada test --out` wrote")
    return metrics
