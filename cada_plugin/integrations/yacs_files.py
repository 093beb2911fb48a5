"""Reads a YAML file of a yacs codebase together with its ``_BASE_`` files, as a list of keys, values and sources."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cada_plugin.errors import ConfigError
from cada_plugin.integrations.yacs_table import ROWS, STYLES
from cada_plugin.strict_yaml import StrictLoader


class Entry(NamedTuple):
    """A dotted key with its value, and the name of its source for error messages."""

    key: str
    value: Any
    source: str


def flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of all leaves of a tree."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def expanded(path: str | Path, said_in: str) -> Path:
    """A path with ``~`` replaced by the home folder. ``said_in`` is the source of the path for the error message.

    Raises:
        ConfigError: the path is in the home folder of a user who is unknown on this machine.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{said_in}: {path} is in the home of a user who is not known here") from error


def read_entries(path: Path, chain: tuple[Path, ...] = ()) -> list[Entry]:
    """The entries of a file, after those of its ``_BASE_``. ``chain`` holds the files that led here through ``_BASE_``.

    Raises:
        ConfigError: a file cannot be read, or is not a tree of keys.
    """
    path = expanded(path, chain[-1].name if chain else "the config")
    try:
        whole = path.resolve()
        if whole in chain:
            raise ConfigError(f"_BASE_ goes round in a circle: {' -> '.join(p.name for p in (*chain, path))}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        whose = f", the _BASE_ of {chain[-1]}," if chain else ""
        raise ConfigError(f"{path}{whose} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        content = yaml.load(text, StrictLoader)
        pairs = list(flatten(content)) if isinstance(content, dict) else []
    except Exception as error:  # invalid YAML can raise anything: an impossible date, an endless tree
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path} is no tree of keys: expected lines such as SOLVER: or train:")
    entries = dict(pairs)
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:  # nested and dotted
        raise ConfigError(f"{path}: the key {twice[0]} is given twice")
    base = entries.pop("_BASE_", None)
    if not isinstance(base, str | None):
        raise ConfigError(f"{path}: _BASE_ is the name of one file, got {base!r}")
    for style in STYLES:
        key = ROWS[0].key(style)
        if str(entries.get(key)).endswith(".py"):
            entries[key] = str(path.absolute().parent / expanded(entries[key], f"{path.name}: {key}"))
    own = [Entry(key, value, path.name) for key, value in entries.items()]
    return (
        own
        if base is None
        else read_entries(path.parent / expanded(base, f"{path.name}: _BASE_"), (*chain, whole)) + own
    )
