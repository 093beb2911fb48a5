"""Procedural pedestrians as a data set: drawn if the folder does not exist, then read like CUHK-PEDES."""

from mmengine.dist import barrier, is_main_process

from cada_plugin.datasets.cuhk_pedes import CUHKPEDES
from cada_plugin.datasets.procedural.build import build_procedural
from cada_plugin.registry import DATASETS


@DATASETS.register_module()
class ProceduralPEDES(CUHKPEDES):
    """Procedural stand-in for CUHK-PEDES without a download. Numbers measured on it say nothing about real photographs.

    Args:
        data_root: folder of the data set. If it does not exist, the data set is drawn there first.
        build: arguments of :func:`build_procedural`. An existing folder must have been made with the same ones.
        kwargs: further arguments of :class:`TextPersonDataset`.
    """

    NAME = "ProceduralPEDES"
    ALIAS = "procedural"
    CONFIG = "cada_procedural"
    TORCHREID_NAME = "procedural_pedes"
    PUBLISHED = {}
    IMAGE_HINTS = {}

    def __init__(self, data_root: str, build: dict, **kwargs: object) -> None:
        if is_main_process():
            build_procedural(data_root, **build)
        barrier()
        super().__init__(data_root, **kwargs)
