"""RSTPReid: five images per person from different cameras."""

import re

from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.registry import DATASETS


@DATASETS.register_module()
class RSTPReid(TextPersonDataset):
    """RSTPReid: 4,101 people of MSMT17, five images each, two captions per image, about 26 words each.

    Source: Zhu et al., "DSSL: Deep Surroundings-person Separation Learning for Text-based Person Retrieval", ACM MM
    2021. Expects ``data_captions.json`` and flat ``imgs/`` with names such as ``0000_c5_0022.jpg`` (camera 5).
    """

    NAME = "RSTPReid"
    ALIAS = "rstp"
    CONFIG = "cada_rstp"
    TORCHREID_NAME = "rstpreid"
    ANN_FILES = ("data_captions.json",)
    IMAGE_DIR = "imgs"
    PATH_KEY = "img_path"
    SPLITS = ("train", "val", "test")
    PUBLISHED = {"train": (3701, 18505, 37010), "val": (200, 1000, 2000), "test": (200, 1000, 2000)}
    OUTDATED_IDS = {"train": 3901, "val": 100, "test": 100}
    IMAGE_HINTS = {"": "unpack the image archive of RSTPReid so that imgs/0000_c5_0022.jpg and so on exist"}
    IMAGES_FROM = "MSMT17"

    @classmethod
    def parse_camera_id(cls, path: str) -> int | None:
        """5 for ``0000_c5_0022.jpg``."""
        match = re.search(r"_c(\d{1,4})_[^/]*$", path)
        return int(match.group(1)) if match else None
