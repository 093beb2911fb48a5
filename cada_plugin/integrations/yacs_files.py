"""YAML files of yacs codebases, with what they are based on, as keys and values that know where they stand."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cada_plugin.errors import ConfigError
from cada_plugin.integrations.yacs_table import ROWS, STYLES
from cada_plugin.strict_yaml import StrictLoader


class Entry(NamedTuple):
    """A key with its value, and for error messages where it stands."""

    key: str
    value: Any
    source: str


def flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of all that is no section."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def expanded(path: str | Path, said_in: str) -> Path:
    """A path with ``~`` replaced.

    Raises:
        ConfigError: by the home of somebody whom this machine does not know.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{said_in}: {path} is in the home of a user who is not known here") from error


def read_entries(path: Path, chain: tuple[Path, ...] = ()) -> list[Entry]:
    """What a file says, after what its ``_BASE_`` says; ``chain`` are the files that led to it.

    Raises:
        ConfigError: a file cannot be read, or is no tree of keys.
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
    except Exception as error:  # what is no YAML can fail in any way: a date that does not exist, a tree without end
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
