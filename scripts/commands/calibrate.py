"""``framefill calibrate``: probabilities of a bundle's hypotheses, or how a RAF checkpoint weighs its modules."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from frames.errors import UsageError
from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the command."""
    parser = common.add_command(
        commands, "calibrate", run,
        "fit on eval rows the probabilities of a bundle, or how a RAF checkpoint weighs its modules",
        "framefill calibrate --bundle alarm.bundle --json calibration.json",
        "A bundle gets a calibrated probability for every hypothesis and slot, and the threshold above which 95% of the "
        "answers are right. A RAF checkpoint gets the weights of retrieval, filling and composition.",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--bundle", type=Path, help="folder; the coefficients are written into it")
    which.add_argument("--checkpoint", type=Path, help="of kind raf; the weights are written into it")
    common.add_rows(parser, "every other row is fitted on, the rest reported on (default: %(default)s)")
    parser.add_argument("--train-split", help="for a bundle: rows that it was trained on (default: train)")
    parser.add_argument(
        "--out-of-scope", type=Path, metavar="FILE.tsv",
        help="for a bundle: utterances outside of its domains, in the columns category and utterance (default: included ones)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    common.add_decoding(parser)
    common.add_device(parser)
    common.add_overwrite(parser)


def run(options: Any) -> None:
    """Writes what was fitted into the bundle or checkpoint and prints the figures."""
    from rich.progress import Progress

    from data.topv2.reader import corpus_checksum, data_root, read_split
    from frames.files import write_json
    from lightning_modules.evaluation import environment

    common.check_split(options.split)
    common.check_split(options.train_split or "train")
    common.check_device(options.device)
    common.check_outputs(options.overwrite, json=options.json)
    if options.bundle is not None and options.decoding:
        raise UsageError(
            "E515", "--decoding is for a checkpoint: a bundle decodes as it was exported.", remedy="Leave it out."
        )
    if options.bundle is not None:
        common.check_bundle_device(options.device)
    for name in ("out_of_scope", "train_split"):
        if options.checkpoint is not None and getattr(options, name) is not None:
            raise UsageError(
                "E516",
                f"--{name.replace('_', '-')} is for a bundle: a checkpoint gets no probabilities.",
                remedy="Leave it out.",
            )
    root = data_root(options.data_root)
    examples = read_split(root, options.split, options.domains)
    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("parsing", total=len(examples))
        calibrate = _bundle if options.bundle is not None else _checkpoint
        figures = calibrate(options, root, examples, lambda done: bar.advance(task, done))
    print(json.dumps(figures, indent=2))
    if options.json is not None:
        provenance = {
            "split": options.split, "domains": options.domains,
            "evaluated_on": corpus_checksum(root, options.split, options.domains),
        }  # fmt: skip
        write_json(options.json, {**figures, **provenance, "environment": environment()})


def _bundle(options: Any, root: Path, examples: Any, progress: Any) -> dict[str, Any]:
    from assistants.calibration import FIGURES, calibrate_bundle
    from data.out_of_scope import INCLUDED, read_out_of_scope
    from data.topv2.reader import read_split

    train = read_split(root, options.train_split or "train", options.domains)
    out_of_scope = read_out_of_scope(options.out_of_scope or INCLUDED)
    found = calibrate_bundle(options.bundle, train, examples, out_of_scope, progress)
    return {name: found.manifest[name] for name in FIGURES}


def _checkpoint(options: Any, root: Path, examples: Any, progress: Any) -> dict[str, Any]:
    from lightning_modules.calibration import calibrate_checkpoint

    decoding = common.decoding_options(options.decoding)
    return calibrate_checkpoint(options.checkpoint, examples, decoding, progress, options.device)
