"""Converts a bundle of an earlier version: int8 graphs with a scale for each row, options under their present names.

    python -m scripts.convert_bundle models/conv-nar-topv2

Weights, tokenizer, ontology and bank stay what they are. Metrics and probabilities go, for they were another graph's; then
run `framefill calibrate --bundle` and `framefill evaluate --bundle --keep`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from assistants.quantization import convert


def main() -> None:
    """Converts the bundles that are named."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundles", nargs="+", type=Path)
    for path in options.parse_args().bundles:
        convert(path)


if __name__ == "__main__":
    main()
