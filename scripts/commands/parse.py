"""``framefill parse``: utterances from the command line, standard input or a table to frames."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistants import command
from frames.errors import UsageError
from scripts.commands import common

if TYPE_CHECKING:
    from parsers.interface import Hypothesis


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
    parser.add_argument(
        "--trace", action="store_true",
        help="how each frame was found: LayerSkip's tokens by their origin, a line each; as JSON for other parsers",
    )  # fmt: skip
    bulk = parser.add_argument_group("tables (.parquet with pyarrow, .csv, .jsonl)")
    bulk.add_argument("--in", dest="source", type=Path, metavar="TABLE", help="table with a column of utterances")
    bulk.add_argument("--out", type=Path, metavar="TABLE", help="the same rows with their frames")
    bulk.add_argument("--column", help="of the utterances (default: utterance)")
    bulk.add_argument("--processes", type=int, help="that parse, 0 for one a core (default: 0)")
    common.add_overwrite(bulk)


def run(options: Any) -> None:
    """Prints a frame for every utterance; errors go to standard error, and the other utterances are still parsed."""
    common.at_least(1, n_best=options.n_best)
    of_table = (options.source, options.out, options.column, options.processes)
    if options.overwrite or any(value is not None for value in of_table):
        _parse_table(options)
        return
    if options.trace and (options.json or options.tree):
        raise UsageError("E580", "--trace is a shape of its own.", remedy="Give one of --trace, --json and --tree.")
    parser, _ = common.load_parser(options)
    if options.trace:
        command.print_frames(parser, options, _traced)
    else:
        command.print_frames(parser, options)


def _traced(options: Any, number: int, rank: int, utterance: str, hypothesis: Hypothesis) -> str:
    """The utterance, how its frame was found (in colour on a terminal), and the frame."""
    from rich.console import Console

    from parsers.layerskip.trace import has_origins, lines

    console = Console(highlight=False, soft_wrap=True)
    with console.capture() as captured:
        for line in lines(hypothesis.trace) if has_origins(hypothesis.trace) else ():
            console.print(line)
    found = captured.get() or json.dumps(hypothesis.trace, ensure_ascii=False, default=str) + "\n"
    return f"{utterance}\n{found}{hypothesis.frame or ''}\n"


def _parse_table(options: Any) -> None:
    common.at_least(0, processes=options.processes)
    others = options.utterances or options.checkpoint or options.json or options.tree or options.trace
    others = others or options.n_best > 1 or options.threads is not None or options.device != "cpu"
    if options.source is None or options.out is None or others:
        raise UsageError(
            "E554",
            "a table is parsed from --in to --out with a bundle, and has the best frame of each utterance.",
            remedy="Give both with --column, --processes and --overwrite, and neither utterances, --checkpoint, --device, "
            "--threads, --json, --tree, --trace nor --n-best.",
        )
    common.check_files(options.source)
    common.check_outputs(True, **{"in": options.source, "out": options.out})
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from assistants.bulk import parse_table
    from assistants.tables import table

    total = table(options.source).count(options.source)
    shown = TextColumn("rows parsed"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    _, bundle = common.named_bundle(options)
    with Progress(*shown, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        parse_table(
            options.source, options.out, bundle,
            "utterance" if options.column is None else options.column, options.precision, options.processes or 0,
            options.overwrite, progress=lambda rows: bar.advance(task, rows),
        )  # fmt: skip
    print(options.out, file=sys.stderr)
