"""Where ``mmengine.hub`` looks for ``register_all_modules`` of a package."""

from cada_plugin import register_all_modules

__all__ = ["register_all_modules"]
