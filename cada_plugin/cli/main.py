"""``cada COMMAND ...``, which is also ``python -m cada_plugin COMMAND ...``."""

import importlib
import sys
from collections.abc import Sequence

from cada_plugin.errors import MissingExtraError, needs_torch

# The module of a command is imported when the command is called, because importing torch takes seconds.
COMMANDS = {
    "train": "train a model by a config, then test its best epoch",
    "test": "test a checkpoint",
    "index": "encode a folder of pictures into a gallery, or bring it up to date",
    "search": "search a gallery by sentences and pictures",
    "serve": "search a gallery in the browser, or by its JSON API",
    "demo": "draw people, index them and search them in the browser",
    "calibrate": "fit the probabilities of a model's scores on its validation split",
    "benchmark": "train and test several configs with several seeds, and compare them",
    "report": "make the tables and charts of a benchmark again, from its saved results",
    "cost": "measure what one model costs: parameters, arithmetic, speed, memory",
    "speed": "compare the speed of this code with a plain implementation and torchreid",
    "check-data": "check a copy of a data set before training on it",
    "export": "write a trained model into one folder: for PyTorch, ONNX, torch.export or Hugging Face BLIP",
    "convert": "rewrite weights under the names of another format",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 0 done, 1 the command found problems, 2 it could not be done."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    name, *rest = words
    if name == "--version":
        from cada_plugin import __version__

        print(f"cada_plugin {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"error: cada has no command {name!r}: use one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        with needs_torch():
            command = importlib.import_module(f"cada_plugin.cli.{name.replace('-', '_')}")
    except MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return command.main(rest)


def _help() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: cada COMMAND ...",
            "",
            "Find a person by a sentence: train, test and use text-to-image person retrieval.",
            "",
            *(f"  {name:{width}}  {what}" for name, what in COMMANDS.items()),
            "",
            "cada COMMAND --help shows the arguments of a command, cada --version the version.",
            "A config is a path, or the name of one that ships with the plugin: cada train cada_procedural",
        ]
    )
