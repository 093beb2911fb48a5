"""No module imports from a layer above its own, and none in a circle: the contracts of ``pyproject.toml``."""

import subprocess
import sys
from pathlib import Path


def test_imports_point_downwards():
    # a process of its own, because the linter switches the loggers of its process off
    command = [sys.executable, "-c", "from importlinter import cli; raise SystemExit(cli.lint_imports(no_cache=True))"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
