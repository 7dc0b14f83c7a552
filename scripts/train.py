"""`python scripts/train.py …` is `framefill fit …`."""

import sys

from scripts.cli import main

if __name__ == "__main__":
    sys.exit(main(["fit", *sys.argv[1:]]))
