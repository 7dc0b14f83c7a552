"""Packed weights: of a checkpoint, what others need to go on from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from data.topv2.errors import UsageError
from data.topv2.files import write_bytes
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import Assets
from lightning_modules.parser_module import ParserModule
from lightning_modules.saved import ENCODER, WEIGHTS, packed_weights, parameters_of, read_checkpoint


def pack(
    checkpoint: Path | str, out: Path | str, towards: Sequence[Path | str] = (), share: float | None = None
) -> int:
    """Writes a checkpoint's parameters in half precision, and how they were made, to be used wherever a checkpoint is.

    The state of the optimizer is left behind, and so are parameters of a pretrained encoder that training left as they
    were, which are read from the encoder again.

    Args:
        checkpoint: written by ``framefill fit``.
        out: file to write, ending in ``.safetensors``.
        towards: checkpoints to average with. The one that it went on from gives back some of what was lost on the way
            (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"); trainings that differ from it in their seed
            alone err less together than each does (Wortsman et al. 2022, "Model soups").
        share: of ``towards`` together; ``None`` counts every checkpoint alike.

    Returns:
        Its bytes.

    Raises:
        BundleError: a checkpoint cannot be read.
        UsageError: another suffix, a share that is none, or labels, scenarios or sizes differ.
        MachineError: the disk is full; an existing file is left as it was.
    """
    if Path(out).suffix != WEIGHTS:
        raise UsageError("E433", f"{out} does not end in {WEIGHTS}.", remedy=f"Name it so, e.g. parser{WEIGHTS}.")
    if share is None:
        share = len(towards) / (len(towards) + 1)
    if not 0 <= share <= 1:
        raise UsageError("E436", f"{share} is no share.", remedy="Give one between 0 and 1.")
    module, made = load_module(checkpoint)
    assert module.model is not None
    still = {name for name, value in module.model.named_parameters() if not value.requires_grad}
    left_out = sorted(name for name in still if name.startswith(ENCODER))
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
def _average(module: ParserModule, towards: Sequence[Path | str], share: float) -> None:
    """Moves each parameter towards its mean in other checkpoints, those that have it."""
    assert module.model is not None and module.assets is not None
    remedy = "Average a checkpoint with the one that it went on from (data.start), or with another seed's."
    bank = module.assets.bank
    sums = {name: (torch.zeros_like(value), 0) for name, value in module.model.named_parameters()}
    for path in towards:
        checkpoint = read_checkpoint(path)
        assets = Assets.from_dict(checkpoint["framefill"]["assets"], str(path))
        if assets.ontology.tokens != module.assets.ontology.tokens:
            raise UsageError("E437", f"{path} has other labels.", remedy=remedy)
        if bank is not None and assets.bank is not None and list(bank) != list(assets.bank):
            raise UsageError("E446", f"{path} has another bank of scenarios.", remedy=remedy)
        for name, other in parameters_of(checkpoint).items():
            if name not in sums:
                continue
            so_far, count = sums[name]
            if other.shape != so_far.shape:
                shapes = f"{list(other.shape)} in {path}, not {list(so_far.shape)}"
                raise UsageError("E435", f"{name} has the shape {shapes}.", remedy=remedy)
            sums[name] = (so_far + other, count + 1)
    for name, value in module.model.named_parameters():
        others, count = sums[name]
        if count:
            value.lerp_(others / count, share)
