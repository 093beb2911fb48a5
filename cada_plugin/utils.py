"""``mmengine.hub`` looks in this module of a package for ``register_all_modules``."""

from cada_plugin import register_all_modules

__all__ = ["register_all_modules"]
