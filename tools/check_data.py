"""The same as ``cada check-data``, from a checkout."""

import sys

from cada_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main(["check-data", *sys.argv[1:]]))
