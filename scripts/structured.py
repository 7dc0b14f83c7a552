"""What structured tickets are good for: exact match, latency and bundle size beside the dense parser and one from nothing."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from assistants import runtime
from assistants.export import bundle_size, export
from frames.files import read_json, write_bytes, write_json
from lightning_modules.evaluation import environment, spread
from lightning_modules.lottery.experiment import Experiment
from lightning_modules.lottery.smaller import Smaller, train_smaller
from lightning_modules.saved import packed_weights
from scripts.lottery import quiet
from scripts.lottery_figures import Row, structured_plot
from scripts.statistics import mean_interval

#: Utterances that latency is measured on, one at a time, and rounds over them.
UTTERANCES, ROUNDS = 200, 5


def structured(experiment: Experiment, domain: str, shares: Sequence[float], seeds: Sequence[int], out: Path) -> Path:
    """Trains, exports and measures tickets of a parser; writes ``structured.json`` and ``structured.png``.

    Args:
        experiment: sizes, corpus and stages.
        domain: to train on and score in.
        shares: of heads and channels that tickets keep.
        seeds: of the repetitions; figures are means over them, latency and size are those of the first.
        out: folder.

    Returns:
        The JSON file, with the rows that it had of other parsers, domains and shares; of the same parser and domain only
        those that were made alike. Exact match is that of the ticket which goes on
        from its trained values; ``reset_exact_match`` is that of the one which begins again from its initial ones.

    Raises:
        FramefillError: a share cannot be kept, or a stage is damaged.
    """
    quiet()
    where = environment()
    module = experiment.module
    made = {
        "model": asdict(module.config),
        "decoding": asdict(module.decoding),
        "optimization": asdict(module.optimization),
        "data": experiment.data,
        "study": asdict(experiment.study),
        "corpus": experiment.checksums,
    }
    dense = [train_smaller(experiment, domain, seed, "dense") for seed in seeds]
    rows: list[Row] = []
    for kept in shares:
        ways = {
            start: [train_smaller(experiment, domain, seed, start, kept) for seed in seeds]
            for start in ("trained", "initial", "nothing")
        }
        measured = compared(dense[0], ways["trained"][0], experiment, domain)
        rows.append(
            {
                "parser": module.kind,
                "kept": kept,
                "exact_match": _mean(ways["trained"]),
                "dense_exact_match": _mean(dense),
                "from_nothing_exact_match": _mean(ways["nothing"]),
                "reset_exact_match": _mean(ways["initial"]),
                **measured,
                "domain": domain,
                "seeds": list(seeds),
                "steps": experiment.study.steps,
                "made": made,
                "environment": where,
            }
        )
    path = out / "structured.json"
    earlier = read_json(path, "rows of structured tickets", "E570") if path.exists() else []
    rows = [row for row in earlier if _stays(row, rows)] + rows
    write_json(path, rows)
    write_bytes(out / "structured.png", structured_plot(rows))
    return path


def _stays(row: Row, later: Sequence[Row]) -> bool:
    """Whether an earlier row stays beside later ones, which are all of one parser and domain."""
    if (row["parser"], row["domain"]) != (later[0]["parser"], later[0]["domain"]):
        return True
    # Rows of earlier versions tell less of what they were made by.
    alike = {**later[0]["made"], **row["made"]} == later[0]["made"] and row["seeds"] == later[0]["seeds"]
    return alike and row["kept"] not in {new["kept"] for new in later}


def compared(dense: Smaller, ticket: Smaller, experiment: Experiment, domain: str) -> Row:
    """Latency of one utterance on one thread and size of the fp32 bundles, of both parsers and as ratios (dense / ticket)."""
    texts = [example.utterance for example in spread(experiment.domain(domain).eval_examples, UTTERANCES)]
    with tempfile.TemporaryDirectory() as folder:
        bundles = {}
        for name, trained in (("dense", dense), ("ticket", ticket)):
            weights = Path(folder) / f"{name}.safetensors"
            write_bytes(weights, packed_weights(dict(trained.module.net.state_dict()), _metadata(trained), []))
            bundles[name] = export(weights, Path(folder) / name, ["fp32"])
        parsers = {name: runtime.load(bundle, "fp32", 1) for name, bundle in bundles.items()}
        spent: dict[str, list[float]] = {name: [] for name in parsers}
        for _ in range(ROUNDS):
            # In turn, so that what else the machine does slows both alike.
            for text in texts:
                for name, parser in parsers.items():
                    clock = time.perf_counter()
                    parser.parse([text])
                    spent[name].append(1000 * (time.perf_counter() - clock))
        sizes = {name: bundle_size(bundle) for name, bundle in bundles.items()}
        graphs = {name: sum(p.stat().st_size for p in bundle.glob("*.onnx")) for name, bundle in bundles.items()}
    medians = {name: statistics.median(found) for name, found in spent.items()}
    return {
        "latency_ratio": round(medians["dense"] / medians["ticket"], 3),
        "size_ratio": round(sizes["dense"] / sizes["ticket"], 3),
        "graphs_ratio": round(graphs["dense"] / graphs["ticket"], 3),
        "p50_ms": {name: round(value, 3) for name, value in medians.items()},
        "bytes": sizes,
    }


def _mean(trained: Sequence[Smaller]) -> float:
    return round(mean_interval([parser.record["exact_match"] for parser in trained])[0], 2)


def _metadata(parser: Smaller) -> Row:
    module = parser.module
    return {
        "kind": module.kind,
        "assets": module.built.to_dict(),
        "model": asdict(module.config),
        "decoding": asdict(module.decoding),
        "optimization": asdict(module.optimization),
        "data": {},
    }
