"""`python scripts/parse.py …` is `framefill parse …`."""

import sys

from scripts.cli import main

if __name__ == "__main__":
    sys.exit(main(["parse", *sys.argv[1:]]))
