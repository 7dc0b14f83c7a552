"""`python scripts/evaluate.py …` is `framefill evaluate …`."""

import sys

from scripts.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
