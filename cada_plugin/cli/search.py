"""Search a gallery by sentences and pictures.

cada search gallery/ "a woman in a red coat with a black backpack"
cada search gallery/ "a man in a blue jacket" --and "he carries a suitcase" --without "a hat" --camera gate3
cada search gallery/ --like somebody.jpg --after 2026-11-25T08:00 --sheet found.png
cada search gallery/ "a woman in a red coat" --explain why/

--and joins the sentences into one, --or takes the best of them, and --without counts against an image; a negation
inside a sentence is not understood. Where there is a sentence and the model has a match head, it re-ranks the best
images; --like and --without count in stage 1 only. `score` is the probability that an image shows the person, for
models that `cada calibrate` was run for. Exit status: 0 something was found, 1 nothing, 2 the search is impossible.
"""

import argparse
import json
import sys
from pathlib import Path

from cada_plugin.cli.running import run_command
from cada_plugin.errors import ConfigError, ImageError
from cada_plugin.files import writable_file, writable_folder
from cada_plugin.gallery import Filter, Gallery, GalleryHit, Query
from cada_plugin.gallery.facts import parse_time, utc
from cada_plugin.portable.pictures import load_person_image
from cada_plugin.visualization import RankedQuery, draw_explanation, draw_ranked_galleries

_EXPLAINED = 3  # hits: a sheet takes about as long as a search


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gallery", help="what `cada index` made: a folder, or the address of a collection")
    parser.add_argument("sentence", nargs="?", help="a description of the person")
    more = parser.add_mutually_exclusive_group()
    more.add_argument("--and", dest="both", nargs="+", default=[], metavar="SENTENCE", help="fit these as well")
    more.add_argument("--or", dest="either", nargs="+", default=[], metavar="SENTENCE", help="or fit one of these")
    parser.add_argument("--without", nargs="+", default=[], metavar="SENTENCE", help='such as "a hat"')
    parser.add_argument("--like", nargs="+", default=[], metavar="PICTURE", help="look like these")
    parser.add_argument("--camera", nargs="+", default=[], help="only of these cameras")
    parser.add_argument("--after", metavar="TIME", help="not before this time (2026-11-25T08:00, UTC)")
    parser.add_argument("--before", metavar="TIME", help="before this time")
    parser.add_argument("--where", nargs="+", default=[], metavar="COLUMN=VALUE", help="columns of the CSV")
    parser.add_argument("--min-score", type=float, metavar="P", help="least probability that it is the person")
    parser.add_argument("--min-cosine", type=float, metavar="COSINE", help="least stage-1 score")
    parser.add_argument("--hubness-weight", type=float, default=0.0, metavar="W", help="subtract hubness (default: 0)")
    parser.add_argument("--per-person", action="store_true", help="the best image of each person or track")
    parser.add_argument("--topk", type=int, default=10, metavar="K", help="number of hits (default: 10)")
    parser.add_argument("--sort", choices=["score", "time"], default="score", help="order of the hits shown")
    parser.add_argument("-f", "--files", action="store_true", help="print paths alone")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--sheet", metavar="FILE.png", help="draw the hits")
    parser.add_argument(
        "--explain",
        metavar="FOLDER",
        help=f"draw why the first {_EXPLAINED} hits were found: where each phrase is seen, and what it changes",
    )
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    return run_command(_run, parser.parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    sentences = [*([args.sentence] if args.sentence else []), *args.both, *args.either]
    query = Query(
        sentences,
        like=args.like,
        without=args.without,
        combine="or" if args.either else "and",
        only=Filter(
            args.camera,
            parse_time(args.after, "--after") if args.after else None,
            parse_time(args.before, "--before") if args.before else None,
            _columns(args.where),
        ),
        topk=args.topk,
        min_score=args.min_score,
        min_cosine=args.min_cosine,
        per_person=args.per_person,
        hubness_weight=args.hubness_weight,
    )
    if args.sheet:
        writable_file(Path(args.sheet), "--sheet")
    if args.explain:
        writable_folder(Path(args.explain), "--explain")
    gallery = Gallery.open(args.gallery, device=args.device)
    hits = gallery.search(query)
    if args.sort == "time":
        hits = sorted(hits, key=lambda hit: (hit.row.time is None, hit.row.time))
    if args.json:
        print(json.dumps([_as_json(hit) for hit in hits], indent=2))
    for hit in hits if not args.json else ():
        told = f"{hit.rank:3}  {_score(hit):42}  {_when(hit):16}  {hit.row.camera:10}  {hit.path}".rstrip()
        print(hit.path if args.files else told)
    sys.stdout.flush()  # the hits are there even if a picture of them cannot be drawn
    if args.sheet and hits:
        _draw_sheet("; ".join(sentences) or f"like {', '.join(args.like)}", hits, Path(args.sheet))
    if args.explain:
        _explain(gallery, query, hits, Path(args.explain))
    return int(not hits)


def _draw_sheet(title: str, hits: list[GalleryHit], path: Path) -> None:
    """Pictures that are gone keep an empty place."""
    shown = [(hit.path if _is_there(hit) else None, -1, _label(hit)) for hit in hits]
    draw_ranked_galleries([RankedQuery(title, None, shown)], path, len(hits))
    print(f"drawn: {path}", file=sys.stderr)


def _explain(gallery: Gallery, query: Query, hits: list[GalleryHit], folder: Path) -> None:
    for hit in hits[:_EXPLAINED]:
        if _is_there(hit):
            explanations = gallery.explain(query, hit.row.id)
            print(f"drawn: {draw_explanation(explanations, hit.path, folder / f'{hit.rank}.png')}", file=sys.stderr)


def _is_there(hit: GalleryHit) -> bool:
    """Whether the picture of a hit can be read; tells it if not."""
    try:
        load_person_image(hit.path)
    except ImageError as error:
        print(f"not drawn: {error}", file=sys.stderr)
        return False
    return True


def _columns(words: list[str]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--where {word!r}: write COLUMN=VALUE")
        columns.setdefault(name, []).append(value)
    return columns


def _label(hit: GalleryHit) -> str:
    if hit.score is not None:
        return f"{hit.score:.0%}"
    return f"cos {hit.cosine:.3f}" if hit.match is None else f"{hit.match:.2f}"


def _score(hit: GalleryHit) -> str:
    parts = [] if hit.score is None else [f"score {hit.score:.2f}"]
    parts += [f"cosine {hit.cosine:.3f}"] + ([] if hit.match is None else [f"match {hit.match:.2f}"])
    return ", ".join(parts)


def _when(hit: GalleryHit) -> str:
    time = utc(hit.row.time)
    return "" if time is None else time.strftime("%Y-%m-%d %H:%M")


def _as_json(hit: GalleryHit) -> dict:
    row = hit.row
    return {
        "rank": hit.rank,
        "path": hit.path,
        "score": hit.score,
        "cosine": hit.cosine,
        "match": hit.match,
        "id": row.id,
        "camera": row.camera,
        "time": row.time,
        "person": row.person,
        "columns": dict(row.columns),
    }
