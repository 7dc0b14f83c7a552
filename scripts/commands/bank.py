"""``framefill bank``: the scenarios that a RAF bundle retrieves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the group and its actions."""
    group = commands.add_parser("bank", help="list, add or remove the scenarios that a RAF bundle retrieves")
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = common.add_command(
        actions, "list", run_list, "print scenarios with the training rows that have them",
        "framefill bank list --bundle raf.bundle",
    )  # fmt: skip
    adding = common.add_command(
        actions, "add", run_add, "make scenarios known without training",
        'framefill bank add --bundle raf.bundle "[IN:TRANSLATE_TEXT [SL:LANGUAGE ] ]"',
    )  # fmt: skip
    removing = common.add_command(
        actions, "remove", run_remove, "make scenarios unknown",
        'framefill bank remove --bundle raf.bundle "[IN:TRANSLATE_TEXT [SL:LANGUAGE ] ]"',
    )  # fmt: skip
    for action in (listing, adding, removing):
        action.add_argument("--bundle", type=Path, required=True, help="folder written by `framefill export`")
    for action in (adding, removing):
        action.add_argument("scenarios", nargs="+", help="brackets without words; a childless slot holds text")


def run_list(options: Any) -> None:
    """Prints the bank."""
    from assistants import banks
    from assistants.bundle import Bundle

    bank = banks.read(Bundle(options.bundle)).bank
    for scenario in bank:
        print(f"{bank.count(scenario)}\t{scenario}")


def run_add(options: Any) -> None:
    """Encodes scenarios and adds them to the bank."""
    from assistants import banks, runtime
    from assistants.raf import RAFBundleParser
    from retrieval.scenario import Scenario

    def edit(table: Any) -> Any:
        # Loaded here, where no other process can change the bundle between reading and writing.
        parser = runtime.load(options.bundle)
        assert isinstance(parser, RAFBundleParser)
        parser.add([Scenario.parse(text) for text in options.scenarios])
        return parser.table

    banks.change(options.bundle, edit)


def run_remove(options: Any) -> None:
    """Removes scenarios from the bank."""
    from assistants import banks
    from retrieval.scenario import Scenario

    def edit(table: Any) -> Any:
        for text in options.scenarios:
            table = table.removed(Scenario.parse(text))
        return table

    banks.change(options.bundle, edit)
