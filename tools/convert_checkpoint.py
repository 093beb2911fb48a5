"""The same as ``cada convert``, from a checkout."""

import sys

from cada_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
