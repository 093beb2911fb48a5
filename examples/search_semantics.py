"""What --and, --without and feedback do to a search, measured on procedural people, whose attributes are known.

    python examples/search_semantics.py FOLDER [PEOPLE]

draws PEOPLE (400) people into FOLDER, indexes their crops with the weights that ship with the plugin, and prints

- of the first ten hits for "a woman in a red coat", and the same with --and or --without a further phrase ("a hat"):
  the share of which the sentence is true, of which the phrase is true, and which are wanted;
- the mean rank of the next right image before and after the first ten hits of a caption were marked.

docs/own-pictures.md shows its output.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cada_plugin.datasets.procedural import build_procedural
from cada_plugin.gallery import Facts, Gallery, Query
from cada_plugin.tables import markdown_table

TOP = 10
LEAST = 12  # images that a sentence must be true of
PHRASES: dict[str, Callable[[dict], bool]] = {
    "a hat": lambda a: a["hat"] != "none",
    "a bag": lambda a: a["bag"] != "none",
    "a backpack": lambda a: a["bag"] == "backpack",
    "glasses": lambda a: a["glasses"] != "none",
    "long hair": lambda a: a["hair"] == "long",
    "blue trousers": lambda a: a["lower_colour"] == "blue" and a["lower_type"] == "trousers",
    "black shoes": lambda a: a["shoe_colour"] == "black",
    "an umbrella": lambda a: a["held"] == "umbrella",
}


def measure(folder: Path, people: int = 400) -> dict[str, dict[str, float]]:
    """Figures of both parts, by name."""
    data = folder / "people"
    build_procedural(data, seed=1, identities={"test": people}, images_per_identity=3)
    records = json.loads((data / "reid_raw.json").read_text(encoding="utf-8"))
    by_path = {record["file_path"]: record for record in records}
    place = folder / "gallery"
    if Gallery.exists(place):
        gallery = Gallery.open(place)
    else:
        gallery = Gallery.create(place, data / "imgs", "cada_procedural", tokens="fp16")
        gallery.index(lambda path: Facts(person=str(by_path[path]["id"])))
    return {**phrases(gallery, by_path), **feedback(gallery, by_path)}


def phrases(gallery: Gallery, by_path: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Shares among the first ten hits, of --and and of --without, each beside the sentence alone."""
    attributes = [record["attributes"] for record in by_path.values()]
    clothes = Counter((a["sex"], a["upper_colour"]) for a in attributes)
    shares: dict[str, list[tuple[float, float, float]]] = {}
    for (sex, colour), images in sorted(clothes.items()):
        if images < LEAST:
            continue
        types = Counter(a["upper_type"] for a in attributes if (a["sex"], a["upper_colour"]) == (sex, colour))
        sentence = f"a {sex} wearing a {colour} {types.most_common(1)[0][0]}"
        he = "he" if sex == "man" else "she"

        def found(query: Query) -> list[dict]:
            return [by_path[hit.row.path]["attributes"] for hit in gallery.search(query)]

        alone = found(Query([sentence], topk=TOP))
        for phrase, is_true in PHRASES.items():
            lists = {
                "sentence alone, phrase wanted": (alone, True),
                "--and": (found(Query([sentence, f"{he} has {phrase}"], topk=TOP)), True),
                "sentence alone, phrase unwanted": (alone, False),
                "--without": (found(Query([sentence], without=[phrase], topk=TOP)), False),
            }
            for name, (people, wanted) in lists.items():
                fits = np.array([(a["sex"], a["upper_colour"]) == (sex, colour) for a in people])
                has = np.array([is_true(a) for a in people])
                right = fits & (has == wanted)
                shares.setdefault(name, []).append((fits.mean(), has.mean(), right.mean()))
    names = ("sentence true", "phrase true", "wanted")
    return {name: dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True)) for name, rows in shares.items()}


def feedback(gallery: Gallery, by_path: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Mean rank, among the hits that were not marked, of the next image of the person."""
    before, after = [], []
    for record in list(by_path.values())[::4]:
        person, caption = str(record["id"]), record["captions"][0]
        hits = gallery.search(caption, topk=len(gallery))
        marked = {
            right: [hit.row.id for hit in hits[:TOP] if (hit.row.person == person) == right] for right in (True, False)
        }
        rest = [hit.row.person == person for hit in hits[TOP:]]
        if not marked[True] or True not in rest:
            continue  # nothing right was found, or everything
        before.append(1 + rest.index(True))
        moved = gallery.search(caption, topk=len(gallery), right=marked[True], wrong=marked[False])
        after.append(1 + [hit.row.person == person for hit in moved].index(True))
    return {
        "feedback": {"searches": float(len(before)), "before": float(np.mean(before)), "after": float(np.mean(after))}
    }


def main() -> None:
    folder = Path(sys.argv[1])
    figures = measure(folder, int(sys.argv[2]) if len(sys.argv) > 2 else 400)
    marks = figures.pop("feedback")
    rows = [[name, *(f"{100 * share:.1f}" for share in shares.values())] for name, shares in figures.items()]
    print(markdown_table(["first ten hits, %", "sentence true", "phrase true", "wanted"], rows))
    print(
        f"\nnext right image after ten hits were marked ({marks['searches']:.0f} searches): mean rank "
        f"{marks['before']:.1f} before, {marks['after']:.1f} after"
    )


if __name__ == "__main__":
    main()
