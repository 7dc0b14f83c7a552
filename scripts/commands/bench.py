"""``framefill bench``: experiments that consist of many trainings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the group and its experiments."""
    group = commands.add_parser("bench", help="longer experiments: the low-resource protocol, ablations")
    experiments = group.add_subparsers(title="experiments", metavar="EXPERIMENT", required=True)
    low = common.add_command(
        experiments, "low-resource", run_low_resource,
        "train on source domains, fine-tune on a few rows of the others, plot the curve (Chen et al. 2020)",
        "framefill bench low-resource --config configs/conv_nar.yaml",
    )  # fmt: skip
    ablations = common.add_command(
        experiments, "ablations", run_ablations,
        "train a parser as it is and with one thing changed at a time, compare exact match",
        "framefill bench ablations --config configs/span_pointer_minilm.yaml --changes configs/ablations/r3f.yaml",
    )  # fmt: skip
    ablations.add_argument(
        "--trial", type=Path, default=Path("configs/ablations/quarter.yaml"),
        help="config laid over the parser's, to make the trainings short (default: %(default)s)",
    )  # fmt: skip
    ablations.add_argument(
        "--changes", nargs="+", type=Path, required=True, help="configs, each laid over both, or a whole one"
    )
    for experiment in (low, ablations):
        experiment.add_argument("--config", type=Path, required=True, help="the parser's config")
        common.add_root(experiment)
        experiment.add_argument(
            "--fit", nargs=argparse.REMAINDER, default=[], help="last: options for every `framefill fit`"
        )
    low.add_argument(
        "--source-training", type=Path,
        help="config laid over it for the source domains, as configs/low_resource_source.yaml (default: none)",
    )  # fmt: skip
    low.add_argument(
        "--fine-tuning", nargs="+", type=Path, default=[Path("configs/low_resource.yaml")],
        help="configs laid over it for the target domains (default: configs/low_resource.yaml)",
    )  # fmt: skip
    low.add_argument("--targets", nargs="+", default=["reminder", "weather"], help="domains (default: %(default)s)")
    low.add_argument(
        "--spis", nargs="+", type=int, default=[10, 25, 50, 100, 250, 500, 1000],
        help="samples per intent and slot (default: %(default)s)",
    )  # fmt: skip


def run_low_resource(options: Any) -> None:
    """Trains all points of the curve that are missing."""
    from scripts.low_resource import low_resource

    common.check_files(options.config, options.source_training, *options.fine_tuning)
    for samples in options.spis:
        common.at_least(1, spis=samples)
    out = low_resource(
        options.config,
        options.source_training,
        options.fine_tuning,
        options.data_root,
        options.targets,
        options.spis,
        options.fit,
    )
    print(f"curve: {out / 'curve.json'}\nplot: {out / 'curve.png'}")


def run_ablations(options: Any) -> None:
    """Trains all rows of the table that are missing."""
    from scripts.ablations import ablations

    common.check_files(options.config, options.trial, *options.changes)
    out = ablations(options.config, options.trial, options.changes, options.data_root, options.fit)
    print(f"table: {out / 'table.json'}\nplot: {out / 'table.png'}")
