"""SYNTH-PEDES: photographed people with generated captions, to pre-train on."""

import os

from cada_plugin.datasets.annotations import Annotation
from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.registry import DATASETS


@DATASETS.register_module()
class SynthPEDES(TextPersonDataset):
    """SYNTH-PEDES: 312,321 people, 4,791,711 images, two or three captions each. All of it is one training split.

    Source: Zuo et al., "PLIP: Language-Image Pre-training for Person Representation Learning", NeurIPS 2024. Expects
    ``synthpedes_dataset.json`` and the folders ``Part1`` to ``Part11``; paths are relative to the root
    (``Part1/7/1.jpg``). Of a record, ``id``, ``file_path`` and ``captions`` are read; ``attributes`` and
    ``prompt_caption`` are not. The reader follows what the authors' repository says, and has been tested
    on files of that layout, not on the data set itself.
    """

    NAME = "SYNTH-PEDES"
    ALIAS = "synth"
    CONFIG = "pretrain_synth"
    ANN_FILES = ("synthpedes_dataset.json",)
    IMAGE_DIR = ""
    SPLITS = ("train",)
    PUBLISHED = {"train": (312_321, 4_791_711, 12_138_157)}
    IMAGE_HINTS = {
        f"Part{number}": f"unpack Part{number} of SYNTH-PEDES beside the annotation" for number in range(1, 12)
    }

    @classmethod
    def read_annotation(cls, path: str | os.PathLike) -> Annotation:
        annotation = super().read_annotation(path)
        for record in annotation.records:
            if isinstance(record, dict):
                record.setdefault("split", "train")
        return annotation
