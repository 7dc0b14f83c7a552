"""Packed weights: of a checkpoint, what others need to go on from it."""

from __future__ import annotations

from pathlib import Path

import torch

from frames.errors import UsageError
from frames.files import write_bytes
from lightning_modules.checkpoints import load_module
from lightning_modules.saved import ENCODER, WEIGHTS, packed_weights


def pack(checkpoint: Path | str, out: Path | str) -> int:
    """Writes a checkpoint's parameters, in half precision, and its metadata; the file serves wherever a checkpoint does.

    The state of the optimizer is left behind, and so are parameters of a pretrained encoder that training left as they
    were, which are read from the encoder again.

    Args:
        checkpoint: written by ``framefill fit``.
        out: file to write, ending in ``.safetensors``.

    Returns:
        Its bytes.

    Raises:
        BundleError: the checkpoint cannot be read.
        UsageError: ``out`` has another suffix.
        MachineError: the disk is full; an existing file is left as it was.
    """
    if Path(out).suffix != WEIGHTS:
        raise UsageError("E433", f"{out} does not end in {WEIGHTS}.", remedy=f"Name it so, e.g. parser{WEIGHTS}.")
    module, metadata = load_module(checkpoint)
    frozen = {name for name, value in module.net.named_parameters() if not value.requires_grad}
    # An encoder that is given by its architecture has no weights to be read from.
    pretrained = isinstance(getattr(module.config, "encoder", None), str)
    left_out = sorted(name for name in frozen if pretrained and name.startswith(ENCODER))
    packed = {
        name: value.to(torch.float16).contiguous() if value.is_floating_point() else value.contiguous()
        for name, value in module.net.state_dict().items()
        if name not in left_out
    }
    content = packed_weights(packed, metadata, left_out)
    write_bytes(out, content)
    return len(content)
