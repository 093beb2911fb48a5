"""Checks whether a copy of a data set is the one that papers report on. The functions return findings, print nothing.

A problem should be fixed before training. A note is only information: a copy with notes alone counts as clean. If all
counts equal the published ones, then defects of the content, such as a caption used for two people, are those of the
released files. They become notes, because results on corrected files could not be compared with published numbers.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cada_plugin.datasets.annotations import find_problems
from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.datasets.caption_checks import check_captions, check_lengths, few
from cada_plugin.datasets.catalogue import data_set_called, data_sets
from cada_plugin.datasets.images import verify_images
from cada_plugin.datasets.problems import Problem
from cada_plugin.datasets.splits import split_people
from cada_plugin.errors import AnnotationError

NO_SPLIT = "(no split)"
Counts = dict[str, tuple[int, int, int]]  # split: (ids, images, captions)


@dataclass(frozen=True)
class Report:
    """Content of a copy of a data set. ``problems`` includes the notes."""

    annotation: str
    counts: Counts
    published: dict[str, tuple[int | None, int, int]]
    problems: list[Problem]

    @property
    def is_clean(self) -> bool:
        return all(problem.is_note for problem in self.problems)


def check_dataset(alias: str, root: str, ann_file: str | None = None, decode: bool = True) -> Report:
    """Check everything about a copy of a data set in the folder ``root``.

    Args:
        alias: the ``ALIAS`` of a registered class, such as ``cuhk``.
        decode: True decodes every image; False only checks that the files exist.

    Raises:
        ConfigError: no registered data set has this alias.
        AnnotationError: there is nothing to check, because folder or annotation do not exist or cannot be read.
    """
    dataset = data_set_called(alias)
    root = os.path.abspath(os.path.expanduser(root))
    path = dataset.find_annotation(root, ann_file)
    annotation = dataset.read_annotation(path)
    if not annotation.records:
        raise AnnotationError(f"{path} holds no record: download it again, or use the annotation of {dataset.NAME}")
    image_root = dataset.image_folder(root)

    lacks_split = not annotation.has_split
    optional = dataset.SPLIT_OPTIONAL or lacks_split  # missing splits are reported once, not per record
    problems = find_problems(annotation, image_root, **{**dataset.rules(), "split_optional": optional})
    unusable = {index for problem in problems for index in problem.indices}
    if lacks_split and not dataset.SPLIT_OPTIONAL:
        problems.insert(0, wrong_json(path.name, dataset, len(annotation.records)))

    raw = [record for index, record in enumerate(annotation.records) if index not in unusable]
    by_split: dict[str, list[dict]] = defaultdict(list)
    if lacks_split and dataset.SPLIT_OPTIONAL:
        raw, derived = derive_splits(raw)
        problems.append(derived)
    for record in dataset.merge(raw):
        by_split[record.get("split", NO_SPLIT)].append(dataset.to_record(record, image_root))

    counts = count_splits(by_split)
    published = {} if lacks_split else dataset.PUBLISHED
    count_problems = check_counts(counts, published, dataset.NAME, dataset.OUTDATED_IDS)
    as_released = bool(published) and not count_problems and not problems
    problems += count_problems

    records = [record for split in by_split.values() for record in split]
    content = [*check_identities(by_split), *check_duplicates(records), *check_captions(records)]
    problems += [as_note(problem) for problem in content] if as_released else content
    problems += check_lengths(records)
    paths = [[record["img_path"] for record in split] for split in by_split.values()]
    problems += check_images(paths, root, image_root, dataset, decode)
    problems += overlap_notes(dataset)
    return Report(str(path), counts, published, problems)


def derive_splits(raw: list[dict]) -> tuple[list[dict], Problem]:
    """The records with the splits that the loader would give them, and a note. With too few people to divide, the
    records are unchanged and a problem says so."""
    try:
        split_of = split_people(record["id"] for record in raw)
    except AnnotationError as error:
        return raw, Problem("too_few_people", str(error))
    message = (
        "no record has a 'split': people are divided by a hash of their id into the splits above, nobody is in two of "
        "them; add a split to every record for another division"
    )
    return [{**record, "split": split_of[record["id"]]} for record in raw], Problem(
        "derived_split", message, is_note=True
    )


def as_note(problem: Problem) -> Problem:
    message = f"{problem.message} [in the released file too: keep it to compare with published numbers]"
    return replace(problem, message=message, is_note=True)


def wrong_json(file_name: str, dataset: type[TextPersonDataset], count: int) -> Problem:
    """The problem that no record has a split: the user has taken the wrong annotation file."""
    return Problem(
        "wrong_json",
        f"{file_name}: no record has a 'split', so there is no training and no test set. This is the wrong JSON"
        f" (CUHK-PEDES' caption_all.json looks like this): use {' or '.join(dataset.ANN_FILES)}",
        count,
    )


def overlap_notes(dataset: type[TextPersonDataset]) -> list[Problem]:
    """A note for each other data set whose images come from the same larger one, under different person ids."""
    others = [other for other in data_sets().values() if other is not dataset and other.IMAGES_FROM]
    return [
        Problem(
            "overlap",
            f"{dataset.NAME} consists of {dataset.IMAGES_FROM} images, as {other.NAME} does, with different ids: "
            "training on one of them (or on both jointly) leaks people into the test set of the other",
            is_note=True,
        )
        for other in others
        if other.IMAGES_FROM == dataset.IMAGES_FROM
    ]


def count_splits(by_split: dict[str, list[dict]]) -> Counts:
    """(ids, images, captions) of every split."""
    return {
        split: (len({r["person_id"] for r in records}), len(records), sum(len(r["captions"]) for r in records))
        for split, records in by_split.items()
    }


def check_counts(
    counts: Counts,
    published: dict[str, tuple[int | None, int, int]],
    name: str,
    outdated_ids: dict[str, int],
) -> list[Problem]:
    """Compare the counts with the published ones. A published count of None is unknown and not compared."""
    if outdated_ids and {split: ids for split, (ids, _, _) in counts.items()} == outdated_ids:
        got = "/".join(map(str, outdated_ids.values()))
        want = "/".join(str(ids) for ids, _, _ in published.values())
        message = f"an old annotation of {name} with {got} ids ({'/'.join(published)}): download the one with {want}"
        return [Problem("old_annotation", message)]
    problems = []
    for split, (ids, images, captions) in published.items():
        if split not in counts:
            message = f"split {split!r} is absent (published: {images:,} images): the annotation is incomplete"
            problems.append(Problem("missing_split", message, images))
            continue
        got_ids, got_images, got_captions = counts[split]
        same_images = got_images == images and ids in (None, got_ids)
        if same_images and got_captions < captions:
            message = (
                f"{split}: {captions - got_captions:,} captions were dropped ({got_captions:,} of {captions:,}), so the"
                " number of queries differs and results are not comparable: use the annotation with all captions"
            )
            problems.append(Problem("captions_dropped", message, captions - got_captions))
        elif not same_images or got_captions != captions:
            want = f"{'' if ids is None else f'{ids:,} ids, '}{images:,} images, {captions:,} captions"
            message = (
                f"{split}: {got_ids:,} ids, {got_images:,} images, {got_captions:,} captions instead of the published "
                f"{want}: this is another or an edited annotation, results are not comparable"
            )
            problems.append(Problem("count_mismatch", message))
    return problems


def check_identities(by_split: dict[str, list[dict]]) -> list[Problem]:
    """Ids that occur in two splits: the model would have been trained on people of the test set."""
    ids = {split: {record["person_id"] for record in records} for split, records in by_split.items()}
    names = list(ids)
    problems = []
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            shared = sorted(ids[first] & ids[second])
            if shared:
                message = (
                    f"{len(shared):,} ids occur in both {first} and {second} (for example {few(shared)}): if they are "
                    "the same people, the test is not fair: move each person into one split; "
                    "if the numbering merely restarts, renumber one split"
                )
                problems.append(Problem("shared_ids", message, len(shared)))
    return problems


def check_duplicates(records: Sequence[dict]) -> list[Problem]:
    """Images listed more than once."""
    repeated = {path: n for path, n in Counter(record["img_path"] for record in records).items() if n > 1}
    if not repeated:
        return []
    shown = few([os.path.basename(path) for path in repeated])
    message = (
        f"{len(repeated):,} images are listed more than once (for example {shown}): each would stand in the gallery "
        "repeatedly: keep one record per image with all its captions"
    )
    return [Problem("duplicate_image", message, len(repeated))]


def check_images(
    splits: Iterable[Sequence[str]],
    root: str,
    image_root: str,
    dataset: type[TextPersonDataset],
    decode: bool = True,
) -> list[Problem]:
    """Images that are missing, grouped by top folder, or damaged (only with ``decode``).

    Args:
        splits: absolute image paths of each split. The check verifies split by split, as the loader does, so that a
            later training run finds the result in the cache.
    """
    splits = list(splits)
    paths = list(dict.fromkeys(path for split in splits for path in split))
    bad: dict[str, str] = {}
    if decode:
        for split in splits:
            bad.update(verify_images(split, progress_delay=0))
    missing = {path for path in (bad if decode else paths) if not os.path.exists(path)}
    damaged = [reason for path, reason in bad.items() if path not in missing]
    return [*_missing_by_folder(paths, missing, root, image_root, dataset), *_damaged(damaged)]


def _missing_by_folder(paths, missing: set[str], root: str, image_root: str, dataset) -> list[Problem]:
    def top_folder(path: str) -> str:
        parts = os.path.relpath(path, image_root).split(os.sep)
        return parts[0] if len(parts) > 1 else ""

    totals = Counter(top_folder(path) for path in paths)
    gone = Counter(top_folder(path) for path in missing)
    examples = {top_folder(path): path for path in sorted(missing, reverse=True)}
    problems = []
    for folder, count in sorted(gone.items()):
        place = os.path.relpath(os.path.join(image_root, folder), root)
        hint = dataset.IMAGE_HINTS.get(folder, f"put them into {os.path.join(image_root, folder)}")
        example = os.path.relpath(examples[folder], root)
        where = "the root folder" if place == "." else place
        message = f"{where}: {count:,} of {totals[folder]:,} missing (for example {example}): {hint}"
        problems.append(Problem("missing_images", message, count))
    return problems


def _damaged(reasons: list[str]) -> list[Problem]:
    if not reasons:
        return []
    lines = "".join(f"\n    {reason}" for reason in reasons[:10])
    more = f"\n    and {len(reasons) - 10:,} more" if len(reasons) > 10 else ""
    return [Problem("damaged_images", f"{len(reasons):,} images cannot be decoded:{lines}{more}", len(reasons))]
