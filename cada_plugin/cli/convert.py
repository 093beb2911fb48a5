"""Convert weights between the names of the released CADA, BLIP, CLIP and BERT, and those of Hugging Face.

cada convert model_base.pth blip.safetensors
cada convert blip-itm-base-coco/ start.pth
cada convert work_dirs/cada_cuhk/epoch_30.pth pytorch_model.bin --to hf-blip

SRC is a file (.pth, .pt, .bin, .safetensors) or a Hugging Face folder; its format is recognised. You need not convert
weights for training: it reads all these formats directly, and also fits image and text positions to the model. This
tool only changes names, never sizes.
Exit status: 0 converted, 2 SRC cannot be read or converted, or DST cannot be written.
"""

import argparse

from cada_plugin.cli.running import run_command


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("src", help="weights to read")
    parser.add_argument("dst", help="file to write: .pth, .pt, .bin or .safetensors")
    parser.add_argument("--to", choices=("cada", "hf-blip"), default="cada", help="names to write (default: cada)")
    return run_command(_run, parser.parse_args(argv))


def _run(args: argparse.Namespace) -> None:
    # after the arguments: torch takes seconds to import
    from cada_plugin.checkpoints import read_weights, to_cada, to_hf_blip, write_weights
    from cada_plugin.checkpoints.convert import FORMAT_NAMES
    from cada_plugin.checkpoints.io import check_target
    from cada_plugin.checkpoints.load import group_names
    from cada_plugin.errors import CheckpointError

    check_target(args.dst)
    result = to_cada(read_weights(args.src))
    if result.format == "plain":
        known = ", ".join(name for kind, name in FORMAT_NAMES.items() if kind != "plain")
        names = ", ".join(list(result.state)[:3])
        raise CheckpointError(f"{args.src} is in none of the known formats ({known}): it has names like {names}")
    dropped, notes, state = result.dropped, result.notes, result.state
    if args.to == "hf-blip":
        exported = to_hf_blip(state)
        state, dropped = exported.state, dropped + exported.dropped
    try:
        write_weights(state, args.dst, wrap=args.to == "cada")
    except OSError as error:
        raise CheckpointError(f"{args.dst} cannot be written ({error.strerror}): is the disk full?") from error
    print(f"{args.src} ({FORMAT_NAMES[result.format]}) -> {args.dst} ({args.to}): {len(state)} tensors")
    if dropped:
        print(f"  dropped: {group_names(dropped)}")
    for note in notes:
        print(f"  {note}")
