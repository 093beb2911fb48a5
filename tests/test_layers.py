"""No module imports from a layer above its own, and none in a circle: the contracts of ``pyproject.toml``."""

from pathlib import Path

from importlinter import cli


def test_imports_point_downwards(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[1])
    status = cli.lint_imports(no_cache=True)
    assert status == 0, capsys.readouterr().out
