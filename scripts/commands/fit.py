"""``framefill fit``: LightningCLI owns its command line, so only the name is registered here."""

from __future__ import annotations

from typing import Any


def add_arguments(commands: Any) -> None:
    """Registers the command in the list; see :func:`run`."""
    commands.add_parser("fit", help="train a parser (LightningCLI; `framefill fit --help`)", add_help=False)


def run(words: list[str]) -> None:
    """Trains with the words that follow ``framefill fit``."""
    from lightning_modules.cli import fit

    fit(words)
