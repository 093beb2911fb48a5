"""Convert weights between the released CADA, BLIP, Hugging Face BLIP and BERT names.

cada convert model_base.pth blip.safetensors
cada convert blip-itm-base-coco/ start.pth
cada convert work_dirs/cada_cuhk/epoch_30.pth pytorch_model.bin --to hf-blip

SRC is a file (.pth, .pt, .bin, .safetensors) or a Hugging Face folder; its format is recognised. You need not convert
weights for training: it reads all these formats directly, and also fits image and text positions to the model. This
tool only changes names, never sizes.
Exit status: 0 converted, 2 SRC cannot be read or converted, or DST cannot be written.
"""

import argparse
import sys


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "cada convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("src", help="weights to read")
    parser.add_argument("dst", help="file to write: .pth, .pt, .bin or .safetensors")
    parser.add_argument("--to", choices=("cada", "hf-blip"), default="cada", help="names to write (default: cada)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse_args(argv)
    from cada_plugin.checkpoints import (
        read_weights,
        to_cada,
        to_hf_blip,
        write_weights,
    )  # torch takes seconds to import
    from cada_plugin.checkpoints.convert import FORMAT_NAMES
    from cada_plugin.checkpoints.io import check_target
    from cada_plugin.checkpoints.load import group_names
    from cada_plugin.errors import CADAError, CheckpointError

    try:
        check_target(args.dst)
        result = to_cada(read_weights(args.src))
        if result.format == "plain":
            known = "CADA, BLIP, Hugging Face BLIP, BERT"
            names = ", ".join(list(result.state)[:3])
            raise CheckpointError(f"{args.src} is in none of the known formats ({known}): it has names like {names}")
        dropped, notes = result.dropped, result.notes
        state = result.state
        if args.to == "hf-blip":
            exported = to_hf_blip(state)
            state, dropped = exported.state, dropped + exported.dropped
        write_weights(state, args.dst, wrap=args.to == "cada")
    except (CADAError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{args.src} ({FORMAT_NAMES[result.format]}) -> {args.dst} ({args.to}): {len(state)} tensors")
    if dropped:
        print(f"  dropped: {group_names(dropped)}")
    for note in notes:
        print(f"  {note}")
    return 0
