"""Pictures of drawn people for galleries."""

import shutil
from pathlib import Path

from cada_plugin.datasets import ProceduralPEDES

BUILD = {"seed": 9, "identities": {"train": 2, "val": 2, "test": 20}, "images_per_identity": 3}


def draw_people(folder: Path) -> ProceduralPEDES:
    """Three pictures of each of twenty people, and captions of them."""
    return ProceduralPEDES(data_root=str(folder), split="test", test_mode=True, build=BUILD)


def copy_crops(people: ProceduralPEDES, folder: Path) -> Path:
    """Their pictures in one folder, named ``PERSON_IMAGE.jpg``."""
    folder.mkdir()
    for record in people.records:
        shutil.copy(record["img_path"], folder)
    return folder
