"""Old names of CADA's options, which version 0.1 documented. They work with a warning until version 0.3."""

import warnings
from collections.abc import Mapping

from cada_plugin.errors import ConfigError

_GROUPINGS = {"position": "PositionGroups", "tokens": "TokenGroups", "phrases": "PhraseGroups"}
_OLD_NUMBER = 2  # groups where num_groups was not given
_OLD_NAMES = ("num_groups", "negative_temperature")


def accept_old_names(options: Mapping[str, object], old: Mapping[str, object]) -> dict[str, object]:
    """CADA's ``grouping``, ``negatives`` and ``negative_scale``, whatever names they were given under.

    Args:
        options: the three by their present names.
        old: arguments of other names.

    Raises:
        TypeError: an argument that never existed.
        ConfigError: ``num_groups`` without a grouping.
    """
    if unknown := sorted(old.keys() - set(_OLD_NAMES)):
        raise TypeError(f"CADA got an unexpected argument {unknown[0]!r}")
    options = dict(options)
    grouping = options["grouping"]
    if isinstance(grouping, str) or "num_groups" in old:
        options["grouping"] = _grouping(grouping, old.get("num_groups", _OLD_NUMBER))
        _warn(
            f"grouping={grouping!r}" + (f", num_groups={old['num_groups']}" if "num_groups" in old else ""),
            f"grouping={options['grouping']}",
        )
    if options["negatives"] == "drawn":
        options["negatives"] = "sampled"
        _warn("negatives='drawn'", "negatives='sampled'")
    if "negative_temperature" in old:
        options["negative_scale"] = old["negative_temperature"]
        _warn("negative_temperature", f"negative_scale={old['negative_temperature']}")
    return options


def _grouping(grouping: object, number: object) -> dict | None:
    if grouping is None:
        if number is not None:
            raise ConfigError(f"num_groups={number} without a grouping: give grouping=dict(type='TokenGroups')")
        return None
    if isinstance(grouping, str):
        if grouping not in _GROUPINGS:
            raise ConfigError(f"grouping={grouping!r}: use dict(type=...) of one of {', '.join(_GROUPINGS.values())}")
        grouping = {"type": _GROUPINGS[grouping]}
    return {**grouping, "num_groups": number}


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is the old name of an option and stops working in 0.3: write {new}", FutureWarning, 4)
