"""What the moving average of a training is worth: exact match of the averaged parameters and of the last ones.

    python -m benchmarks.averaging --checkpoint runs/span_pointer_minilm/best.ckpt --out averaging.json

A checkpoint of a training with a moving average holds both. Averaging does not touch the course of the training, so the
last ones are what the same training leaves without it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data.topv2.files import write_json
from data.topv2.reader import corpus_checksum, data_root, read_split
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment, evaluate, spread
from lightning_modules.saved import parameters_of, read_checkpoint

FIGURES = ("exact_match", "frame_length_accuracy", "scenario_accuracy")


def main() -> None:
    """Evaluates, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--checkpoint", type=Path, required=True)
    options.add_argument("--data-root")
    options.add_argument("--split", default="eval")
    options.add_argument("--rows", type=int, help="about so many rows, evenly spread (default: all)")
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    root = data_root(given.data_root)
    examples = spread(read_split(root, given.split), given.rows)
    checkpoint = read_checkpoint(given.checkpoint)
    if "current_model_state" not in checkpoint:
        raise SystemExit(f"{given.checkpoint} holds one set of parameters: train with EMAWeightAveraging")
    states = {"averaged": checkpoint["state_dict"], "last": checkpoint["current_model_state"]}
    found: dict[str, Any] = {}
    with Progress() as bar:
        task = bar.add_task("parsing", total=len(states) * len(examples))
        for name, state in states.items():
            module = load_module(given.checkpoint)[0]
            assert module.model is not None
            module.model.load_state_dict(parameters_of({"state_dict": state}))
            parser = module.parser()
            metrics = evaluate(parser, examples, parser.ontology.valid, progress=lambda done: bar.advance(task, done))
            found[name] = {figure: metrics[figure] for figure in FIGURES}
            bar.console.print(name, found[name])
    told = {"checkpoint": str(given.checkpoint), "rows": len(examples)}
    checksum = corpus_checksum(root, given.split)
    write_json(given.out, {**found, "made": told, "evaluated_on": checksum, "environment": environment()})


if __name__ == "__main__":
    main()
