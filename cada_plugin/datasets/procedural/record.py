"""Draws and describes procedural people, and writes the pictures with their annotation.

Each record of ``reid_raw.json`` has the keys of CUHK-PEDES, and what a reader of the world knows:

- ``attributes``: the person; ``twin_kind`` and ``twin_differs``: how the near-twin differs, if there is one.
- ``view``, ``camera``, ``regions`` (see ``photo.Region``), ``seen_absent``: what the picture shows, and where.
- ``claims``, ``phrases`` and ``slices``: for each caption what it claims, where it says it (see ``writer``), and its
  slices (see ``slices``).
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cada_plugin.datasets.procedural.people import SampledPerson, pick, sample_people
from cada_plugin.datasets.procedural.photo import Photo, take_photo
from cada_plugin.datasets.procedural.slices import rare_words, slices_of, words_of
from cada_plugin.datasets.procedural.worlds import WORLDS, World
from cada_plugin.datasets.procedural.writer import Caption, describe
from cada_plugin.progress import progress_bar

SPLITS = ("train", "val", "test")
JPEG_QUALITY = 92
# Probability that a twin's captions say what the twins differ in. Without that, either twin matches the caption; real
# captions leave it out at times too.
TWIN_MENTION = 0.85


def write_people(folder: Path, arguments: dict) -> None:
    """Write ``imgs/`` and ``reid_raw.json`` into ``folder``, which does not exist yet."""
    world = WORLDS[arguments["world"]]
    for camera in world.look.cameras:
        (folder / "imgs" / camera).mkdir(parents=True)
    people = list(_people(arguments, world))
    progress = progress_bar(people, desc="drawing pedestrians", unit="person", delay=1)
    records = [
        _write_picture(folder / "imgs", arguments, world, split, person, index, number)
        for index, (split, person) in enumerate(progress)
        for number in range(arguments["images_per_identity"])
    ]
    training = [text for record in records if record["split"] == "train" for text in record["captions"]]
    everything = [text for record in records for text in record["captions"]]
    rare = rare_words(training or everything, everything)
    for record in records:
        hidden = {part for part, region in record["regions"].items() if not region["visible"]}
        record["slices"] = [
            slices_of(text, claims, record["twin_kind"], hidden, rare)
            for text, claims in zip(record["captions"], record["claims"], strict=True)
        ]
    (folder / "reid_raw.json").write_text(json.dumps(records, separators=(",", ":")), encoding="utf-8")


def _people(arguments: dict, world: World) -> Iterator[tuple[str, SampledPerson]]:
    taken: set[str] = set()
    for split, count in arguments["identities"].items():
        rng = np.random.default_rng((arguments["seed"], SPLITS.index(split), world.pool))
        for person in sample_people(rng, count, world, arguments["twin_fraction"], taken):
            yield split, person


def _write_picture(
    images: Path, arguments: dict, world: World, split: str, person: SampledPerson, index: int, number: int
) -> dict:
    """Draw one picture, describe it, and return its record."""
    # Each picture has its own generator, and another for its captions, so that the order of work has no effect.
    rng = np.random.default_rng((arguments["seed"], index, number, 0))
    cameras = list(world.look.cameras)
    view, camera = pick(rng, world.look.views), cameras[(index + number) % len(cameras)]
    photo = take_photo(person.person, world, rng, view=view, camera=camera)
    file_path = f"{camera}/{index + 1:05d}_{number}.jpg"
    photo.image.save(images / file_path, quality=JPEG_QUALITY)
    rng = np.random.default_rng((arguments["seed"], index, number, 1))
    captions = [_describe(person, world, rng, view, photo) for _ in range(arguments["captions_per_image"])]
    texts = [caption.text for caption in captions]
    return {
        "split": split,
        "captions": texts,
        "file_path": file_path,
        "processed_tokens": [words_of(text) for text in texts],
        "id": index + 1,
        "twin_kind": person.twin_kind,
        "twin_differs": person.differs,
        "attributes": person.person.as_dict(),
        "view": view,
        "camera": camera,
        "regions": {part: asdict(region) for part, region in photo.regions.items()},
        "seen_absent": photo.seen_absent,
        "claims": [caption.claims for caption in captions],
        "phrases": [[asdict(phrase) for phrase in caption.phrases] for caption in captions],
    }


def _describe(person: SampledPerson, world: World, rng: np.random.Generator, view: str, photo: Photo) -> Caption:
    must = person.differs if rng.random() < TWIN_MENTION else ()
    return describe(person.person, world, rng, view=view, shown=photo.shown, must_mention=must)
