"""MALS: generated pictures of people with captions, to pre-train on."""

import os
from pathlib import Path

from cada_plugin.datasets.annotations import Annotation, read_annotations
from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.errors import AnnotationError
from cada_plugin.registry import DATASETS


@DATASETS.register_module()
class MALS(TextPersonDataset):
    """MALS: 1,510,330 generated pictures, each of somebody else, one caption each. It has a training split alone.

    Source: Yang et al., "Towards Unified Text-based Person Retrieval: A Large-scale Multi-Attribute and Language Search
    Benchmark", ACM MM 2023. Expects ``gene_attrs/`` with several JSON files (``g_4x_attrs.json`` ...) and
    ``gene_crop/``; paths are relative to the root (``gene_crop/c_g_a_0/0.jpg``). ``ann_file`` may name one of the JSON
    files, to train on a part. Of a record, ``image``, ``caption`` and ``image_id`` are read; the 27 attributes
    (``label``) are not. The reader follows the layout that the authors' repository describes, and has been tested on
    files of that layout, not on the data set itself.
    """

    NAME = "MALS"
    ALIAS = "mals"
    CONFIG = "pretrain_mals"
    ANN_FILES = ("gene_attrs",)
    IMAGE_DIR = ""
    PATH_KEY = "image"
    SPLITS = ("train",)
    PUBLISHED = {"train": (1_510_330, 1_510_330, 1_510_330)}
    IMAGE_HINTS = {"gene_crop": "unpack the picture archives of MALS so that gene_crop/c_g_a_0/0.jpg and so on exist"}

    @classmethod
    def find_annotation(cls, root: str, ann_file: str | None = None) -> Path:
        """The folder of JSON files, or the file that ``ann_file`` names."""
        folder = os.path.join(root, ann_file or cls.ANN_FILES[0])
        if os.path.isdir(folder):
            return Path(folder)
        return super().find_annotation(root, ann_file)

    @classmethod
    def read_annotation(cls, path: str | os.PathLike) -> Annotation:
        path = Path(path)
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise AnnotationError(f"{path} holds no .json file: put the annotation files of MALS there")
        records: list = []
        positions: list[str] = []
        numbers: dict[object, int] = {}  # the data set names people by text
        for file in files:
            for place, record in enumerate(read_annotations(file)):
                records.append(_as_usual(record, numbers))
                positions.append(f"{place} of {file.name}")
        return Annotation(path, records, positions, own_names={"captions": "caption", "id": "image_id"})


def _as_usual(record: object, numbers: dict[object, int]) -> object:
    """A record in the usual layout; what cannot be read stays as it is, to be named by the check."""
    if not isinstance(record, dict):
        return record
    usual = {"split": "train", **record}
    if "caption" in record:
        usual["captions"] = [record["caption"]]
    if "image_id" in record:
        person = record["image_id"]
        usual["id"] = numbers.setdefault(person, len(numbers)) if isinstance(person, str | int) else person
    return usual
