"""``framefill evaluate``: exact match of a parser on a split."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from frames.errors import UsageError
from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the command."""
    parser = common.add_command(
        commands, "evaluate", run, "score a parser by exact match on a split",
        "framefill evaluate --bundle models/conv-nar-topv2 --data-root $TOPV2_DIR --split eval",
    )  # fmt: skip
    common.add_model(parser)
    common.add_decoding(parser)
    common.add_rows(parser, "split to score (default: %(default)s)")
    parser.add_argument(
        "--keep", action="store_true",
        help="keep the figures in the bundle's manifest, by which `framefill parse` finds the most accurate; not with --domains, --split or --precision",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and their provenance here")
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE.tsv", help="write every row's gold and predicted frame here"
    )
    common.add_overwrite(parser)


def run(options: Any) -> None:
    """Prints the figures, and writes them where the options say."""
    from rich.progress import Progress

    from data.topv2.reader import corpus_checksum, data_root, read_split
    from lightning_modules.evaluation import evaluate, table, write_record

    common.check_split(options.split)
    common.check_outputs(options.overwrite, json=options.json, predictions=options.predictions)
    kept_in = _bundle_to_keep_in(options) if options.keep else None
    root = data_root(options.data_root)
    examples = read_split(root, options.split, options.domains)
    parser, metadata = common.load_parser(options, options.decoding)
    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("parsing", total=len(examples))
        metrics = evaluate(
            parser, examples, parser.ontology.valid, predictions=options.predictions,
            progress=lambda done: bar.advance(task, done),
        )  # fmt: skip
    table(metrics)
    if options.json is not None:
        checksum = corpus_checksum(root, options.split, options.domains)
        write_record(options.json, metrics, {**metadata, "split": options.split, "evaluated_on": checksum})
    if kept_in is not None:
        from assistants.bundle import keep_metrics

        keep_metrics(kept_in, metrics)


def _bundle_to_keep_in(options: Any) -> Any:
    from assistants.bundle import changeable

    if options.bundle is None:
        raise UsageError(
            "E415", "--keep needs --bundle: figures are kept in its manifest.", remedy="Name the bundle's folder."
        )
    if options.domains or options.split != "eval":
        raise UsageError(
            "E416",
            "--keep is for the figures of all domains on eval, because figures of other rows cannot be compared.",
            remedy="Leave --domains and --split out, or --keep.",
        )
    if options.precision is not None:
        raise UsageError(
            "E479",
            "--keep is for the figures of the graphs that a bundle is used with unless --precision is given.",
            remedy="Leave --precision out, or --keep.",
        )
    return changeable(options.bundle)
