"""``framefill parse``: utterances from the command line, standard input or a table to frames."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from assistants import command
from frames.errors import UsageError
from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the command."""
    parser = common.add_command(
        commands, "parse", run, "parse utterances (arguments, or standard input, one a line; or a table)",
        'framefill parse "remind me to call mum at 6" --tree',
        f"{command.DETAILS} With --in and --out a table of any size is parsed on all cores; run again after a kill, the "
        "command goes on where it was.",
    )  # fmt: skip
    common.add_model(parser)
    command.add_options(parser)
    bulk = parser.add_argument_group("tables (.parquet with pyarrow, .csv, .jsonl)")
    bulk.add_argument("--in", dest="source", type=Path, metavar="TABLE", help="table with a column of utterances")
    bulk.add_argument("--out", type=Path, metavar="TABLE", help="the same rows with their frames")
    bulk.add_argument("--column", default="utterance", help="of the utterances (default: %(default)s)")
    bulk.add_argument("--processes", type=int, default=0, help="that parse, 0 for one a core (default: %(default)s)")
    common.add_overwrite(bulk)


def run(options: Any) -> None:
    """Prints a frame for every utterance; errors go to standard error, and the other utterances are still parsed."""
    common.at_least(1, n_best=options.n_best)
    if options.source is not None or options.out is not None:
        _parse_table(options)
        return
    parser, _ = common.load_parser(options)
    command.print_frames(parser, options)


def _parse_table(options: Any) -> None:
    common.at_least(0, processes=options.processes)
    others = options.utterances or options.checkpoint or options.json or options.tree or options.n_best > 1
    if options.source is None or options.out is None or others:
        raise UsageError(
            "E554",
            "a table is parsed from --in to --out with a bundle, and has the best frame of each utterance.",
            remedy="Give both, and neither utterances, --checkpoint, --json, --tree nor --n-best.",
        )
    common.check_files(options.source)
    common.check_outputs(True, **{"in": options.source, "out": options.out})
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from assistants.bulk import parse_table
    from assistants.tables import table

    total = table(options.source).count(options.source)
    shown = TextColumn("rows parsed"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*shown, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        parse_table(
            options.source, options.out, common.bundle_path(options), options.column, options.precision,
            options.processes, options.overwrite, progress=lambda rows: bar.advance(task, rows),
        )  # fmt: skip
    print(options.out, file=sys.stderr)
