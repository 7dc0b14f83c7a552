"""Packed weights: of a checkpoint, what others need to go on from it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save

from data.topv2.errors import UsageError
from data.topv2.files import write_bytes
from lightning_modules.checkpoints import load_module
from lightning_modules.saved import ENCODER, WEIGHTS, digest_of


def pack(checkpoint: Path | str, out: Path | str) -> int:
    """Writes a checkpoint's parameters in half precision, and how they were made, to be used wherever a checkpoint is.

    The state of the optimizer is left behind, and so are parameters of a pretrained encoder that training left as they
    were, which are read from the encoder again.

    Args:
        checkpoint: written by ``framefill fit``.
        out: file to write, ending in ``.safetensors``.

    Returns:
        Its bytes.

    Raises:
        BundleError: the checkpoint cannot be read.
        UsageError: another suffix.
        MachineError: the disk is full; an existing file is left as it was.
    """
    if Path(out).suffix != WEIGHTS:
        raise UsageError("E433", f"{out} does not end in {WEIGHTS}.", remedy=f"Name it so, e.g. parser{WEIGHTS}.")
    module, made = load_module(checkpoint)
    assert module.model is not None
    still = {name for name, value in module.model.named_parameters() if not value.requires_grad}
    left_out = sorted(name for name in still if name.startswith(ENCODER))
    packed = {
        name: value.to(torch.float16).contiguous() if value.is_floating_point() else value.contiguous()
        for name, value in module.model.state_dict().items()
        if name not in left_out
    }
    told = {
        "framefill": json.dumps(made, default=str),
        "left_out": json.dumps(left_out),
        "sha256": digest_of(packed),
    }
    content = save(packed, told)
    write_bytes(out, content)
    return len(content)
