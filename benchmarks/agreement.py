"""Does an exported bundle parse as its checkpoint does? On every row of a split, for every precision of the bundle.

python -m benchmarks.agreement --checkpoint runs/conv_nar/best.ckpt --bundle conv-nar.bundle --data-root $TOPV2_DIR --out agreement.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.progress import track

from assistants import runtime
from assistants.bundle import PRECISIONS, Bundle
from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import write_json
from frames.frame import Frame
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment
from parsers.interface import Parser

CHUNK = 1024


def main() -> None:
    """Parses with all, compares, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--checkpoint", type=Path, required=True)
    options.add_argument("--bundle", type=Path, required=True)
    options.add_argument("--data-root")
    options.add_argument("--split", default="eval")
    options.add_argument("--out", type=Path, required=True, help="record to write")
    given = options.parse_args()
    root = data_root(given.data_root)
    examples = read_split(root, given.split)
    utterances, gold = [e.utterance for e in examples], [e.frame.decoupled() for e in examples]
    expected = _frames(load_module(given.checkpoint)[0].parser(), utterances, "torch")
    result: dict[str, Any] = {"rows": len(gold), "torch": {"exact_match": _share(expected, gold)}}
    for precision, suffix in PRECISIONS.items():
        if Bundle(given.bundle).has("encoder" + suffix):
            found = _frames(runtime.load(given.bundle, precision, threads=0), utterances, precision)
            differing = sum(ours != theirs for ours, theirs in zip(found, expected, strict=True))
            result[precision] = {"exact_match": _share(found, gold), "frames_that_differ_from_torch": differing}
    result |= {"data_checksum": corpus_checksum(root, given.split), "environment": environment()}
    write_json(given.out, result)
    print({name: value for name, value in result.items() if name != "environment"})


def _frames(parser: Parser, utterances: list[str], name: str) -> list[Frame | None]:
    starts = track(range(0, len(utterances), CHUNK), description=name)
    return [found[0].frame for start in starts for found in parser.parse(utterances[start : start + CHUNK])]


def _share(found: list[Frame | None], gold: list[Frame]) -> float:
    return round(100 * sum(a == b for a, b in zip(found, gold, strict=True)) / len(gold), 2)


if __name__ == "__main__":
    main()
