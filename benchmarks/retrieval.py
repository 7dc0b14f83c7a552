"""What retrieval finds and what it is worth: recall, oracles, and exact match inside and outside of the bank.

    python -m benchmarks.retrieval --checkpoint runs/raf_last_stage/best.ckpt --data-root $TOPV2_DIR --out retrieval.json

`gold scenario given` fills the gold scenario of every row whose scenario is in the bank; `gold in top n` counts the rows
where it is also among the first n that are retrieved, out of all rows (Shrivastava et al. 2022, oracles). The modules
alone are the paper's way (retrieval and filling, never leaving the bank) and the span pointer on the same encoder. The
rows are those that calibration was not fitted on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.measuring import options
from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import write_bytes, write_json
from frames.plots import canvas, png
from lightning_modules.calibration import REPORTED
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment, spread
from lightning_modules.metrics import RECALL_AT
from parsers.raf.candidate import (
    Candidate,
    CandidateScores,
    RAFDecodingConfig,
    composition,
    retrieval_and_filling,
    weigh,
)
from parsers.raf.parser import RAFParser
from retrieval.scenario import Scenario

#: Utterances that are read together.
CHUNK = 256


def main() -> None:
    """Measures, prints, writes and draws."""
    given = options(__doc__).parse_args()
    root = data_root(given.data_root)
    examples = spread(read_split(root, given.split)[REPORTED], given.rows)
    parser = load_module(given.checkpoint)[0].parser()
    if not isinstance(parser, RAFParser):
        raise SystemExit(f"{given.checkpoint} is no raf checkpoint")
    ranks, filled, modules = [], [], []
    for begin in track(range(0, len(examples), CHUNK), "parsing"):
        chunk = examples[begin : begin + CHUNK]
        sources = parser.tokenizer.batch([example.utterance for example in chunk])
        golds = [example.frame.decoupled() for example in chunk]
        scenarios = [Scenario.from_frame(gold) for gold in golds]
        places = [parser.table.bank.id(scenario) for scenario in scenarios]
        for place, near in zip(places, parser.retrieved(sources, max(RECALL_AT)), strict=True):
            found = np.flatnonzero(near == place)
            ranks.append(-1 if place is None else int(found[0]) if len(found) else max(RECALL_AT))
        inside = [i for i, place in enumerate(places) if place is not None]
        told = parser.filled([sources[i] for i in inside], [place for place in places if place is not None])
        right = dict(zip(inside, told, strict=True))
        filled += [
            i in right and parser.form.decode(right[i].tokens, sources[i]) == golds[i] for i in range(len(chunk))
        ]
        for source, gold, scenario, candidates in zip(
            sources, golds, scenarios, parser.candidates(sources), strict=True
        ):
            right_of = [
                (parser.form.decode(candidate.tokens, source) == gold, candidate.scenario == scenario)
                for candidate in candidates
            ]
            modules.append(_modules(candidates, right_of, parser.config))
    figures = _figures(np.array(ranks), np.array(filled), modules)
    made = {
        "checkpoint": given.checkpoint.parent.name,
        "bank": len(parser.table.bank),
        "rows": len(examples),
        "evaluated_on": corpus_checksum(root, given.split),
        "environment": environment(),
    }
    write_json(given.out, {**figures, **made})
    for name, value in figures.items():
        print(f"{name:24} {value}")
    _plot(figures, given.out.with_suffix(".png"))


def _modules(
    candidates: list[Candidate], right_of: list[tuple[bool, bool]], config: RAFDecodingConfig
) -> dict[str, tuple[bool, bool]]:
    """What all modules together choose, the bank's alone, and the span pointer alone: whether frame and scenario are right.

    Args:
        candidates: of a row.
        right_of: of each, whether it is the gold frame and whether it has the gold scenario.
        config: how they are weighed.
    """
    scores = CandidateScores.from_candidates([candidates])
    totals = {
        "together": weigh(scores, config)[0],
        "bank_alone": retrieval_and_filling(scores, config)[0],
        "span_pointer_alone": composition(scores, config)[0],
    }
    chosen = {
        name: (False, False) if np.isnan(total).all() else right_of[int(np.nanargmax(total))]
        for name, total in totals.items()
    }
    frames, scenarios = zip(*right_of, strict=True)
    return {**chosen, "any_candidate": (any(frames), any(scenarios))}


def _figures(ranks: np.ndarray, filled: np.ndarray, modules: list[dict[str, tuple[bool, bool]]]) -> dict[str, Any]:
    inside = ranks >= 0
    figures: dict[str, Any] = {
        "in_bank_share": inside.mean(),
        "recall": {f"at_{n}": (ranks[inside] < n).mean() for n in RECALL_AT},
        "gold_scenario_given": filled[inside].mean(),
        "gold_in_top": {f"{n}": (inside & (ranks < n) & filled).mean() for n in RECALL_AT},
    }
    for name in modules[0]:
        right, ranked = np.array([row[name] for row in modules]).T
        parts = {
            "exact_match": right, "in_bank": right[inside], "out_of_bank": right[~inside], "scenario_in_bank": ranked[inside]
        }  # fmt: skip
        figures[name] = {part: rows.mean() if len(rows) else 0.0 for part, rows in parts.items()}
    return {
        name: {key: round(100 * float(v), 2) for key, v in value.items()}
        if isinstance(value, dict)
        else round(100 * float(value), 2)
        for name, value in figures.items()
    }


def _plot(figures: dict[str, Any], path: Path) -> None:
    figure, axes = canvas(6, 4)
    axes.plot(RECALL_AT, [figures["recall"][f"at_{n}"] for n in RECALL_AT], "o-", label="recall, in-bank rows")
    axes.plot(
        RECALL_AT, [figures["gold_in_top"][str(n)] for n in RECALL_AT], "s--", label="oracle exact match, all rows"
    )
    axes.axhline(figures["together"]["exact_match"], color="grey", label="exact match")
    axes.set(xscale="log", xlabel="scenarios retrieved", ylabel="percent")
    axes.legend()
    write_bytes(path, png(figure))


if __name__ == "__main__":
    main()
