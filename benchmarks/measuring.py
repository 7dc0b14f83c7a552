"""What measurements of a checkpoint have in common: their options, and exact match of one parser after another."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data.topv2.reader import Example
from lightning_modules.evaluation import evaluate
from parsers.interface import Parser


def options(doc: str | None, rows: bool = True) -> argparse.ArgumentParser:
    """The options of a measurement, to which it may add its own.

    Args:
        doc: of the module, told by ``--help``.
        rows: whether a part of the rows may be asked for, see :func:`lightning_modules.evaluation.spread`.
    """
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--checkpoint", type=Path, required=True)
    found.add_argument("--data-root")
    found.add_argument("--split", default="eval")
    if rows:
        found.add_argument("--rows", type=int, help="about so many rows, evenly spread (default: all)")
    found.add_argument("--out", type=Path, required=True, help="record to write")
    return found


def compared(
    parsers: Mapping[str, Callable[[], Parser]], examples: Sequence[Example], figures: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Figures of several parsers on the same rows, printed as they come.

    Args:
        parsers: what makes each parser when its turn has come, by name.
        examples: the rows.
        figures: of those that :func:`lightning_modules.evaluation.evaluate` gives.
    """
    found = {}
    with Progress() as bar:
        task = bar.add_task("parsing", total=len(parsers) * len(examples))
        for name, make in parsers.items():
            parser = make()
            valid = parser.ontology.valid
            metrics = evaluate(parser, examples, valid, progress=lambda done: bar.advance(task, done))
            found[name] = {figure: metrics[figure] for figure in figures}
            bar.console.print(name, found[name])
    return found
