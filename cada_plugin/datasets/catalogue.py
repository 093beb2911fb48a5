"""Finds the registered data sets, a user's own included, by the class attributes that describe them."""

from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.errors import ConfigError
from cada_plugin.registry import DATASETS


def data_sets() -> dict[str, type[TextPersonDataset]]:
    """Registered classes by the ``type`` that a config uses for them."""
    classes = {name: cls for name, cls in DATASETS.module_dict.items() if isinstance(cls, type)}
    return {name: cls for name, cls in classes.items() if issubclass(cls, TextPersonDataset)}


def data_set_called(alias: str) -> type[TextPersonDataset]:
    """The data set with a short name (``ALIAS``) such as ``cuhk``.

    Raises:
        ConfigError: no registered class has this ``ALIAS``; the message lists those that exist.
    """
    known = {cls.ALIAS: cls for cls in data_sets().values() if cls.ALIAS}
    if alias not in known:
        raise ConfigError(
            f"no data set is called {alias!r}: use one of {', '.join(known)}, or give your own class an ALIAS and "
            "register it with cada_plugin.registry.DATASETS"
        )
    return known[alias]
