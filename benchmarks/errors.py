"""What a parser's errors are made of, from the rows that ``framefill evaluate --predictions`` wrote.

    framefill evaluate --bundle models/span-pointer-topv2 --predictions eval.tsv
    python -m benchmarks.errors --predictions eval.tsv --out results/span_pointer_minilm/errors.json

Every row falls into the first class that fits: exact, another root intent, another scenario, or the right scenario with
other spans; of the last it is told how many endpoints are off. No scoring of spans, however good, can win more rows
than that last class holds.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path
from typing import Any

from frames.files import write_json
from frames.frame import Frame
from lightning_modules.evaluation import environment

CLASSES = ("exact", "other root intent", "other scenario", "one endpoint off", "several endpoints off")


def main() -> None:
    """Counts, prints and writes shares in percent."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--predictions", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    with given.predictions.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    counts = Counter(classify(row["gold"], row["predicted"]) for row in rows)
    shares = {name: round(100 * counts[name] / len(rows), 2) for name in CLASSES}
    result: dict[str, Any] = {"rows": len(rows), "percent": shares, "environment": environment()}
    write_json(given.out, result)
    for name, share in shares.items():
        print(f"{name:22} {share:6.2f}")


def classify(gold: str, predicted: str) -> str:
    """The class of one row; frames are decoupled and printed."""
    if gold == predicted:
        # Two frames that print alike may still lie at different places of the utterance; the column `exact` knows.
        return "exact"
    if not predicted or gold.split()[0] != predicted.split()[0]:
        return "other root intent"
    wanted, found = Frame.parse(gold), Frame.parse(predicted)
    if wanted.scenario() != found.scenario():
        return "other scenario"
    pairs = zip(wanted.spans(), found.spans(), strict=False)
    off = 0
    for one, other in pairs:
        mine, theirs = wanted.text(one).split(), found.text(other).split()
        off += (mine[:1] != theirs[:1]) + (mine[-1:] != theirs[-1:])
    return "one endpoint off" if off <= 1 else "several endpoints off"


if __name__ == "__main__":
    main()
