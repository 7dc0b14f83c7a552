"""``framefill wheel``: a bundle as a Python package that pip installs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the command."""
    parser = common.add_command(
        commands, "wheel", run, "turn a bundle into a Python package that pip installs",
        "framefill wheel --bundle models/conv-nar-topv2 --out dist --name alarm_parser",
        "The package holds the bundle and the runtime under a name of its own, and needs no torch.",
    )  # fmt: skip
    parser.add_argument("--bundle", required=True, type=Path, help="folder or .zip written by `framefill export`")
    parser.add_argument("--out", required=True, type=Path, help="folder of the wheel")
    parser.add_argument("--name", required=True, help="of the package and of its command, e.g. alarm_parser")
    parser.add_argument("--version", help="of the package, e.g. 1.2.0 (default: framefill's)")
    common.add_overwrite(parser)


def run(options: Any) -> None:
    """Writes the wheel and prints its size."""
    from assistants.wheel import wheel

    path = wheel(options.bundle, options.out, options.name, options.version, options.overwrite)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
