"""How well the probabilities tell right answers from wrong ones, and the ontology's domains from everything else.

    python -m benchmarks.abstention --bundles models/conv-nar-topv2 models/span-pointer-topv2 models/raf-topv2 --held-out runs/held_out --data-root $TOPV2_DIR

Two measures of refusal. The bundles get the out-of-scope utterances that come with framefill, of which only every other one
was fitted on; figures are of the rest. And each domain is held out in turn: a small parser trained on the seven others with
`configs/held_out_domain.yaml` (its checkpoint is `<held-out>/<domain>/best.ckpt`) is calibrated on eval rows of these, and
answers the eighth's eval rows, of which it has seen nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc

from assistants import runtime
from assistants.calibration import REPORTED, calibrated, collect, right_of_likeliest
from data.out_of_scope import OutOfScope, read_out_of_scope
from data.topv2.reader import DOMAINS, Example, corpus_checksum, data_root, read_split
from frames.files import write_bytes, write_json
from frames.plots import canvas, png
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment, spread
from parsers.interface import Parser
from parsers.nar import NonAutoregressiveParser

#: Points of a curve.
POINTS = 50


def main() -> None:
    """Measures, prints, draws and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundles", nargs="+", type=Path, required=True)
    options.add_argument("--held-out", type=Path, help="folder of the checkpoints that lack a domain")
    options.add_argument("--data-root")
    options.add_argument(
        "--rows", type=int, default=2000, help="eval rows of the seven domains, and of the eighth, about"
    )
    options.add_argument("--out", type=Path, default=Path("results/assistants/abstention.json"))
    given = options.parse_args()
    root = data_root(given.data_root)
    out_of_scope = read_out_of_scope()
    examples = read_split(root, "eval")
    result: dict[str, Any] = {"bundles": {}, "held_out_domains": {}}
    for path in given.bundles:
        result["bundles"][path.name] = of_bundle(path, examples[REPORTED], out_of_scope[REPORTED])
        print(
            path.name,
            {k: v for k, v in result["bundles"][path.name].items() if k != "accuracy_by_coverage"},
            flush=True,
        )
    for domain in DOMAINS if given.held_out else ():
        checkpoint = given.held_out / domain / "best.ckpt"
        if checkpoint.exists():
            found = of_held_out(checkpoint, root, domain, given.rows, out_of_scope)
            result["held_out_domains"][domain] = found
            print(domain, found, flush=True)
    record = {
        **result,
        "out_of_scope": {
            "fitted": len(out_of_scope) - len(out_of_scope[REPORTED]),
            "reported": len(out_of_scope[REPORTED]),
        },
        "rows": given.rows,
        "data_checksum": corpus_checksum(root, "eval"),
        "environment": environment(),
    }
    write_json(given.out, record)
    write_bytes(given.out.with_suffix(".png"), drawn(result))


def of_bundle(path: Path, examples: Sequence[Example], out_of_scope: Sequence[OutOfScope]) -> dict[str, Any]:
    """Figures of a calibrated bundle on rows that it was not fitted on."""
    parser = runtime.load(path)
    threshold = parser.manifest["confidence"]["threshold"]
    probabilities, right = _answers(parser, examples)
    foreign = _probabilities(parser, [entry.utterance for entry in out_of_scope])
    categories = sorted({entry.category for entry in out_of_scope})
    answered = probabilities >= threshold
    return {
        "threshold": threshold,
        "expected_calibration_error": parser.manifest["confidence"]["expected_calibration_error"],
        "expected_calibration_error_of_slots": parser.manifest["confidence"]["expected_calibration_error_of_slots"],
        "auroc_right_or_wrong": auroc(probabilities[right], probabilities[~right]),
        "auroc_in_or_out_of_scope": auroc(probabilities, foreign),
        "answered": round(float(answered.mean()), 4),
        "right_of_answered": round(float(right[answered].mean()), 4),
        "right_of_all": round(float(right.mean()), 4),
        "out_of_scope_refused": round(float((foreign < threshold).mean()), 4),
        "out_of_scope_refused_by_category": {
            category: [
                int(sum(p < threshold for p, e in zip(foreign, out_of_scope, strict=True) if e.category == category)),
                sum(entry.category == category for entry in out_of_scope),
            ]
            for category in categories
        },
        "accuracy_by_coverage": curve(probabilities, right),
    }


def of_held_out(
    checkpoint: Path, root: Path, domain: str, rows: int, out_of_scope: Sequence[OutOfScope]
) -> dict[str, Any]:
    """Figures of a parser that was trained without a domain."""
    others = [name for name in DOMAINS if name != domain]
    parser = load_module(checkpoint)[0].parser()
    assert isinstance(parser, NonAutoregressiveParser)
    examples = spread(read_split(root, "eval", others), rows)
    collected = collect(parser, spread(read_split(root, "train", others), 5 * rows), examples, out_of_scope)
    found = calibrated(parser, collected)
    parser.confidence = found.confidence
    foreign = _probabilities(parser, [e.utterance for e in spread(read_split(root, "eval", [domain]), rows // 2)])
    known = found.probabilities[REPORTED]
    threshold = found.manifest["threshold"]
    right = [row.hypothesis.frame == frame for row, frame in zip(collected.parsed, collected.gold, strict=True)]
    return {
        "right_of_all": round(float(np.mean(right[REPORTED])), 4),
        "auroc_in_domain_or_held_out": auroc(known, foreign),
        "threshold": threshold,
        "answered_in_domain": round(float((known >= threshold).mean()), 4),
        "right_of_answered": found.manifest["right_of_answered"],
        "held_out_refused": round(float((foreign < threshold).mean()), 4),
    }


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Probability that one of ``higher`` is above one of ``lower``."""
    scores = torch.from_numpy(np.concatenate((higher, lower)))
    target = torch.cat((torch.ones(len(higher), dtype=torch.long), torch.zeros(len(lower), dtype=torch.long)))
    return round(float(binary_auroc(scores, target)), 4)


def curve(probabilities: np.ndarray, right: np.ndarray) -> list[list[float]]:
    """Share of rows answered and share of these that are right, over thresholds from the highest to none."""
    order, shares = right_of_likeliest(probabilities, right)
    places = np.linspace(len(order) / POINTS, len(order), POINTS).astype(int) - 1
    return [[round((place + 1) / len(order), 4), round(float(shares[place]), 4)] for place in places]


def drawn(result: dict[str, Any]) -> bytes:
    """The accuracy-coverage curves of the bundles, and the AUROC of each held-out domain, as PNG."""
    figure, (left, right) = canvas(10, 4, 2)
    for name, figures in result["bundles"].items():
        coverage, accuracy = zip(*figures["accuracy_by_coverage"], strict=True)
        left.plot(coverage, accuracy, label=name)
    left.axhline(0.95, color="grey", linestyle=":", linewidth=1)
    left.set(xlabel="share answered", ylabel="right among the answered", title="Eval rows not fitted on")
    left.legend()
    bars = {
        **{f"{name}\n(out of scope)": f["auroc_in_or_out_of_scope"] for name, f in result["bundles"].items()},
        **{f"without {name}": f["auroc_in_domain_or_held_out"] for name, f in result["held_out_domains"].items()},
    }
    right.barh(list(bars), list(bars.values()))
    right.set(xlim=(0.5, 1), xlabel="AUROC, in domain against out of domain")
    right.invert_yaxis()
    return png(figure)


def _probabilities(parser: Parser, texts: Sequence[str]) -> np.ndarray:
    return np.array([found[0].probability for found in parser.parse(list(texts))])


def _answers(parser: Parser, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    best = [found[0] for found in parser.parse([example.utterance for example in examples])]
    right = [h.frame == example.frame.decoupled() for h, example in zip(best, examples, strict=True)]
    return np.array([h.probability for h in best]), np.array(right)


if __name__ == "__main__":
    main()
