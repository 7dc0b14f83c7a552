"""int8 graphs that scale each row by itself, beside those that scale a whole tensor: agreement, exact match and time.

    python -m benchmarks.int8 --before earlier/models --data-root $TOPV2_DIR

Both bundles of a name are measured in turn in one run, utterance by utterance, so that the ratio of their times does not
depend on how busy the machine is; times are of the processor. Exact match is of all eval rows, from the manifests.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from assistants import runtime
from assistants.onnx_backend import BundleParser
from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import write_json
from lightning_modules.evaluation import environment, spread
from parsers.interface import Hypothesis


def main() -> None:
    """Measures, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--before", type=Path, required=True, help="folder of bundles with a scale for each tensor")
    options.add_argument(
        "--after", type=Path, default=Path("models"), help="folder of bundles with a scale for each row"
    )
    options.add_argument("--data-root")
    options.add_argument("--rows", type=int, default=2000, help="eval rows parsed alone and together, about")
    options.add_argument("--timed", type=int, default=200, help="of these, rows that are timed alone")
    options.add_argument("--batch", type=int, default=64, help="utterances of a timed batch")
    options.add_argument("--out", type=Path, default=Path("results/assistants/int8.json"))
    given = options.parse_args()
    root = data_root(given.data_root)
    texts = [example.utterance for example in spread(read_split(root, "eval"), given.rows)]
    result: dict[str, Any] = {}
    for path in sorted(folder for folder in given.before.iterdir() if (folder / "manifest.json").exists()):
        pair = {"before": runtime.load(path), "after": runtime.load(given.after / path.name)}
        # Bundles of before may have had no probabilities, which cost time of their own.
        plain = {
            name: runtime.load(parent / path.name)
            for name, parent in (("before", given.before), ("after", given.after))
        }
        for parser in plain.values():
            parser.confidence = None
        for parser in (*pair.values(), *plain.values()):
            parser.parse(texts[:10])
        result[path.name] = {
            "exact_match": {name: parser.manifest["metrics"].get("exact_match") for name, parser in pair.items()},
            **{name: agreement(parser, texts) for name, parser in pair.items()},
            "time_after_by_time_before": ratios(pair, texts, given.timed, given.batch),
            "time_without_probabilities": ratios(plain, texts, given.timed, given.batch),
        }
        print(path.name, result[path.name], flush=True)
    record = {
        "bundles": result,
        "rows": len(texts),
        "timed": given.timed,
        "batch": given.batch,
        "data_checksum": corpus_checksum(root, "eval"),
        "environment": environment(),
    }
    write_json(given.out, record)


def agreement(parser: BundleParser, texts: list[str]) -> dict[str, float]:
    """How the answers to utterances alone differ from those to all of them together."""
    alone = [parser.parse([text])[0][0] for text in texts]
    together = [found[0] for found in parser.parse(texts)]
    pairs: list[tuple[Hypothesis, Hypothesis]] = list(zip(alone, together, strict=True))
    return {
        "frames_that_differ": sum(one.frame != other.frame for one, other in pairs),
        "largest_difference_of_scores": max(abs(one.score - other.score) for one, other in pairs),
    }


def ratios(pair: dict[str, BundleParser], texts: list[str], timed: int, batch: int) -> dict[str, float]:
    """Median time of an utterance alone, and time of batches, of the second parser by the first's."""
    alone: dict[str, list[float]] = {name: [] for name in pair}
    batches: dict[str, list[float]] = {name: [] for name in pair}
    for text in texts[:: max(1, len(texts) // timed)]:
        for name, parser in pair.items():
            alone[name].append(_seconds(parser, [text]))
    for begin in range(0, min(len(texts), 8 * batch), batch):
        for name, parser in pair.items():
            batches[name].append(_seconds(parser, texts[begin : begin + batch]))
    return {
        "alone": round(float(np.median(alone["after"]) / np.median(alone["before"])), 3),
        "batch": round(sum(batches["after"]) / sum(batches["before"]), 3),
    }


def _seconds(parser: BundleParser, texts: list[str]) -> float:
    clock = time.thread_time()
    parser.parse(texts)
    return time.thread_time() - clock


if __name__ == "__main__":
    main()
