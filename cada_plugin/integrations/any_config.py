"""Reads a config by its path or name: an MMEngine Python file, or a YAML file of a yacs codebase."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from cada_plugin.engine.config import find_config, read_config
from cada_plugin.errors import ConfigError, needs_extra

# The environment variable in which each launcher sets the number of processes.
_PROCESSES = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS", "mpi": "OMPI_COMM_WORLD_SIZE"}


def read_any_config(
    source: str | Path, pairs: Sequence[str] = (), ignore_unknown: bool = False, launcher: str = "none"
) -> Config:
    """Read a Python or YAML config as an MMEngine config.

    Args:
        source: a path, or the name of a config that ships with the plugin.
        pairs: alternating keys and values that override a YAML file.
        ignore_unknown: for YAML files, see :func:`cada_plugin.integrations.yacs.convert`.
        launcher: how processes are started. A YAML file gives batch sizes for all processes together, so their number
            is needed.

    Raises:
        ConfigError: the file cannot be read, or ``pairs`` or ``ignore_unknown`` are given for a Python config.
    """
    path = find_config(source)
    if path.suffix in (".yml", ".yaml"):
        with needs_extra("yacs"):
            from cada_plugin.integrations.yacs import to_mmengine

        return to_mmengine(path, pairs, int(os.environ.get(_PROCESSES.get(launcher, ""), 1)), ignore_unknown)
    if ignore_unknown:
        raise ConfigError(f"--ignore-unknown is for YAML configs, and {source} is none: leave it out")
    if pairs:
        raise ConfigError(
            f"KEY VALUE pairs are for YAML configs, and {source} is none: use --cfg-options KEY=VALUE in place of "
            f"{' '.join(pairs)}"
        )
    return read_config(path)
