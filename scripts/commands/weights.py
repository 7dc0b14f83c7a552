"""``framefill weights``: a checkpoint's parameters in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.commands import common


def add_arguments(commands: Any) -> None:
    """Registers the command."""
    parser = common.add_command(
        commands, "weights", run, "pack a checkpoint's parameters, to fine-tune from",
        "framefill weights --checkpoint runs/span_pointer_minilm/best.ckpt --out span-pointer.safetensors",
        "Pretrained weights of others are downloaded by `framefill data weights`.",
    )  # fmt: skip
    parser.add_argument("--checkpoint", required=True, type=Path, help="written by `framefill fit`")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="file to write, ending in .safetensors; serves wherever a checkpoint does",
    )
    common.add_overwrite(parser)


def run(options: Any) -> None:
    """Writes the file and prints its size."""
    from lightning_modules.weights import pack

    common.check_outputs(options.overwrite, out=options.out)
    size = pack(options.checkpoint, options.out)
    print(f"{options.out} ({size / 1e6:.1f} MB)")
