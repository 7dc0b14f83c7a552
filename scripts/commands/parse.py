"""``framefill parse``: utterances from the command line or standard input to frames on standard output."""

from __future__ import annotations

from typing import Any

from assistants import command
from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the command."""
    parser = common.add_command(
        commands, "parse", run, "parse utterances (arguments, or standard input, one a line)",
        'framefill parse "remind me to call mum at 6" --tree', command.DETAILS,
    )  # fmt: skip
    common.add_model(parser)
    command.add_options(parser)


def run(options: Any) -> None:
    """Prints a frame for every utterance; errors go to standard error, and the other utterances are still parsed."""
    common.at_least(1, n_best=options.n_best)
    parser, _ = common.load_parser(options)
    command.print_frames(parser, options)
