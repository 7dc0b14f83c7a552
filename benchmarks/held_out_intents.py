"""Intents that training never saw, added to the bank by text alone.

    python -m benchmarks.held_out_intents --checkpoint runs/trials/raf_held_out_intents/best.ckpt --data-root $TOPV2_DIR --out intents.json

The checkpoint was trained with `configs/ablations/held_out_intents.yaml` laid over a config of RAF. What is added are the
scenarios of the training rows with these intents, as somebody would write them down; their utterances stay unread. The
other rows of eval tell what the additions cost.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measuring import options
from data.topv2.reader import Example, corpus_checksum, data_root, read_split
from frames.files import write_json
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment, spread
from lightning_modules.raf import RAFModule
from retrieval.scenario import Scenario


def main() -> None:
    """Measures, prints and writes."""
    asked = options(__doc__, rows=False)
    asked.add_argument(
        "--out-of-bank-score", type=float, help="decoding.out_of_bank_score, for bundles that expect new intents"
    )
    asked.add_argument(
        "--unseen-scale",
        type=float,
        help="model.unseen_scale, by which vectors of scenarios that come later are multiplied",
    )
    asked.add_argument("--others", type=int, default=2000, help="rows of other intents, evenly spread")
    given = asked.parse_args()
    module, metadata = load_module(given.checkpoint)
    held_out = sorted(metadata["data"].get("without_intents") or ())
    if not isinstance(module, RAFModule) or not held_out:
        raise SystemExit(f"{given.checkpoint} is no raf checkpoint trained with data.without_intents")
    if given.out_of_bank_score is not None:
        module.decoding.out_of_bank_score = given.out_of_bank_score
    assert module.model is not None
    if given.unseen_scale is not None:
        module.model.unseen_scale = given.unseen_scale
    root = data_root(given.data_root)
    rows: dict[str, list[Example]] = {intent: [] for intent in held_out}
    others = []
    for example in read_split(root, given.split):
        intents = {intent.label for intent in example.frame.intents()}
        if example.frame.root.label in rows:
            rows[example.frame.root.label].append(example)
        elif intents.isdisjoint(held_out):
            others.append(example)
    others = spread(others, given.others)
    before = _exact(module, rows, others)
    new = {
        Scenario.from_frame(example.frame)
        for example in read_split(root, "train")
        if not {intent.label for intent in example.frame.intents()}.isdisjoint(held_out)
    }
    module.add(sorted(new, key=str))
    after = _exact(module, rows, others)
    result = {
        "scenarios_added": len(new),
        "rows": {**{intent: len(examples) for intent, examples in rows.items()}, "others": len(others)},
        "out_of_bank_score": module.decoding.out_of_bank_score,
        "unseen_scale": module.model.unseen_scale,
        "exact_match_before": before,
        "exact_match_after": after,
        "evaluated_on": corpus_checksum(root, given.split),
        "environment": environment(),
    }
    write_json(given.out, result)
    for name in before:
        print(f"{name:28} {result['rows'].get(name, ''):>6} rows {before[name]:6.2f} -> {after[name]:6.2f}")


def _exact(module: RAFModule, rows: dict[str, list[Example]], others: Sequence[Example]) -> dict[str, float]:
    parser = module.parser()
    right = {}
    for name, examples in {**rows, "others": others}.items():
        parsed = parser.parse([example.utterance for example in examples])
        right[name] = [found[0].frame == row.frame.decoupled() for found, row in zip(parsed, examples, strict=True)]
    new = [exact for name in rows for exact in right[name]]
    shares = {**right, "all held out": new}
    return {name: round(100 * sum(exact) / max(1, len(exact)), 2) for name, exact in shares.items()}


if __name__ == "__main__":
    main()
