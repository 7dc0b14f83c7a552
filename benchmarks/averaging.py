"""What the moving average of a training is worth: exact match of the averaged parameters and of the last ones.

    python -m benchmarks.averaging --checkpoint runs/span_pointer_minilm/best.ckpt --out averaging.json

A checkpoint of a training with a moving average holds both. Averaging does not touch the course of the training, so the
last ones are what the same training leaves without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from benchmarks.measuring import compared, options
from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import write_json
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment, spread
from lightning_modules.saved import parameters_of, read_checkpoint
from parsers.interface import Parser

FIGURES = ("exact_match", "frame_length_accuracy", "scenario_accuracy")


def main() -> None:
    """Evaluates, prints and writes."""
    given = options(__doc__).parse_args()
    root = data_root(given.data_root)
    examples = spread(read_split(root, given.split), given.rows)
    checkpoint = read_checkpoint(given.checkpoint)
    if "current_model_state" not in checkpoint:
        raise SystemExit(f"{given.checkpoint} holds one set of parameters: train with EMAWeightAveraging")
    last = parameters_of({"state_dict": checkpoint["current_model_state"]})

    def parser_of(parameters: Mapping[str, Tensor] | None) -> Parser:
        module = load_module(given.checkpoint)[0]
        if parameters is not None:
            assert module.model is not None
            module.model.load_state_dict(parameters)
        return module.parser()

    found = compared({"averaged": lambda: parser_of(None), "last": lambda: parser_of(last)}, examples, FIGURES)
    told = {"checkpoint": str(given.checkpoint), "rows": len(examples)}
    checksum = corpus_checksum(root, given.split)
    write_json(given.out, {**found, "made": told, "evaluated_on": checksum, "environment": environment()})


if __name__ == "__main__":
    main()
