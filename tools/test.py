"""The same as ``cada test``, from a checkout."""

import sys

from cada_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
