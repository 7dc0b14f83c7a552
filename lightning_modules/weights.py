"""Packed weights: of a checkpoint, what others need to go on from it."""

from __future__ import annotations

from pathlib import Path

import torch

from frames.errors import UsageError
from frames.files import write_bytes
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import Assets
from lightning_modules.parser_module import ParserModule
from lightning_modules.saved import ENCODER, WEIGHTS, packed_weights, parameters_of, read_checkpoint


def pack(checkpoint: Path | str, out: Path | str, towards: Path | str | None = None, share: float = 0.5) -> int:
    """Writes a checkpoint's parameters in half precision, and how they were made, to be used wherever a checkpoint is.

    The state of the optimizer is left behind, and so are parameters of a pretrained encoder that training left as they
    were, which are read from the encoder again.

    Args:
        checkpoint: written by ``framefill fit``.
        out: file to write, ending in ``.safetensors``.
        towards: the checkpoint that it went on from; what both have is averaged (Wortsman et al. 2022, "Robust fine-tuning
            of zero-shot models"), which gives back some of what was lost on the way.
        share: of ``towards`` in the average.

    Returns:
        Its bytes.

    Raises:
        BundleError: the checkpoint cannot be read.
        UsageError: another suffix, a share that is none, or labels, scenarios or sizes differ.
        MachineError: the disk is full; an existing file is left as it was.
    """
    if Path(out).suffix != WEIGHTS:
        raise UsageError("E433", f"{out} does not end in {WEIGHTS}.", remedy=f"Name it so, e.g. parser{WEIGHTS}.")
    if not 0 <= share <= 1:
        raise UsageError("E436", f"{share} is no share.", remedy="Give one between 0 and 1.")
    module, made = load_module(checkpoint)
    assert module.model is not None
    still = {name for name, value in module.model.named_parameters() if not value.requires_grad}
    left_out = sorted(name for name in still if name.startswith(ENCODER))
    if towards is not None:
        _average(module, towards, share)
    packed = {
        name: value.to(torch.float16).contiguous() if value.is_floating_point() else value.contiguous()
        for name, value in module.model.state_dict().items()
        if name not in left_out
    }
    content = packed_weights(packed, made, left_out)
    write_bytes(out, content)
    return len(content)


@torch.no_grad()
def _average(module: ParserModule, towards: Path | str, share: float) -> None:
    """Moves the parameters that both have towards those of another checkpoint."""
    assert module.model is not None and module.assets is not None
    remedy = "Average a checkpoint with the one that it went on from (data.start)."
    checkpoint = read_checkpoint(towards)
    assets = Assets.from_dict(checkpoint["framefill"]["assets"], str(towards))
    if assets.ontology.tokens != module.assets.ontology.tokens:
        raise UsageError("E437", f"{towards} has other labels.", remedy=remedy)
    other, banks = parameters_of(checkpoint), (module.assets.bank, assets.bank)
    # Vectors of their own stand in the order of the bank; nothing else hangs on which scenarios there are.
    if "own_vectors" in other and banks[0] and banks[1] and banks[0].digest != banks[1].digest:
        raise UsageError("E446", f"{towards} has other scenarios.", remedy=remedy)
    for name, value in module.model.named_parameters():
        if name in other:
            if other[name].shape != value.shape:
                shapes = f"{list(other[name].shape)} in {towards}, not {list(value.shape)}"
                raise UsageError("E435", f"{name} has the shape {shapes}.", remedy=remedy)
            value.lerp_(other[name], share)
