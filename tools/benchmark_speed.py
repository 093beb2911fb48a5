"""The same as ``cada speed``, from a checkout."""

import sys

from cada_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(["speed", *sys.argv[1:]]))
