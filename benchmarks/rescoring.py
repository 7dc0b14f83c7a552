"""What the rescorer is worth: exact match by its weight and margin, and how much better an oracle would do.

    python -m benchmarks.rescoring --checkpoint runs/span_pointer_minilm/best.ckpt --data-root $TOPV2_DIR --out rescoring.json

Every row gets the decoder's frames, best first, scored by decoder and rescorer; weights and margins then choose from the
same scores. `judged` is the share of rows with a second frame within the margin, the only ones that cost another pass.
`endpoints_only` is exact match where nothing competes but frames with the scenario of the decoder's first: there the
rescorer chooses the endpoints of all spans together and no label.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.measuring import options
from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import write_bytes, write_json
from frames.plots import canvas, png
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import CHUNK, environment, spread
from parsers.nar import DecodingConfig, NonAutoregressiveParser

WEIGHTS = tuple(round(0.1 * step, 1) for step in range(11))
MARGINS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


@dataclass(frozen=True)
class Scored:
    """A frame of the list: whether it is the gold one, its scenario, and its log-probabilities."""

    exact: bool
    scenario: str
    decoder: float
    rescorer: float


def main() -> None:
    """Measures, prints, writes and draws."""
    asked = options(__doc__)
    asked.add_argument("--frames", type=int, default=8, help="frames of each row that are rescored")
    given = asked.parse_args()
    root = data_root(given.data_root)
    examples = spread(read_split(root, given.split), given.rows)
    module, metadata = load_module(given.checkpoint)
    if not isinstance(module.decoding, DecodingConfig) or not module.decoding.num_rescored:
        raise SystemExit(
            f"{given.checkpoint} has no rescorer: train with model.rescoring_layers and decoding.num_rescored"
        )
    parsers = []
    for weight in (0.0, 1.0):
        module.decoding = replace(module.decoding, num_rescored=given.frames, rescoring_weight=weight)
        parsers.append(module.parser())
    rows: list[list[Scored]] = []
    for begin in track(range(0, len(examples), CHUNK), "parsing"):
        chunk = examples[begin : begin + CHUNK]
        golds = [example.frame.decoupled() for example in chunk]
        rows += _scored(parsers, [example.utterance for example in chunk], golds, given.frames)
    figures = summary(rows)
    write_json(
        given.out,
        {
            **figures,
            "made": {"checkpoint": str(given.checkpoint), "decoding": metadata["decoding"]},
            "evaluated_on": corpus_checksum(root, given.split),
            "environment": environment(),
        },
    )
    for name, value in figures.items():
        print(f"{name:16} {value}")
    _plot(figures, given.out.with_suffix(".png"))


def _scored(parsers: list[Any], utterances: list[str], golds: list[Any], frames: int) -> list[list[Scored]]:
    """The frames of each utterance, in the decoder's order."""
    assert all(isinstance(parser, NonAutoregressiveParser) for parser in parsers)
    by_decoder, by_rescorer = (parser.parse(utterances, n_best=frames) for parser in parsers)
    found: list[list[Scored]] = []
    for gold, composed, judged in zip(golds, by_decoder, by_rescorer, strict=True):
        second = {tuple(h.trace["tokens"]): h.score for h in judged}
        found.append([])
        for h in composed:
            assert h.frame is not None, "frames that are rescored come from the search among well-formed ones"
            found[-1].append(Scored(h.frame == gold, h.frame.scenario(), h.score, second[tuple(h.trace["tokens"])]))
    return found


def summary(rows: list[list[Scored]]) -> dict[str, Any]:
    """Percent of the rows, by weight and margin.

    Args:
        rows: the frames of each row, in the decoder's order.
    """

    def percent(chosen: list[bool]) -> float:
        return round(100 * sum(chosen) / len(chosen), 2)

    def choice(row: list[Scored], weight: float, margin: float) -> bool:
        near = [frame for frame in row if frame.decoder >= row[0].decoder - margin]
        return max(near, key=lambda f: (1 - weight) * f.decoder + weight * f.rescorer).exact

    kept = [[frame for frame in row if frame.scenario == row[0].scenario] for row in rows]

    return {
        "count": len(rows),
        **{
            name: {
                f"margin {margin:g}": {f"{weight:g}": percent([choice(row, weight, margin) for row in lists]) for weight in WEIGHTS}
                for margin in MARGINS
            }
            for name, lists in (("exact_match", rows), ("endpoints_only", kept))
        },
        "judged": {
            f"{margin:g}": percent([len(row) > 1 and row[1].decoder >= row[0].decoder - margin for row in rows])
            for margin in MARGINS
        },
        "gold_among_endpoints": percent([any(frame.exact for frame in row) for row in kept]),
        "gold_in_top": {
            str(n): percent([any(frame.exact for frame in row[:n]) for row in rows])
            for n in range(1, 1 + max(len(row) for row in rows))
        },
    }  # fmt: skip


def _plot(figures: dict[str, Any], path: Path) -> None:
    figure, axes = canvas(6, 4)
    for name, by_weight in figures["exact_match"].items():
        axes.plot(WEIGHTS, list(by_weight.values()), "o-", markersize=3, label=name)
    axes.set(xlabel="weight of the rescorer", ylabel="exact match, percent")
    axes.legend()
    write_bytes(path, png(figure))


if __name__ == "__main__":
    main()
