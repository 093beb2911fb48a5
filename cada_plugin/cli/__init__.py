"""The ``cada`` command: one module for each sub-command. It reads the command line; the work is done elsewhere."""

from .main import main

__all__ = ["main"]
