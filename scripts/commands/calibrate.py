"""``framefill calibrate``: how a RAF checkpoint weighs its modules."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the command."""
    parser = common.add_command(
        commands, "calibrate", run,
        "learn from eval rows how a RAF checkpoint weighs its modules and when it leaves the bank",
        "framefill calibrate --checkpoint runs/raf_last_stage/best.ckpt --json results/raf_last_stage/calibration.json",
    )  # fmt: skip
    parser.add_argument("--checkpoint", required=True, type=Path, help="of kind raf; the weights are written into it")
    common.add_rows(parser, "every other row is fitted on, the rest reported on (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    common.add_decoding(parser)
    common.add_device(parser)
    common.add_overwrite(parser)


def run(options: Any) -> None:
    """Writes the weights into the checkpoint and prints the figures."""
    from rich.progress import Progress

    from data.topv2.reader import corpus_checksum, data_root, read_split
    from frames.files import write_json
    from lightning_modules.calibration import calibrate_checkpoint
    from lightning_modules.evaluation import environment

    common.check_split(options.split)
    common.check_outputs(options.overwrite, json=options.json)
    root = data_root(options.data_root)
    examples = read_split(root, options.split, options.domains)
    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("finding candidates", total=len(examples))
        figures = calibrate_checkpoint(
            options.checkpoint, examples, common.decoding_options(options.decoding),
            lambda done: bar.advance(task, done), options.device,
        )  # fmt: skip
    print(json.dumps(figures, indent=2))
    if options.json is not None:
        provenance = {
            "split": options.split, "domains": options.domains,
            "evaluated_on": corpus_checksum(root, options.split, options.domains),
        }  # fmt: skip
        write_json(options.json, {**figures, **provenance, "environment": environment()})
