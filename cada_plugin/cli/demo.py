"""Draw people, index them, and search them in the browser: the first minutes with the plugin.

cada demo
cada demo --folder demo/ --port 9000 --no-browser

It needs no data and no download: 2,000 crops of 500 people are drawn, and the weights that ship with the plugin find
them. A second start uses what is there. The page serves this machine alone. Ctrl-C ends it; delete the folder to clean
up.
"""

import argparse
import csv
import json
import webbrowser
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cada_plugin.cli.running import run_command
from cada_plugin.datasets.procedural import build_procedural
from cada_plugin.errors import ConfigError, GalleryError
from cada_plugin.gallery import Gallery
from cada_plugin.serve.running import listen, serve

_IMAGES_OF_A_PERSON = 4
_SEED = 2026  # not that of the shipped weights' training, so that nobody here was seen before
_FIRST = datetime(2026, 11, 25, 8, 0, tzinfo=timezone.utc)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", default="cada_demo", help="for crops and gallery (default: cada_demo)")
    parser.add_argument("--people", type=int, default=500, help="with four crops each (default: 500)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free (default: 8000)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open nothing")
    return run_command(_run, parser.parse_args(argv))


def _run(args: argparse.Namespace) -> None:
    if args.people < 1:
        raise ConfigError(f"--people {args.people}: use an integer from 1")
    folder = Path(args.folder).expanduser()
    with listen("127.0.0.1", args.port) as sock:
        build_procedural(
            folder / "people",
            seed=_SEED,
            identities={"train": 0, "val": 0, "test": args.people},
            images_per_identity=_IMAGES_OF_A_PERSON,
        )
        gallery, example = _indexed(folder)

        def ready(address: str) -> None:
            print(f"{len(gallery):,} images: {address}\nTry: {example}", flush=True)
            if not args.no_browser:
                webbrowser.open(address)

        serve(gallery, sock, None, ready)


def _indexed(folder: Path) -> tuple[Gallery, str]:
    """The gallery of the drawn people, and a sentence that describes one of them."""
    records = json.loads((folder / "people/reid_raw.json").read_text(encoding="utf-8"))
    place = folder / "gallery"
    if Gallery.exists(place):
        try:
            gallery = Gallery.open(place)
        except GalleryError as error:
            raise GalleryError(f"{error}. This demo was made by another version: delete {place}") from error
    else:
        # tokens are kept, so that re-ranking need not read the crops again
        gallery = Gallery.create(place, folder / "people/imgs", "cada_plus_procedural", tokens="int8")
    _write_facts(folder / "facts.csv", records)
    gallery.remember_facts(table=folder / "facts.csv")
    gallery.index()
    return gallery, records[0]["captions"][0]


def _write_facts(path: Path, records: list[dict]) -> None:
    """Cameras, made-up times and persons of the crops: each person walks from camera to camera, a minute apart."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "camera", "time", "person"])
        for number, record in enumerate(records):
            person, place = divmod(number, _IMAGES_OF_A_PERSON)
            time = _FIRST + timedelta(seconds=97 * person, minutes=place)
            writer.writerow([record["file_path"], record["file_path"].split("/")[0], time.isoformat(), person + 1])
