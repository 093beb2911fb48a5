"""ICFG-PEDES: fine-grained captions of MSMT17 images."""

from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.registry import DATASETS

_MSMT17 = "they are MSMT17 images; unpack the image archive of ICFG-PEDES so that imgs/train and imgs/test exist"


@DATASETS.register_module()
class ICFGPEDES(TextPersonDataset):
    """ICFG-PEDES: 4,102 people of MSMT17, one caption per image, about 37 words each; no validation split.

    Source: Ding et al., "Semantically Self-Aligned Network for Text-to-Image Part-aware Person Re-identification",
    arXiv 2107.12666. Expects ``ICFG-PEDES.json`` (in some copies ``ICFG_PEDES.json``), ``imgs/train`` and
    ``imgs/test``. These two folders are MSMT17's; the split of an image is the one in the JSON file.
    """

    NAME = "ICFG-PEDES"
    ALIAS = "icfg"
    CONFIG = "cada_icfg"
    TORCHREID_NAME = "icfg_pedes"
    ANN_FILES = ("ICFG-PEDES.json", "ICFG_PEDES.json")
    IMAGE_DIR = "imgs"
    SPLITS = ("train", "test")
    PUBLISHED = {"train": (3102, 34674, 34674), "test": (1000, 19848, 19848)}
    IMAGE_HINTS = {"train": _MSMT17, "test": _MSMT17}
    IMAGES_FROM = "MSMT17"
