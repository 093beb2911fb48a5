"""The ``cada`` command: one module for each sub-command, which reads the command line and does nothing else."""

from .main import main

__all__ = ["main"]
