"""What several commands share: their options, the checks of these, and the parser that they name."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assistants.bundle import PRECISIONS, bundle_name
from frames.errors import UsageError
from frames.files import parse_json

_ROOT = Path(__file__).resolve().parents[2]
#: Folder of the bundles that come with framefill, in a clone or installed; the most accurate is used when no bundle is
#: named.
MODELS = next((path for path in (_ROOT / "assistants" / "models", _ROOT / "models") if path.is_dir()), _ROOT / "models")


def add_command(
    commands: Any, name: str, run: Callable[[Any], None], summary: str, example: str, details: str = ""
) -> argparse.ArgumentParser:
    """Adds a subcommand whose ``--help`` ends with an example.

    Args:
        commands: what ``add_subparsers`` returned.
        name: word on the command line.
        run: called with the parsed options.
        summary: one line for the list of commands.
        example: a command line that works.
        details: further sentences for ``--help``.
    """
    description = " ".join(filter(None, (f"{summary[0].upper()}{summary[1:]}.", details)))
    parser = commands.add_parser(name, help=summary, description=description, epilog=f"Example: {example}")
    parser.set_defaults(run=run)
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name a parser: a checkpoint or a bundle."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=Path, help="written by `framefill fit`")
    which.add_argument(
        "--bundle",
        type=Path,
        help="written by `framefill export`, or the name of a package that `framefill wheel` made (default: the most "
        "accurate of those that are included)",
    )
    parser.add_argument(
        "--precision", choices=[*PRECISIONS], help="graphs of the bundle to use (default: the first that is there)"
    )
    parser.add_argument("--threads", type=int, help="threads that parse with a bundle, 0 for one a core (default: 1)")
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device``."""
    parser.add_argument("--device", default="cpu", help="where a checkpoint works: cpu, cuda (default: %(default)s)")


def add_rows(parser: argparse.ArgumentParser, split: str) -> None:
    """Adds the options that name rows of a corpus."""
    add_root(parser)
    parser.add_argument("--split", default="eval", help=split)
    parser.add_argument("--domains", nargs="+", help="only these domains")


def add_root(parser: argparse.ArgumentParser) -> None:
    """Adds ``--data-root``."""
    parser.add_argument("--data-root", help="folder of <domain>_<split>.tsv files (default: the variable TOPV2_DIR)")


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """Adds ``--decoding``."""
    parser.add_argument(
        "--decoding",
        nargs="+",
        default=[],
        metavar="OPTION=VALUE",
        help="decode a checkpoint with other options, e.g. rescoring_margin=2.0",
    )


def add_overwrite(parser: argparse._ActionsContainer) -> None:
    """Adds ``--overwrite``."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace output files that framefill did not write (folders never are)"
    )


def at_least(minimum: int, **values: int | None) -> None:
    """Checks numbers on the command line.

    Args:
        minimum: smallest number allowed.
        values: number by the name of its option; None stands for an option that was not given.

    Raises:
        UsageError: a number is smaller.
    """
    for name, value in values.items():
        if value is not None and value < minimum:
            raise UsageError(
                "E402",
                f"--{name.replace('_', '-')} {value} must be at least {minimum}.",
                remedy="`--help` tells what it counts.",
            )


def check_split(name: str) -> None:
    """Checks the name of a split, which becomes a part of file names.

    Raises:
        UsageError: the name holds anything but letters, digits, ``_``, ``.`` and ``-``.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(
            "E471", f"--split {name!r} cannot be the name of a split.", remedy="Try train, eval, test or train_25spis."
        )


def check_device(name: str) -> None:
    """Checks the kind of device that a checkpoint is to work on; whether it is here is seen when it is used.

    Raises:
        UsageError: a parser cannot work on such a device.
    """
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", name):
        raise UsageError("E476", f"--device {name!r} is not known.", remedy="Give cpu, cuda, cuda:1, mps or xpu.")


def check_bundle_device(name: str) -> None:
    """Checks the device where a bundle is named.

    Raises:
        UsageError: it is another than the processor.
    """
    if name != "cpu":
        raise UsageError("E439", "bundles work on the processor.", remedy="Leave --device out, or name a --checkpoint.")


def check_files(*paths: Path | None) -> None:
    """Checks files that a command is about to read.

    Raises:
        UsageError: one is missing or a folder.
    """
    for path in paths:
        if path is not None and not path.is_file():
            raise UsageError("E472", "there is no such file.", where=str(path), remedy="Check the path.")


def check_outputs(overwrite: bool, **paths: Path | None) -> None:
    """Checks output files before the work begins whose result they are to hold.

    Args:
        overwrite: replace files that framefill did not write.
        paths: file by the name of its option; None stands for an option that was not given.

    Raises:
        UsageError: two options name one file, a file is not this program's, or the place is no file in a folder.
    """
    from frames.outputs import check_output

    named: dict[Path, str] = {}
    for name, path in paths.items():
        if path is None:
            continue
        where = path.resolve()
        if where in named:
            raise UsageError(
                "E473", f"--{named[where]} and --{name} name one file.", where=str(path), remedy="Name two."
            )
        named[where] = name
        parent = next(folder for folder in where.parents if folder.exists())
        if not parent.is_dir():
            raise UsageError(
                "E474", f"{parent} is a file, not a folder.", where=f"--{name} {path}", remedy="Name another place."
            )
        check_output(path, overwrite)


def decoding_options(words: Sequence[str]) -> dict[str, Any]:
    """Options of decoding from words like ``num_rescored=4``.

    Raises:
        UsageError: a word is not ``OPTION=VALUE``, or its value is neither a number, a truth value nor a name.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            value = parse_json(text)
        except ValueError:
            value = text  # a name
        infinite = isinstance(value, float) and not math.isfinite(value)
        if not name or not text or infinite or not isinstance(value, (bool, int, float, str)):
            raise UsageError(
                "E406", f"{word!r} cannot be read.", remedy="Write OPTION=VALUE, e.g. num_rescored=4 or index=sq8."
            )
        options[name] = value
    return options


def load_parser(options: Any, decoding: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
    """The parser that the options of :func:`add_model` name, and its metadata.

    Raises:
        UsageError: an option that a bundle does not have, or no bundle is installed.
        BundleError: the checkpoint or bundle cannot be read.
    """
    at_least(0, threads=options.threads)
    if options.checkpoint is not None:
        from lightning_modules.checkpoints import load_module

        check_device(options.device)
        for name in ("threads", "precision"):
            if getattr(options, name) is not None:
                print(f"framefill: --{name} is for bundles; a checkpoint does not use it.", file=sys.stderr)
        module, metadata = load_module(options.checkpoint, decoding_options(decoding), options.device)
        return module.parser(), {**metadata, "checkpoint": str(options.checkpoint)}
    if decoding:
        raise UsageError(
            "E447", "a bundle decodes as it was exported.", remedy="Export it again with --decoding, or name a --checkpoint."
        )  # fmt: skip
    check_bundle_device(options.device)
    from assistants import runtime

    name, path = named_bundle(options)
    parser = runtime.load(path, options.precision, 1 if options.threads is None else options.threads)
    metadata = {key: value for key, value in parser.manifest.items() if key not in ("files", "metrics")}
    return parser, {"bundle": name, "precision": parser.precision, **metadata}


def named_bundle(options: Any) -> tuple[str, Path]:
    """Name and path of the bundle that the options of :func:`add_model` name: a path, an installed package, or the default.

    Raises:
        UsageError: no bundle is named, and none is installed.
    """
    return default_bundle() if options.bundle is None else installed(options.bundle)


def installed(bundle: Path) -> tuple[str, Path]:
    """The bundle's name and path, or where there is no such file those of the installed package of this name."""
    from importlib.metadata import entry_points

    if not bundle.exists():
        for entry in entry_points(group="framefill.bundles", name=str(bundle)):
            return entry.name, entry.load()  # its path tells no name: the folder of each is called bundle
    return bundle_name(bundle), bundle


def default_bundle() -> tuple[str, Path]:
    """Name and path of the most accurate of the bundles that come with framefill.

    Raises:
        UsageError: none is installed.
    """
    from assistants.bundle import most_accurate

    path = most_accurate(MODELS)
    if path is None:
        raise UsageError(
            "E401", "no parser is named and no default bundle is installed.", remedy="Pass --bundle or --checkpoint."
        )
    print(f"using the bundle {path.name}", file=sys.stderr)
    return path.name, path
