"""A config of any kind, by its path or name: MMEngine's Python files, and the YAML files of yacs codebases."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from cada_plugin.engine.config import find_config, read_config
from cada_plugin.errors import ConfigError, needs_extra

# Where each launcher tells the number of processes.
_PROCESSES = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS", "mpi": "OMPI_COMM_WORLD_SIZE"}


def read_any_config(
    source: str | Path, pairs: Sequence[str] = (), ignore_unknown: bool = False, launcher: str = "none"
) -> Config:
    """Read a config.

    Args:
        source: a path, or the name of a config that comes with the plugin.
        pairs: keys and values in turn, which win over a YAML file.
        ignore_unknown: see :func:`cada_plugin.integrations.yacs.to_mmengine`.
        launcher: the batch sizes of a YAML file are of all its processes together.

    Raises:
        ConfigError: it cannot be read, or the arguments are for the other kind.
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
