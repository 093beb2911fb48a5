"""The host's own registries: children of MMEngine's, as the plugin's are."""

from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import Registry

DATASETS = Registry("dataset", parent=ROOT_DATASETS, scope="my_reid", locations=["my_reid.datasets"])
MODELS = Registry("model", parent=ROOT_MODELS, scope="my_reid", locations=["my_reid.models"])
