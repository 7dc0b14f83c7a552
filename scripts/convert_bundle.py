"""Converts a bundle of an earlier version: int8 graphs with a scale for each row, options under their present names.

    python -m scripts.convert_bundle models/conv-nar-topv2

Weights, tokenizer, ontology and bank stay what they are. Metrics and probabilities go, for they were another graph's; then
run `framefill calibrate --bundle` and `framefill evaluate --bundle --keep`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from assistants.command import CommandParser, guarded
from assistants.quantization import convert


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts the bundles that are named; gives the exit status."""
    parser = CommandParser(
        prog="python -m scripts.convert_bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundles", nargs="+", type=Path)

    def work() -> None:
        for path in parser.parse_args(arguments).bundles:
            convert(path)

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
