"""Read YAML, but refuse a key that is given twice. PyYAML itself would silently use the last one."""

from pathlib import Path
from typing import Any

import yaml

from cada_plugin.errors import ConfigError


class StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if first.setdefault(str(key.value), key) is not key:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} is given twice", problem_mark=key.start_mark)
        return node


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: it cannot be read, or is not valid YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    try:
        return yaml.load(text, StrictLoader)
    except Exception as error:  # bad YAML can fail in any way, such as a date that does not exist or endless nesting
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
