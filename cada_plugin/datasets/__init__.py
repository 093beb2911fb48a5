"""Data sets of text-to-image person retrieval, and every step from an annotation file to a batch.

To add a data set, write one module in this folder with a class that describes it, and one config.
"""

import importlib
import pkgutil

from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.datasets.collate import person_collate
from cada_plugin.datasets.cuhk_pedes import CUHKPEDES
from cada_plugin.datasets.custom import CustomPEDES
from cada_plugin.datasets.icfg_pedes import ICFGPEDES
from cada_plugin.datasets.mals import MALS
from cada_plugin.datasets.procedural.dataset import ProceduralPEDES
from cada_plugin.datasets.rstpreid import RSTPReid
from cada_plugin.datasets.synth_pedes import SynthPEDES
from cada_plugin.datasets.ufine6926 import UFine6926

__all__ = [
    "CUHKPEDES",
    "ICFGPEDES",
    "MALS",
    "CustomPEDES",
    "ProceduralPEDES",
    "RSTPReid",
    "SynthPEDES",
    "TextPersonDataset",
    "UFine6926",
    "person_collate",
]

for _module in pkgutil.iter_modules(__path__):
    if not _module.ispkg:  # importing every module of this folder registers its data sets
        importlib.import_module(f"{__name__}.{_module.name}")
