"""Reads annotation files of text-to-image person retrieval and reports everything that is wrong with one at once.

These are pure functions on plain Python data; none of them opens an image.
"""

import csv
import io
import json
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cada_plugin.datasets.problems import Problem
from cada_plugin.errors import AnnotationError
from cada_plugin.text import clean_caption

SHOWN = 5  # how many offending records a message lists per kind of problem
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_SLICE_NAME = re.compile(r"[\w-]([\w -]{0,38}[\w-])?")


@dataclass(frozen=True)
class Annotation:
    """Raw records of one file, in the JSON layout, with the position of each record in that file."""

    source: Path
    records: list
    positions: Sequence[int | str]
    unit: str = "record"  # what a position counts: "record" from 0 in a JSON list, "line" from 1 in a CSV file
    own_names: Mapping[str, str] = field(default_factory=dict)  # what the file itself calls a key, where that differs

    @property
    def has_split(self) -> bool:
        return any(isinstance(record, dict) and "split" in record for record in self.records)

    def name_records(self, indices: Sequence[int], message: str) -> str:
        """A message about some records, with their number and places: ``3 records: no 'id' (record 0, 4, 7)``."""
        count = len(indices)
        shown = ", ".join(str(self.positions[index]) for index in indices[:SHOWN])
        more = ", ..." if count > SHOWN else ""
        return f"{count:,} {self.unit}{'s' if count > 1 else ''}: {message} ({self.unit} {shown}{more})"


def read_annotations(path: str | os.PathLike) -> list:
    """The list in a JSON annotation file (UTF-8, a byte order mark is tolerated).

    Raises:
        AnnotationError: unreadable, not UTF-8, not JSON, or not a list.
    """
    text = _read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "the file is empty" if not text.strip() else str(error)
        raise AnnotationError(
            f"{path} is not JSON ({hint}): download it again; a file cut short or a saved web page looks like this"
        ) from error
    if not isinstance(content, list):
        keys = f" with keys {sorted(content)[:SHOWN]}" if isinstance(content, dict) else ""
        raise AnnotationError(
            f"{path} holds a {type(content).__name__}{keys}, expected a list with one record per image: "
            "use the original annotation file"
        )
    return content


def read_csv_annotations(path: str | os.PathLike) -> Annotation:
    """Rows of a CSV file with the columns ``file_path, caption, id`` and optionally ``split, camera_id``.

    Each row becomes one record: rows of the same image are not merged here. Ids written as integers become integers.

    Raises:
        AnnotationError: unreadable, not UTF-8, columns missing, or rows that do not fit the header.
    """
    records, lines, misfits = [], [], []
    try:
        reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
        columns = [name.strip() for name in reader.fieldnames or []]
        missing = [name for name in ("file_path", "caption", "id") if name not in columns]
        if missing or len(set(columns)) != len(columns):
            raise AnnotationError(
                f"{path} has the columns {columns}, needed once each and separated by commas: file_path, caption, id "
                "(optional: split, camera_id)"
            )
        reader.fieldnames = columns
        for row in reader:
            lines.append(reader.line_num)
            if None in row or None in row.values():
                misfits.append(reader.line_num)
            records.append(_row_to_record(row))
    except csv.Error as error:
        raise AnnotationError(f"{path} is not CSV near line {reader.line_num}: {error}: check the quotes") from error
    if misfits:
        shown = ", ".join(map(str, misfits[:SHOWN]))
        raise AnnotationError(
            f"{path}: {len(misfits):,} rows have more or fewer cells than the header (line {shown}): "
            'put captions that contain a comma into double quotes, "like, this"'
        )
    return Annotation(Path(path), records, lines, unit="line")


def _row_to_record(row: dict) -> dict:
    record: dict[str, Any] = {"captions": [row["caption"]]}
    for key in ("file_path", "split"):
        if row.get(key):
            record[key] = row[key].strip()
    for key in ("id", "camera_id"):
        text = (row.get(key) or "").strip()
        if text:
            record[key] = int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else text
    return record


def _read_text(path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from error
    except OSError as error:
        raise AnnotationError(f"cannot read the annotation file {path}: {error.strerror or error}") from error


def resolve_image_path(image_root: str, path: str) -> str | None:
    """Absolute normalised path of an image, or None if ``path`` is absolute or leaves ``image_root``.

    Only the string is normalised. A symbolic link inside the root may therefore point outside: that is the user's
    choice.
    """
    unified = path.replace("\\", "/")
    normal = posixpath.normpath(unified)
    if posixpath.isabs(unified) or re.match(r"[A-Za-z]:", unified) or normal in (".", "..") or normal.startswith("../"):
        return None
    return os.path.normpath(os.path.join(image_root, path))


def _is_text(value: Any) -> bool:
    """A string that can be written as UTF-8 (no lone surrogates) and has no NUL."""
    return isinstance(value, str) and _UNWRITABLE.search(value) is None


def _integer_trouble(value: Any) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return f'has type {type(value).__name__}, expected an integer (12, not "12")'
    return None if -(2**63) <= value < 2**63 else "does not fit into 64 bits"


def find_problems(
    annotation: Annotation,
    image_root: str,
    *,
    path_key: str = "file_path",
    splits: Sequence[str] | None = None,
    split: str | None = None,
    split_optional: bool = False,
    unique_identity: bool = False,
) -> list[Problem]:
    """Everything that makes records unusable, one ``Problem`` per kind; the list is empty for a valid file.

    Args:
        image_root: folder that image paths must stay in.
        path_key: key of the image path, ``file_path`` or ``img_path``.
        splits: split names that may occur; None allows any.
        split: split that must have at least one record; None skips this check.
        split_optional: whether a file in which no record has a split is valid.
        unique_identity: whether it is an error to list one image with two ids, splits or cameras.
    """
    if not annotation.records:
        return [Problem("empty", "the file holds no record")]
    found: dict[tuple[str, str], list[int]] = defaultdict(list)

    def add(kind: str, message: str, index: int) -> None:
        found[kind, message].append(index)

    required = [path_key, "captions", "id"]
    if annotation.has_split or not split_optional:
        required.append("split")
    owners: dict[str, tuple] = {}
    for index, record in enumerate(annotation.records):
        if not isinstance(record, dict):
            add("not_an_object", f"a {type(record).__name__} instead of an object with {', '.join(required)}", index)
            continue
        missing = [key for key in required if key not in record]
        if missing:
            own = (annotation.own_names.get(key, key) for key in missing)
            add("missing_keys", f"no {', '.join(map(repr, own))}", index)
        for kind, message in _value_problems(record, image_root, path_key, splits, annotation.own_names):
            add(kind, message, index)
        if unique_identity and not missing and isinstance(record[path_key], str):
            owner = (record["id"], record.get("split"), record.get("camera_id"))
            if owners.setdefault(posixpath.normpath(record[path_key]), owner) != owner:
                add("conflict", "the image is listed before with another id, split or camera_id", index)
    problems = [
        Problem(kind, annotation.name_records(indices, message), len(indices), indices=tuple(indices))
        for (kind, message), indices in found.items()
    ]
    sizes = Counter(r["split"] for r in annotation.records if isinstance(r, dict) and isinstance(r.get("split"), str))
    if split is not None and split not in sizes and (sizes or not split_optional):
        names = ", ".join(f"{name} ({count:,})" for name, count in sizes.items()) or "none"
        hint = "" if sizes else _NO_SPLIT_HINT
        problems.append(Problem("empty_split", f"no record of split {split!r}; splits found: {names}{hint}"))
    return problems


_NO_SPLIT_HINT = (
    ". A file without any split, such as CUHK-PEDES' caption_all.json, is the wrong one: "
    "use the annotation that has them (CUHK-PEDES: reid_raw.json)"
)


def _value_problems(
    record: dict, image_root: str, path_key: str, splits: Sequence[str] | None, own_names: Mapping[str, str]
):
    """Yield (kind, message) for each key that is present but unusable."""
    path = record.get(path_key, "-")
    if not _is_text(path) or not path.strip():
        yield "wrong_type", f"{path_key!r} is not a path"
    elif resolve_image_path(image_root, path) is None:
        yield "path_outside", f"{path_key!r} leaves the image folder: write it relative to {image_root}, without '..'"
    for key in ("id", "camera_id"):
        optional = key == "camera_id" and record.get(key) is None
        trouble = None if optional or key not in record else _integer_trouble(record[key])
        if trouble:
            yield "wrong_type", f"{own_names.get(key, key)!r} {trouble}"
    if "captions" in record:
        captions = record["captions"]
        if not isinstance(captions, list):
            yield "wrong_type", f"'captions' has type {type(captions).__name__}, expected a list of texts"
        elif not captions:
            yield "no_captions", "'captions' is empty: every image needs one caption at least"
        elif not all(_is_text(caption) and caption.strip() for caption in captions):
            yield "bad_caption", "a caption is blank or not text: write one or remove it"
        elif not all(clean_caption(caption) for caption in captions):
            yield "bad_caption", "a caption has no word, only marks that are not read: write one or remove it"
    if "split" in record:
        if not isinstance(record["split"], str):
            yield "wrong_type", f"'split' has type {type(record['split']).__name__}, expected text"
        elif splits is not None and record["split"] not in splits:
            yield "unknown_split", f"split {record['split'][:40]!r} is unknown: allowed {', '.join(splits)}"
    if "slices" in record and (trouble := _slices_trouble(record["slices"], record.get("captions"))):
        yield "bad_slices", trouble


def _slices_trouble(slices: Any, captions: Any) -> str | None:
    example = '[["hats"], []] for two captions'
    if not isinstance(slices, list) or not all(isinstance(names, list) for names in slices):
        return f"'slices' is no list of lists of names: write one list for each caption, such as {example}"
    if not all(_is_text(name) and _SLICE_NAME.fullmatch(name) for names in slices for name in names):
        return "a name in 'slices' is not 1 to 40 letters, digits, spaces, '_' or '-': metrics are named after it"
    if isinstance(captions, list) and len(slices) != len(captions):
        return f"'slices' has {len(slices)} lists for {len(captions)} captions: write one for each, such as {example}"
    return None


def validate_records(annotation: Annotation, image_root: str, **rules: Any) -> None:
    """Raise one ``AnnotationError`` that lists every kind of problem; ``rules`` are those of :func:`find_problems`."""
    problems = find_problems(annotation, image_root, **rules)
    if problems:
        raise AnnotationError(
            f"{annotation.source} cannot be used ({len(annotation.records):,} {annotation.unit}s read):\n"
            + "\n".join(f"- {problem.message}" for problem in problems)
            + "\nWhat to do: correct the file or download it again; `cada check-data` checks all of it."
        )
