"""``framefill export``: a checkpoint as a bundle for assistants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assistants.bundle import PRECISIONS
from frames.errors import UsageError
from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the command."""
    parser = common.add_command(
        commands, "export", run, "turn a checkpoint into a bundle that needs no torch",
        "framefill export --checkpoint runs/conv_nar/best.ckpt --out alarm.bundle",
    )  # fmt: skip
    parser.add_argument("--checkpoint", required=True, type=Path, help="written by `framefill fit`")
    parser.add_argument("--out", required=True, type=Path, help="folder to write, or a name ending in .zip")
    parser.add_argument(
        "--precision", nargs="+", default=["fp32", "int8"], choices=[*PRECISIONS],
        help="graphs to include; int4 makes the smallest bundle (default: fp32 int8)",
    )  # fmt: skip
    parser.add_argument(
        "--block-size", type=int, metavar="WEIGHTS",
        help="int4 weights that share a scale, 16 to 256; larger is smaller in bytes and loses more (default: 32)",
    )  # fmt: skip
    parser.add_argument(
        "--largest-file",
        type=int,
        metavar="MB",
        help="write larger graphs in parts, for places that refuse large files",
    )
    parser.add_argument("--metrics", type=Path, help="metrics.json to carry in the manifest")
    common.add_decoding(parser)
    common.add_overwrite(parser)


def run(options: Any) -> None:
    """Writes the bundle and prints its size."""
    from assistants.export import bundle_size, export
    from assistants.four_bits import BLOCK_SIZE

    common.at_least(1, largest_file=options.largest_file)
    if options.block_size is not None and "int4" not in options.precision:
        raise UsageError(
            "E498", "--block-size is for int4 graphs, and none is written.", remedy="Leave it out, or add int4 to --precision."
        )  # fmt: skip
    largest = None if options.largest_file is None else options.largest_file * 1_000_000
    metrics = None if options.metrics is None else _figures(options.metrics)
    decoding = common.decoding_options(options.decoding)
    out = export(
        options.checkpoint,
        options.out,
        options.precision,
        metrics,
        decoding,
        options.overwrite,
        largest,
        BLOCK_SIZE if options.block_size is None else options.block_size,
    )
    print(f"{out} ({bundle_size(out) / 1e6:.1f} MB)")


def _figures(path: Path) -> dict[str, Any]:
    from frames.files import read_json

    record = read_json(path, "a record of figures", "E409")
    figure = record.get("exact_match") if isinstance(record, dict) else None
    if isinstance(figure, bool) or not isinstance(figure, int | float) or not 0 <= figure <= 100:
        raise UsageError(
            "E475",
            "this is no record of figures: it has no number `exact_match` from 0 to 100.",
            where=str(path),
            remedy="Give results/<run>/metrics.json, or what `framefill evaluate --json FILE` wrote.",
        )
    return {key: value for key, value in record.items() if key not in ("made", "environment")}
