"""Utterances per second of a training step, and where the time goes.

    python -m benchmarks.training_throughput --config configs/conv_nar.yaml --data-root $TOPV2_DIR

Forward includes the loss; optimizer includes clipping. The step is the one that ``framefill fit`` takes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import yaml

from data.topv2.batches import BatchStream
from data.topv2.files import write_json
from lightning_modules.checkpoints import KINDS
from lightning_modules.datamodule import TOPv2DataModule
from lightning_modules.evaluation import environment


def main() -> None:
    """Measures, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--config", type=Path, default=Path("configs/conv_nar.yaml"))
    options.add_argument("--data-root")
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--out", type=Path, default=Path("results/training_throughput.json"))
    given = options.parse_args()
    config = yaml.safe_load(given.config.read_text(encoding="utf-8"))
    groups = config["model"]["init_args"]
    data = TOPv2DataModule(given.data_root, **config["data"])
    data.setup("fit")
    assert data.assets is not None and data.train_corpus is not None
    kind = next(kind for kind in KINDS.values() if config["model"]["class_path"].endswith("." + kind.__name__))
    module = kind(
        kind.config_class(**groups["model"]),
        kind.decoding_class(**groups.get("decoding", {})),
        kind.optimization_class(**groups["optimization"]),
    )
    module.build(data.assets)
    module.train()
    fitted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(fitted, lr=module.optimization.lr, fused=True)
    stream = BatchStream(data.train_corpus, config["data"]["batch_size"])
    spent = dict.fromkeys(("data", "forward", "backward", "optimizer"), 0.0)
    batches, utterances = iter(stream), 0
    for step in range(given.steps + 5):
        if step == 5:
            spent, utterances = dict.fromkeys(spent, 0.0), 0
        clock = time.perf_counter()
        batch = next(batches)
        clock = _lap(spent, "data", clock)
        with torch.autocast("cpu", torch.bfloat16, enabled=config["trainer"]["precision"].startswith("bf16")):
            loss = module.losses(batch)["loss"]
        clock = _lap(spent, "forward", clock)
        loss.backward()
        clock = _lap(spent, "backward", clock)
        torch.nn.utils.clip_grad_norm_(fitted, config["trainer"]["gradient_clip_val"])
        optimizer.step()
        optimizer.zero_grad()
        _lap(spent, "optimizer", clock)
        utterances += len(batch.lengths)
    total = sum(spent.values())
    result = {
        "config": given.config.name,
        "utterances_per_second": round(utterances / total),
        "share": {name: round(100 * value / total, 2) for name, value in spent.items()},
        "padding_percent": round(100 * stream.padding(), 2),
        "threads": torch.get_num_threads(),
        "environment": environment(),
    }
    write_json(given.out, result)
    print(result)


def _lap(spent: dict[str, float], name: str, since: float) -> float:
    now = time.perf_counter()
    spent[name] += now - since
    return now


if __name__ == "__main__":
    main()
