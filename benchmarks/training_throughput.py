"""Utterances per second of a training step, and where the time goes.

    python -m benchmarks.training_throughput --config configs/conv_nar.yaml --data-root $TOPV2_DIR --device cpu --out throughput.json

Forward includes the loss; optimizer includes clipping. The step is the one that ``framefill fit`` takes. Beside it, what
the machine could do at best: the arithmetic of the matrix products of a step at the speed that one large product reaches.
"""

from __future__ import annotations

import argparse
import time
from itertools import chain, repeat
from pathlib import Path

import torch
import yaml
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from data.training.batches import Batch, BatchStream
from frames.files import write_json
from lightning_modules.attention import training_attention
from lightning_modules.cli import TRAINER_DEFAULTS
from lightning_modules.datamodule import TOPv2DataModule
from lightning_modules.evaluation import environment
from lightning_modules.kinds import KINDS, module_class


def main() -> None:
    """Measures, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--config", type=Path, default=Path("configs/conv_nar.yaml"))
    options.add_argument("--data-root")
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    options.add_argument("--out", type=Path, required=True, help="record to write")
    given = options.parse_args()
    config = yaml.safe_load(given.config.read_text(encoding="utf-8"))
    groups = config["model"]["init_args"]
    kind = next(
        module_class(kind) for kind, (_, name) in KINDS.items() if config["model"]["class_path"].endswith("." + name)
    )
    module = kind(
        kind.config_class(**groups["model"]),
        kind.decoding_class(**groups.get("decoding", {})),
        kind.optimization_class(**groups["optimization"]),
    )
    data = TOPv2DataModule(given.data_root, **config["data"])
    data.needs = module.needs
    data.setup("fit")
    assert data.assets is not None and data.train_corpus is not None
    device = torch.device(given.device)
    module.build(data.assets)
    module.train().to(device)
    fitted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(fitted, lr=module.optimization.lr, fused=True)
    stream = BatchStream(data.train_corpus, config["data"]["batch_size"])
    precision = config["trainer"]["precision"]
    half = precision.startswith("bf16")

    def losses(batch: Batch) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half), training_attention(device, precision):
            return module.losses(move_data_to_device(batch, device))["loss"]

    trainer = {**TRAINER_DEFAULTS, **config["trainer"]}
    spent = dict.fromkeys(("data", "forward", "backward", "optimizer"), 0.0)
    batches, utterances = chain.from_iterable(repeat(stream)), 0
    for step in range(given.steps + 5):
        if step == 5:
            spent, utterances = dict.fromkeys(spent, 0.0), 0
        clock = time.perf_counter()
        batch = next(batches)
        clock = _lap(spent, "data", clock, device)
        loss = losses(batch)
        clock = _lap(spent, "forward", clock, device)
        loss.backward()
        clock = _lap(spent, "backward", clock, device)
        torch.nn.utils.clip_grad_norm_(fitted, trainer["gradient_clip_val"])
        optimizer.step()
        optimizer.zero_grad()
        _lap(spent, "optimizer", clock, device)
        utterances += len(batch.lengths)
    total = sum(spent.values())
    counted = [next(batches) for _ in range(given.steps)]
    with FlopCounterMode(display=False) as counter:
        for batch in counted:
            losses(batch).backward()
    flops = counter.get_total_flops() / sum(len(batch.lengths) for batch in counted)
    speed = product_speed(torch.bfloat16 if half else torch.float32, device)
    result = {
        "config": given.config.name,
        "utterances_per_second": round(utterances / total),
        "share": {name: round(100 * value / total, 2) for name, value in spent.items()},
        "gflop_per_utterance": round(flops / 1e9, 3),
        "gflop_per_second_of_a_large_product": round(speed / 1e9),
        "utterances_per_second_at_that_speed": round(speed / flops),
        "padding_percent": round(100 * stream.padding(), 2),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "environment": environment(),
    }
    write_json(given.out, result)
    print(result)


def product_speed(dtype: torch.dtype, device: torch.device, size: int = 2048, seconds: float = 2.0) -> float:
    """Floating point operations per second of the fastest of many products of two square matrices."""
    one = torch.randn(size, size).to(device, dtype)
    fastest, until = float("inf"), time.perf_counter() + seconds
    while (clock := time.perf_counter()) < until:
        torch.mm(one, one)
        wait(device)
        fastest = min(fastest, time.perf_counter() - clock)
    return 2 * size**3 / fastest


def wait(device: torch.device) -> None:
    """Until an accelerator has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _lap(spent: dict[str, float], name: str, since: float, device: torch.device) -> float:
    wait(device)
    now = time.perf_counter()
    spent[name] += now - since
    return now


if __name__ == "__main__":
    main()
