"""Registries of the plugin: one child for each root registry of MMEngine that is used.

Any MMEngine config can write ``type='cada_plugin.CADA'`` without importing anything, because the scope is the package
name: MMEngine imports ``cada_plugin.registry`` to resolve the scope, and then the ``locations`` that fill the registry.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS as MMENGINE_OPTIMIZERS
from mmengine.registry import PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISBACKENDS as MMENGINE_VISBACKENDS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import DefaultScope, Registry

from cada_plugin.compat import let_mmengine_find_our_configs, spare_mmengine_repetitions

SCOPE = "cada_plugin"
let_mmengine_find_our_configs()
spare_mmengine_repetitions()


def _child(name: str, parent: Registry, *locations: str) -> Registry:
    return Registry(name, parent=parent, scope=SCOPE, locations=[f"{SCOPE}.{location}" for location in locations])


MODELS = _child("model", MMENGINE_MODELS, "models", "losses")
DATASETS = _child("dataset", MMENGINE_DATASETS, "datasets")
TRANSFORMS = _child("transform", MMENGINE_TRANSFORMS, "datasets.transforms")
DATA_SAMPLERS = _child("data sampler", MMENGINE_DATA_SAMPLERS, "datasets.samplers")
METRICS = _child("metric", MMENGINE_METRICS, "evaluation")
LOOPS = _child("loop", MMENGINE_LOOPS, "engine")
HOOKS = _child("hook", MMENGINE_HOOKS, "engine")
OPTIM_WRAPPERS = _child("optimizer wrapper", MMENGINE_OPTIM_WRAPPERS, "engine")
TASK_UTILS = _child("task util", MMENGINE_TASK_UTILS, "text")  # tokenizers and attribute taggers

# These are empty. Without them, MMEngine would warn whenever it looks up such a registry in our default scope.
MODEL_WRAPPERS = _child("model wrapper", MMENGINE_MODEL_WRAPPERS)
OPTIM_WRAPPER_CONSTRUCTORS = _child("optimizer wrapper constructor", MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS)
OPTIMIZERS = _child("optimizer", MMENGINE_OPTIMIZERS)
PARAM_SCHEDULERS = _child("parameter scheduler", MMENGINE_PARAM_SCHEDULERS)
VISBACKENDS = _child("visualization backend", MMENGINE_VISBACKENDS)
VISUALIZERS = _child("visualizer", MMENGINE_VISUALIZERS)


def build_part(registry: Registry, cfg: dict) -> object:
    """Build a part of one of our objects. Type names without a scope mean the plugin's, whatever the default scope is.

    A foreign config therefore writes ``cada_plugin.`` only once, at the outermost type. If it puts parts of its own
    into our object, it writes its own scope there.
    """
    with DefaultScope.overwrite_default_scope(SCOPE):
        return registry.build(cfg)
