"""Variants of a config: the same config with some settings changed, for ablations that need no config of their own.

A grid is a YAML file that lists variants, with a comment on each::

    k8:                                # re-ranks the best 8 images
      test_cfg.rerank_topk: 8
    no_ara:                            # trains without ARA
      model.text_decoder: null
      model.loss_ara: null
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cada_plugin.engine.config import find_grid
from cada_plugin.errors import ConfigError
from cada_plugin.strict_yaml import read_yaml

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_EXAMPLE = "'test_cfg.rerank_topk: 8'"


@dataclass(frozen=True)
class Variant:
    """Settings to change in a config, by their dotted names as in ``--cfg-options``.

    The ``name`` becomes part of the name of a table row and of its folder. A variant with a name such as
    ``cada_procedural/no_ara`` applies to that config only; without the prefix it applies to all configs.
    """

    name: str
    options: dict[str, Any]

    @property
    def config(self) -> str | None:
        """The name of the only config that this variant applies to; None for all."""
        return self.name.rpartition("/")[0] or None

    def row(self, config: str) -> str:
        """The name of the table row for this variant of the config called ``config``."""
        return f"{config}-{self.name.rpartition('/')[2]}"


def read_grid(grid: str | Path) -> list[Variant]:
    """The variants of a YAML file.

    Args:
        grid: a path, or the name of a grid that ships with the plugin (``grids/procedural``).

    Raises:
        ConfigError: the file does not exist, cannot be read, or is not a mapping from names of variants to settings.
    """
    path = find_grid(grid)
    if path.suffix not in (".yml", ".yaml"):
        raise ConfigError(f"{path} is no grid of variants: give a YAML file, whose name ends in .yml or .yaml")
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path} is no grid of variants: write a name, and below it lines such as {_EXAMPLE}")
    for name, options in content.items():
        if not isinstance(name, str):
            raise ConfigError(f"{path}: the name {name!r} of a variant is no text: put it in quotes")
        if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
            raise ConfigError(f"{path}: {name} has no settings: write lines such as {_EXAMPLE} below it")
    return [Variant(name, options) for name, options in content.items()]


def check_variants(variants: Sequence[Variant], configs: Sequence[str]) -> None:
    """Check variants as far as possible without reading a config. ``configs`` are the names of all configs.

    Raises:
        ConfigError: a variant is for a config that is not among them, a name cannot be a folder's or occurs twice, or a
            variant changes nothing.
    """
    for variant in variants:
        if variant.config not in (None, *configs):
            raise ConfigError(
                f"--vary: {variant.name!r} varies {variant.config}, which is not among the configs of this benchmark "
                f"({', '.join(configs)})"
            )
        if not _NAME.fullmatch(variant.name.rpartition("/")[2]):
            raise ConfigError(
                f"--vary: {variant.name!r} cannot be the name of a variant, because a folder is named after it: use "
                "letters, digits, _ and -"
            )
        if not variant.options:
            raise ConfigError(
                f"--vary: variant {variant.name} changes nothing: give settings, as in "
                f"'{variant.name}: test_cfg.rerank_topk=8'"
            )
    for name, times in Counter(variant.name for variant in variants).items():
        if times > 1:
            raise ConfigError(
                f"--vary: {times} variants have the name {name}: a row of the tables is named after it, so rename one"
            )
