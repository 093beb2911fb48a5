"""``python -m cada_plugin``: the ``cada`` command."""

import sys

from cada_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
