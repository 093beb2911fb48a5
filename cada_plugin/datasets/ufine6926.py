"""UFine6926: ultra-fine captions."""

from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.registry import DATASETS


@DATASETS.register_module()
class UFine6926(TextPersonDataset):
    """UFine6926: 6,926 people, two captions per image, about 81 words each; no validation split.

    Source: Zuo et al., "UFineBench: Towards Text-based Person Retrieval with Ultra-fine Granularity", CVPR 2024.
    Expects ``UFine6926_Annotations_1024.json`` and ``images/``; paths are relative to the root (``images/1.jpg``).
    Captions need about 168 tokens. The number of ids per split is not published.
    """

    NAME = "UFine6926"
    ALIAS = "ufine"
    CONFIG = "cada_ufine"
    TORCHREID_NAME = "ufine6926"
    ANN_FILES = ("UFine6926_Annotations_1024.json",)
    IMAGE_DIR = ""
    SPLITS = ("train", "test")
    PUBLISHED = {"train": (None, 18577, 37154), "test": (None, 7629, 15258)}
    IMAGE_HINTS = {"images": "unpack the image archive of UFine6926 so that images/1.jpg and so on exist"}
