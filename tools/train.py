"""The same as ``cada train``, from a checkout."""

import sys

from cada_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
