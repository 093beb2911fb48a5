"""A user's own images with captions, described in JSON or CSV."""

import os
import posixpath

from cada_plugin.datasets.annotations import Annotation, read_csv_annotations
from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.registry import DATASETS


@DATASETS.register_module()
class CustomPEDES(TextPersonDataset):
    """A user's own data. Image paths are relative to ``image_dir``, by default the root itself. The annotation file is
    UTF-8, with or without BOM.

    JSON (``annotations.json``): a list of ``{"file_path": "a/1.jpg", "captions": ["...", "..."], "id": 1}``, or
    ``"caption": "..."`` for one caption. CSV (``annotations.csv``): the columns ``file_path,caption,id``; rows with the
    same ``file_path`` are one image with several captions. Both may have ``split`` (any name) and ``camera_id``
    (integer), and JSON also ``slices`` (for each caption a list of names). If no record has a ``split``, people are
    divided into train, val and test, see :func:`~cada_plugin.datasets.splits.split_people`.

    It is an error to list an image with two different ids, splits or cameras; the released data sets may.
    """

    NAME = "the custom data set"
    ALIAS = "custom"
    CONFIG = "cada_custom"
    ANN_FILES = ("annotations.json", "annotations.csv")
    IMAGE_DIR = ""
    SPLITS = None
    SPLIT_OPTIONAL = True
    UNIQUE_IDENTITY = True

    @classmethod
    def read_annotation(cls, path: str | os.PathLike) -> Annotation:
        """Raw records of a ``.csv`` file, one per row, or of a JSON file with any other name."""
        if os.fspath(path).lower().endswith(".csv"):
            return read_csv_annotations(path)
        annotation = super().read_annotation(path)
        for record in annotation.records:
            if isinstance(record, dict) and "captions" not in record and "caption" in record:
                caption = record["caption"]
                record["captions"] = caption if isinstance(caption, list) else [caption]
        return annotation

    @classmethod
    def merge(cls, records: list[dict]) -> list[dict]:
        """One record per image, in order of first appearance."""
        images: dict[str, dict] = {}
        for record in records:
            key = posixpath.normpath(record["file_path"])
            if key in images:
                if "slices" in images[key] or "slices" in record:
                    images[key]["slices"] = [*_slices(images[key]), *_slices(record)]
                images[key]["captions"].extend(record["captions"])
            else:
                images[key] = {**record, "captions": list(record["captions"])}
        return list(images.values())


def _slices(record: dict) -> list[list[str]]:
    """The slices of each caption, none where the record names none."""
    return record.get("slices", [[] for _ in record["captions"]])
