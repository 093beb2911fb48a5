"""CADA for existing ReID frameworks: text-to-image person retrieval as a plugin of MMEngine and torchreid codebases."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing the package costs nothing until something is used
    from mmengine.config import Config

    from cada_plugin.apis import Retriever
    from cada_plugin.export.runtime import OnnxRetriever

__all__ = ["get_config", "list_models", "load_retriever", "register_all_modules"]
__version__ = "0.2.0.dev0"


def register_all_modules() -> None:
    """Import every module that registers something, so that ``type='CADA'`` resolves inside the plugin's scope.

    Foreign configs need not call this: ``type='cada_plugin.CADA'`` imports what it needs by itself.
    """
    from cada_plugin import datasets, engine, evaluation, losses, models, text  # noqa: F401


def list_models() -> list[str]:
    """Names of the configs that come with the plugin, such as ``cada_cuhk`` and ``baselines/clip_cuhk``. You can give
    them to :func:`get_config`, :func:`load_retriever` and the ``cada`` command."""
    from cada_plugin.engine.config import shipped_configs

    return shipped_configs()


def get_config(name: str) -> "Config":
    """Read a config, given by its path or by a name from :func:`list_models`.

    Raises:
        ConfigError: there is no such config.
    """
    from cada_plugin.engine.config import read_config

    return read_config(name)


def load_retriever(
    config: object, checkpoint: object = None, device: object = "cpu", backend: str | None = None
) -> "Retriever | OnnxRetriever":
    """Load a trained model to use it in any program, see :func:`cada_plugin.apis.load_retriever`. A folder of ONNX
    graphs is opened without importing torch."""
    from cada_plugin.errors import needs_torch
    from cada_plugin.export.manifest import holds_onnx

    if checkpoint is None and (backend == "onnx" or (backend is None and holds_onnx(config))):
        from cada_plugin.export.runtime import open_onnx

        return open_onnx(config, device)
    with needs_torch():
        from cada_plugin.apis import load_retriever
    return load_retriever(config, checkpoint, device, backend)
