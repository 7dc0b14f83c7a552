"""One checkpoint under several ways of choosing a frame: length beams, with and without the search among frames.

    python -m benchmarks.decoding --checkpoint runs/conv_nar/best.ckpt --data-root $TOPV2_DIR --out decoding.json

Nothing is trained: what differs is how lengths and tokens are chosen from the same scores. A parser with a rescorer is
measured with it too.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks.measuring import compared, options
from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import write_json
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment, spread
from parsers.interface import Parser
from parsers.nar import DecodingConfig

FIGURES = ("exact_match", "well_formed", "frame_length_accuracy", "scenario_accuracy", "bracket_f1")


def main() -> None:
    """Evaluates, prints and writes."""
    asked = options(__doc__)
    asked.add_argument("--beams", nargs="+", type=int, default=[1, 3, 5])
    given = asked.parse_args()
    root = data_root(given.data_root)
    examples = spread(read_split(root, given.split), given.rows)
    module, metadata = load_module(given.checkpoint)
    assert isinstance(module.decoding, DecodingConfig), "only non-autoregressive parsers choose a length"
    trained = module.decoding
    ways = {
        "constrained": replace(trained, num_rescored=0),
        "best tokens": replace(trained, constrained=False, num_rescored=0),
    }
    if trained.num_rescored:
        ways = {"rescored": trained, **ways}

    def parser_of(decoding: DecodingConfig) -> Parser:
        module.decoding = decoding
        return module.parser()

    parsers = {
        f"{way}, beam {beam}": partial(parser_of, replace(decoding, length_beam=beam))
        for way, decoding in ways.items()
        for beam in given.beams
    }
    found = compared(parsers, examples, FIGURES)
    checksum = corpus_checksum(root, given.split)
    metadata = {"kind": metadata["kind"], "checkpoint": str(given.checkpoint), "decoding": metadata["decoding"]}
    write_json(
        given.out,
        {**found, "rows": len(examples), "made": metadata, "evaluated_on": checksum, "environment": environment()},
    )


if __name__ == "__main__":
    main()
