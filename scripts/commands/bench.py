"""``framefill bench``: experiments that consist of many trainings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from frames.errors import UsageError
from lightning_modules.lottery.strategies import STRATEGIES
from scripts.commands import common

#: What becomes of trainings that are done when an experiment ends early.
_KEPT = "trainings that are done are kept for the next call"


def add_arguments(commands: Any) -> None:
    """Registers the group and its experiments."""
    group = commands.add_parser(
        "bench", help="longer experiments: few rows, ablations, lottery tickets, structured pruning"
    )
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
    _add_lottery(experiments)
    for experiment in (low, ablations):
        experiment.add_argument("--config", type=Path, required=True, help="the parser's config")
        common.add_root(experiment)
        experiment.add_argument(
            "--fit",
            nargs=argparse.REMAINDER,
            default=[],
            help="last: options for every `framefill fit`; trainings that other ones made are refused",
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


def _add_lottery(experiments: Any) -> None:
    tickets = common.add_command(
        experiments, "lottery", run_lottery,
        "find sparse subnetworks in source domains and train them again in others (Desai et al. 2019)",
        "framefill bench lottery --config configs/lottery_conv_nar.yaml --sources alarm music --targets weather",
        "Every training is kept below --stages and never repeated, so a command that was ended goes on where it was.",
    )  # fmt: skip
    smaller = common.add_command(
        experiments, "structured", run_structured,
        "remove heads and channels of a parser, train what is left and compare it with the parser and with a small one "
        "from nothing",
        "framefill bench structured --config configs/lottery_structured_conv_nar.yaml --domain weather --kept 0.4 0.2",
    )  # fmt: skip
    for experiment, seeds in ((tickets, [0, 1, 2]), (smaller, [0])):
        experiment.add_argument("--config", type=Path, required=True, help="sections model, data and study")
        common.add_root(experiment)
        experiment.add_argument(
            "--seeds", nargs="+", type=int, default=seeds, help="one repetition each (default: %(default)s)"
        )
        experiment.add_argument(
            "--stages", type=Path, default=Path("runs/lottery"),
            help="folder of finished trainings (default: %(default)s)",
        )  # fmt: skip
        experiment.add_argument(
            "--out", type=Path, help="folder of the results (default: results/ and the config's run)"
        )
    smaller.add_argument("--domain", required=True, help="to train on and score in")
    smaller.add_argument("--kept", nargs="+", type=float, required=True, help="shares of heads and channels to keep")
    tickets.add_argument("--sources", nargs="+", required=True, help="domains; alarm+timer is one source of both")
    tickets.add_argument("--targets", nargs="+", required=True, help="domains")
    tickets.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES, metavar="STRATEGY",
        help=f"what is trained in the targets, some of: {', '.join(STRATEGIES)} (default: all)",
    )  # fmt: skip
    tickets.add_argument("--spis", type=int, help="train in the targets on so many samples per intent and slot")
    tickets.add_argument("--jobs", type=int, default=1, help="trainings side by side (default: %(default)s)")


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


def run_lottery(options: Any) -> None:
    """Trains all that is missing of a transfer study."""
    common.check_files(options.config)
    common.at_least(1, jobs=options.jobs, spis=options.spis)
    common.at_least(0, seeds=min(options.seeds))
    from data.topv2.reader import data_root
    from lightning_modules.ending import ended_by_signals
    from lightning_modules.lottery.study import Plan
    from scripts.lottery import lottery
    from scripts.lottery_figures import table
    from scripts.trainings import name_of

    plan = Plan(
        str(options.config),
        str(data_root(options.data_root)),
        str(options.stages),
        tuple(options.sources),
        tuple(options.targets),
        tuple(options.seeds),
        tuple(options.strategies),
        "train" if options.spis is None else f"train_{options.spis}spis",
    )
    part = "" if options.spis is None else plan.split
    out = options.out or Path("results") / name_of(options.config) / part
    _check_results(out, "study.json")
    with ended_by_signals(_KEPT):
        folder = lottery(plan, options.jobs, out)
    table(folder)
    print(f"figures: {folder / 'summary.json'}\nplots: {folder}/*.png")


def run_structured(options: Any) -> None:
    """Trains and measures structured tickets."""
    common.check_files(options.config)
    common.at_least(0, seeds=min(options.seeds))
    if wrong := [kept for kept in options.kept if not 0 < kept <= 1]:
        raise UsageError("E492", f"--kept {wrong[0]} is no share.", remedy="Give numbers above 0, at most 1.")
    from data.topv2.reader import data_root
    from lightning_modules.ending import ended_by_signals
    from lightning_modules.lottery.study import experiment_of
    from scripts.structured import structured
    from scripts.trainings import name_of

    out = options.out or Path("results") / name_of(options.config)
    _check_results(out, "structured.json")
    experiment = experiment_of(str(options.config), str(data_root(options.data_root)), str(options.stages))
    with ended_by_signals(_KEPT):
        path = structured(experiment, options.domain, options.kept, options.seeds, out)
    print(f"rows: {path}")


def _check_results(folder: Path, record: str) -> None:
    """Checks the folder of an experiment's results, whose tables and plots carry no mark of their own.

    Args:
        folder: of the results.
        record: name of the file by which they are known as this program's.

    Raises:
        UsageError: files are there, and no record of this program's.
        MachineError: nothing can be written there.
    """
    from frames.outputs import check_output

    check_output(folder / record)
    if (folder / record).exists() or not folder.is_dir():
        return
    there = sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in (".json", ".png"))
    if there:
        raise UsageError(
            "E493",
            f"the folder has {there[0]}, but no {record} of framefill's.",
            where=str(folder),
            remedy="Name another folder with --out.",
        )
