"""The data sets that are registered, those of a user too, found by what their classes say about them."""

from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.errors import ConfigError
from cada_plugin.registry import DATASETS


def data_sets() -> dict[str, type[TextPersonDataset]]:
    """Registered classes by the name under which a config knows them."""
    classes = {name: cls for name, cls in DATASETS.module_dict.items() if isinstance(cls, type)}
    return {name: cls for name, cls in classes.items() if issubclass(cls, TextPersonDataset)}


def data_set_called(alias: str) -> type[TextPersonDataset]:
    """The data set of a short name, such as ``cuhk``.

    Raises:
        ConfigError: no registered class has this ``ALIAS``; the message lists those that there are.
    """
    known = {cls.ALIAS: cls for cls in data_sets().values() if cls.ALIAS}
    if alias not in known:
        raise ConfigError(
            f"no data set is called {alias!r}: use one of {', '.join(known)}, or give your own class an ALIAS and "
            "register it with cada_plugin.registry.DATASETS"
        )
    return known[alias]
