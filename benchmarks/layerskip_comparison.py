"""A small language model beside the other parsers: parameters, exact match, time of an utterance on one thread, size.

    python -m benchmarks.layerskip_comparison --parsers "conv NAR=models/conv-nar-topv2" "SmolLM2=runs/layerskip_smollm2/best.ckpt"

Each parser is a bundle (int8, run by onnxruntime) or a checkpoint (fp32, run by torch); the parsers take turns utterance
by utterance, raw text to frame. Exact match is that of the record named with ``--records``, in the same order.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from assistants import runtime
from assistants.export import bundle_size
from benchmarks.parameters import count
from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import write_json
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment, spread


def main() -> None:
    """Measures, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parsers", nargs="+", required=True, metavar="NAME=PATH", help="bundles and checkpoints")
    options.add_argument("--records", nargs="+", required=True, type=Path, help="of each parser, with its exact match")
    options.add_argument("--utterances", type=int, default=200)
    options.add_argument("--decoding", nargs="*", default=["adaptive=true"], help="of LayerSkip checkpoints")
    options.add_argument("--data-root")
    options.add_argument("--split", default="eval")
    options.add_argument("--out", type=Path, default=Path("results/layerskip/comparison.json"))
    given = options.parse_args()
    if len(given.parsers) != len(given.records):
        options.error("give one record for each parser")
    torch.set_num_threads(1)
    decoding = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in given.decoding)}
    root = data_root(given.data_root)
    texts = [row.utterance for row in spread(read_split(root, given.split), given.utterances)[: given.utterances]]
    found, parsers = {}, {}
    for named, record in zip(given.parsers, given.records, strict=True):
        name, path = named.split("=", 1)
        parsers[name], facts = loaded(Path(path), decoding)
        score = json.loads(record.read_text(encoding="utf-8"))
        found[name] = {
            **facts,
            "exact_match": score["exact_match"],
            "exact_match_on": score["count"],
            "record": record.as_posix(),
        }
    for name, times in timed(parsers, texts).items():
        found[name] |= times
        print(name, found[name])
    write_json(
        given.out,
        {
            "parsers": found,
            "utterances": len(texts),
            "threads": 1,
            "decoding": decoding,
            "evaluated_on": corpus_checksum(root, given.split),
            "environment": environment(),
        },
    )


def loaded(path: Path, decoding: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A parser, and its form, parameters and size.

    Args:
        path: a bundle, or a checkpoint (``.ckpt``).
        decoding: options of a checkpoint's decoding.
    """
    if path.suffix != ".ckpt":
        parser = runtime.load(path, threads=1)
        counts = count(path)
        return parser, {
            "form": f"{parser.precision} bundle, onnxruntime",
            "parameters": counts["total"],
            "mb": round(bundle_size(path) / 1e6, 2),
        }
    module, _ = load_module(path, decoding)
    total = sum(parameter.numel() for parameter in module.net.parameters())
    return module.parser(), {
        "form": "fp32 checkpoint, torch",
        "parameters": total,
        "mb": round(path.stat().st_size / 1e6, 2),
    }


def timed(parsers: dict[str, Any], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Milliseconds of processor time an utterance takes, by parser."""
    spent: dict[str, list[float]] = {name: [] for name in parsers}
    for parser in parsers.values():
        for text in texts[:3]:
            parser.parse([text])
    for text in track(texts, "parsing"):
        for name, parser in parsers.items():
            clock = time.process_time()
            parser.parse([text])
            spent[name].append(1000 * (time.process_time() - clock))
    return {
        name: {"mean_ms": round(float(np.mean(times)), 3), "p50_ms": round(float(np.percentile(times, 50)), 3)}
        for name, times in spent.items()
    }


if __name__ == "__main__":
    main()
