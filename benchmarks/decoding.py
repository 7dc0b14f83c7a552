"""One checkpoint under several ways of choosing a frame: length beams, with and without the search among frames.

    python -m benchmarks.decoding --checkpoint runs/conv_nar/best.ckpt --data-root $TOPV2_DIR

Nothing is trained: what differs is how lengths and tokens are chosen from the same scores. A parser with a rescorer is
measured with it too.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data.topv2.files import write_json
from data.topv2.reader import corpus_checksum, data_root, read_split
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment, evaluate, spread
from parsers.nar import DecodingConfig

FIGURES = ("exact_match", "well_formed", "frame_length_accuracy", "scenario_accuracy", "bracket_f1")


def main() -> None:
    """Evaluates, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--checkpoint", type=Path, required=True)
    options.add_argument("--data-root")
    options.add_argument("--split", default="eval")
    options.add_argument("--rows", type=int, help="about so many rows, evenly spread (default: all)")
    options.add_argument("--beams", nargs="+", type=int, default=[1, 3, 5])
    options.add_argument("--out", type=Path, default=Path("results/conv_nar/decoding.json"))
    given = options.parse_args()
    root = data_root(given.data_root)
    examples = spread(read_split(root, given.split), given.rows)
    module, made = load_module(given.checkpoint)
    assert isinstance(module.decoding, DecodingConfig), "only non-autoregressive parsers choose a length"
    trained = module.decoding
    ways = {
        "constrained": replace(trained, rescored=0),
        "best tokens": replace(trained, constrained=False, rescored=0),
    }
    if trained.rescored:
        ways = {"rescored": trained, **ways}
    found: dict[str, dict[str, Any]] = {}
    with Progress() as bar:
        task = bar.add_task("parsing", total=len(ways) * len(given.beams) * len(examples))
        for way, decoding in ways.items():
            for beam in given.beams:
                module.decoding = replace(decoding, length_beam=beam)
                parser = module.parser()
                metrics = evaluate(
                    parser, examples, parser.ontology.valid, progress=lambda done: bar.advance(task, done)
                )
                name = f"{way}, beam {beam}"
                found[name] = {figure: metrics[figure] for figure in FIGURES}
                bar.console.print(name, found[name])
    checksum = corpus_checksum(root, given.split)
    made = {"kind": made["kind"], "checkpoint": str(given.checkpoint), "decoding": made["decoding"]}
    write_json(
        given.out,
        {**found, "rows": len(examples), "made": made, "evaluated_on": checksum, "environment": environment()},
    )


if __name__ == "__main__":
    main()
