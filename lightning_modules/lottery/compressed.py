"""Unstructured tickets in few bytes: one bit for each weight of a pruned layer, and the values of those that are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from frames.errors import BundleError
from frames.files import write_bytes
from lightning_modules.lottery.masks import Mask
from lightning_modules.lottery.stages import packed, unpacked

#: Ends of the names of a pruned parameter's bits and values.
BITS, VALUES = "#bits", "#values"


def write_ticket(path: Path | str, weights: Mapping[str, Tensor], mask: Mask) -> int:
    """Writes the parameters of a model under a mask.

    Args:
        path: file to write.
        weights: effective parameters by name, zero where the mask removes them.
        mask: of some of them.

    Returns:
        Bytes of the file.

    Raises:
        MachineError: the disk is full or the folder cannot be written.
    """
    stored = {name: value.contiguous() for name, value in weights.items() if name not in mask.kept}
    stored |= {f"{name}{BITS}": bits for name, bits in packed(mask).items()}
    stored |= {f"{name}{VALUES}": weights[name][kept].contiguous() for name, kept in mask.kept.items()}
    shapes = {name: list(kept.shape) for name, kept in mask.kept.items()}
    content = save(stored, {"shapes": json.dumps(shapes)})
    write_bytes(path, content)
    return len(content)


def read_ticket(path: Path | str) -> tuple[dict[str, Tensor], Mask]:
    """What :func:`write_ticket` wrote: parameters with their zeros, and the mask.

    Raises:
        BundleError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = json.loads(file.metadata()["shapes"])
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        mask = unpacked({name: stored.pop(f"{name}{BITS}") for name in shapes}, shapes)
        for name, kept in mask.kept.items():
            values = stored.pop(f"{name}{VALUES}")
            stored[name] = torch.zeros(kept.shape, dtype=values.dtype).masked_scatter(kept, values)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BundleError(
            "E571", f"not a readable ticket ({error!r}).", where=str(path), remedy="Copy the file again."
        ) from error
    return stored, mask
