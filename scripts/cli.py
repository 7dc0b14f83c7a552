"""The installed command ``framefill``; each of its commands is a module of :mod:`scripts.commands`."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from assistants.command import CommandParser, guarded
from frames.errors import FramefillWarning
from scripts.commands import bank, bench, calibrate, data, evaluate, export, fit, parse, serve, weights, wheel

#: In the order of ``framefill --help``.
COMMANDS = (fit, evaluate, parse, serve, export, wheel, weights, calibrate, bank, bench, data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Returns:
        The exit status: 0; 2 after an error, which is printed on standard error; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    warnings.formatwarning = _format_warning  # type: ignore[assignment]

    def work() -> None:
        if words[:1] == ["fit"]:
            fit.run(words[1:])
            return
        options = build_parser().parse_args(words)
        options.run(options)

    return guarded(work)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = CommandParser(
        prog="framefill",
        description="Semantic parsing for task-oriented dialogue: train on TOPv2, evaluate exact match, export parsers.",
        epilog='Start with `framefill parse "wake me at 6" --tree`, then `framefill fit --config configs/conv_nar.yaml`.',
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_arguments(commands)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when asked for, for that reads the metadata of the installation."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("framefill")
        except PackageNotFoundError:
            number = "(not installed)"
        print(f"framefill {number}")
        parser.exit()


def _format_warning(
    message: Warning | str, category: type[Warning], *place: Any, _python: Any = warnings.formatwarning
) -> str:
    """Our own warnings name their place themselves, and need no line of code."""
    if issubclass(category, FramefillWarning):
        return f"framefill: {message}\n"
    return _python(message, category, *place)


if __name__ == "__main__":
    sys.exit(main())
