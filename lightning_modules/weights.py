"""Packed weights: of a checkpoint, what others need to go on from it."""

from __future__ import annotations

from pathlib import Path

import torch

from frames.files import write_bytes
from lightning_modules.checkpoints import load_module
from lightning_modules.parser_module import ParserModule
from lightning_modules.saved import ENCODER, check_suffix, packed_weights
from parsers.pretrained import load_transformer


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
        UsageError: ``out`` has another suffix, or the pretrained encoder is not here to be compared with.
        MachineError: the disk is full; an existing file is left as it was.
    """
    check_suffix(out)
    module, metadata = load_module(checkpoint)
    left_out = _as_pretrained(module)
    packed = {
        name: value.to(torch.float16).contiguous() if value.is_floating_point() else value.contiguous()
        for name, value in module.net.state_dict().items()
        if name not in left_out
    }
    content = packed_weights(packed, metadata, left_out)
    write_bytes(out, content)
    return len(content)


def _as_pretrained(module: ParserModule) -> list[str]:
    """Frozen parameters that are as the pretrained encoder has them: an earlier training, or a mask, may have changed some."""
    frozen = {
        name: value
        for name, value in module.net.named_parameters()
        if name.startswith(ENCODER) and not value.requires_grad
    }
    encoder = getattr(module.config, "encoder", None)
    # An encoder that is given by its architecture has no weights to be read from.
    if not frozen or not isinstance(encoder, str):
        return []
    theirs = load_transformer(encoder).state_dict()

    def same(name: str) -> bool:
        # Averages of one and the same value are rounded.
        return torch.allclose(frozen[name], theirs[name.removeprefix(ENCODER)].to(frozen[name].dtype), atol=1e-6)

    return sorted(filter(same, frozen))
