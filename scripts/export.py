"""`python scripts/export.py …` is `framefill export …`."""

import sys

from scripts.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
