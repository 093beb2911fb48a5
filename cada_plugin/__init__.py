"""CADA for existing ReID frameworks: text-to-image person retrieval as a plugin of MMEngine and torchreid codebases."""

__version__ = "0.1.0"


def register_all_modules() -> None:
    """Import every module that registers something, so that ``type='CADA'`` resolves inside the plugin's scope.

    Foreign configs need not call this: ``type='cada_plugin.CADA'`` imports what it needs by itself.
    """
    from cada_plugin import datasets, engine, evaluation, losses, models, text  # noqa: F401
