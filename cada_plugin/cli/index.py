"""Encode a folder of pictures into a gallery, or bring the gallery up to date with the folder.

cada index crops/ --gallery gallery/
cada index crops/ --gallery gallery/ --name-pattern "{camera}_{time:%Y%m%d%H%M%S}"
cada index --gallery gallery/                        (the folder is known)
cada index crops/ --gallery http://host:19530/crops  (Milvus)

Only new and changed pictures are decoded. A run that was interrupted is continued by the next one. The weights that
ship with the plugin (the default) know procedural people only: for photographs give --config and --checkpoint of a
model that was trained on photographs. Exit status: 0 all indexed, 1 some pictures cannot be read (the others are
indexed), 2 nothing was done.
"""

import argparse
import sys
from pathlib import Path

from cada_plugin import load_retriever
from cada_plugin.cli.running import run_command
from cada_plugin.errors import ConfigError
from cada_plugin.gallery import Gallery
from cada_plugin.gallery.tokens import MODES


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada index", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", help="folder of the pictures, with its sub-folders")
    parser.add_argument("--gallery", required=True, metavar="PLACE", help="a folder, or the address of a collection")
    parser.add_argument(
        "--config",
        help="the model or an exported folder (default: that of the gallery, cada_procedural for a new one)",
    )
    parser.add_argument("--checkpoint", help="weights for --config (default: its own)")
    parser.add_argument("--tokens", choices=MODES, help="what a new gallery keeps for re-ranking (default: none)")
    parser.add_argument("--name-pattern", metavar="PATTERN", help="how file names tell camera, time and person")
    parser.add_argument("--csv", metavar="FILE", help="camera, time, person and other columns by path")
    parser.add_argument("--captions", metavar="FILE.txt", help="measure hubness among these captions, one in a line")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument("--batch-size", type=int, default=64, help="pictures encoded at once")
    return run_command(_run, parser.parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    if args.checkpoint and not args.config:
        raise ConfigError("--checkpoint needs the --config that it was trained by")
    if not Gallery.exists(args.gallery):
        if args.folder is None:
            raise ConfigError(f"{args.gallery} is a new gallery: give the folder of the pictures")
        gallery = Gallery.create(
            args.gallery,
            args.folder,
            args.config or "cada_procedural",
            args.checkpoint,
            args.tokens or "none",
            device=args.device,
        )
    else:
        retriever = load_retriever(args.config, args.checkpoint, args.device) if args.config else None
        gallery = Gallery.open(args.gallery, retriever, args.device)
    if args.folder is not None and Path(args.folder).expanduser().resolve() != gallery.root:
        raise ConfigError(
            f"the gallery {args.gallery} is of the folder {gallery.root}, not of {args.folder}: use another --gallery"
        )
    if args.tokens not in (None, gallery.mode):
        raise ConfigError(
            f"the gallery {args.gallery} keeps tokens={gallery.mode}, not {args.tokens}: use another --gallery"
        )
    if args.name_pattern or args.csv:
        gallery.remember_facts(args.name_pattern, args.csv)
    if args.captions:
        gallery.remember_captions(args.captions)
    changes = gallery.index(batch_size=args.batch_size)
    encoded = {file.path for file in changes.new} - changes.unreadable.keys()
    print(
        f"{args.gallery}: {len(gallery):,} images; {len(encoded):,} encoded (of these changed: "
        f"{len(encoded & changes.changed):,}), "
        f"{len(changes.moved):,} moved, {len(changes.removed):,} removed, "
        f"{len(changes.unchanged) + len(changes.touched):,} unchanged, {len(changes.unreadable):,} unreadable"
    )
    meta = gallery.store.meta()
    if meta.get("name_pattern") or meta.get("csv"):
        unknown = sum(not (row.camera or row.person or row.time or row.columns) for row in gallery.store.rows())
        print(f"without camera, time and person (not in the CSV, no name that fits the pattern): {unknown:,} images")
    for path, reason in sorted(changes.unreadable.items()):
        shown = path.encode("utf-8", "backslashreplace").decode()
        print(f"unreadable: {shown}: {reason}", file=sys.stderr)
    return int(bool(changes.unreadable))
