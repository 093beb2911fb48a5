"""CUHK-PEDES, the first and most used benchmark of text-based person search."""

from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.registry import DATASETS

_RELEASE = "they are part of the CUHK-PEDES release, which its authors send on request; partial copies lack them"


@DATASETS.register_module()
class CUHKPEDES(TextPersonDataset):
    """CUHK-PEDES: 13,003 people from five ReID collections, usually two captions per image, about 23 words each.

    Source: Li et al., "Person Search with Natural Language Description", CVPR 2017. Expects ``reid_raw.json`` (not
    ``caption_all.json``, which has no split) and ``imgs/`` with ``cam_a cam_b CUHK01 CUHK03 Market test_query
    train_query``. No camera ids.
    """

    NAME = "CUHK-PEDES"
    ALIAS = "cuhk"
    CONFIG = "cada_cuhk"
    TORCHREID_NAME = "cuhk_pedes"
    ANN_FILES = ("reid_raw.json",)
    IMAGE_DIR = "imgs"
    SPLITS = ("train", "val", "test")
    PUBLISHED = {"train": (11003, 34054, 68126), "val": (1000, 3078, 6158), "test": (1000, 3074, 6156)}
    IMAGE_HINTS = {
        "CUHK01": f"get the CUHK01 crops and put them into imgs/CUHK01; {_RELEASE}",
        "CUHK03": f"get the CUHK03 crops and put them into imgs/CUHK03; {_RELEASE}",
        "Market": f"get the Market-1501 crops and put them into imgs/Market; {_RELEASE}",
        "cam_a": f"get the folder cam_a and put it into imgs/; {_RELEASE}",
        "cam_b": f"get the folder cam_b and put it into imgs/; {_RELEASE}",
        "test_query": f"get the folder test_query and put it into imgs/; {_RELEASE}",
        "train_query": f"get the folder train_query and put it into imgs/; {_RELEASE}",
    }
