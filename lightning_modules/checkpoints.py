"""From a checkpoint file to a parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.topv2.errors import BundleError
from lightning_modules.autoregressive import AutoregressiveModule
from lightning_modules.conv_nar import ConvNARModule
from lightning_modules.datamodule import Assets
from lightning_modules.parser_module import ParserModule
from lightning_modules.raf import RAFModule
from lightning_modules.saved import parameters_of, read_checkpoint
from lightning_modules.span_pointer import SpanPointerModule

#: What a checkpoint may hold.
KINDS: dict[str, type[ParserModule]] = {
    module.kind: module for module in (ConvNARModule, SpanPointerModule, AutoregressiveModule, RAFModule)
}


def load_module(path: Path | str) -> tuple[ParserModule, dict[str, Any]]:
    """The module of a checkpoint, in evaluation mode, and what the checkpoint says of its making.

    Raises:
        BundleError: see :func:`read_checkpoint`; or an unknown kind of parser, or parameters that do not fit.
    """
    checkpoint = read_checkpoint(path)
    made = checkpoint["framefill"]
    kind = KINDS.get(made.get("kind"))
    if kind is None:
        raise BundleError(
            "E304", f"parser kind {made.get('kind')!r} is not known.", where=str(path), remedy="Update framefill."
        )
    try:
        module = kind(
            kind.config_class(**made["model"]),
            kind.decoding_class(**made["decoding"]),
            kind.optimization_class(**made["optimization"]),
        )
        module.build(Assets.from_dict(made["assets"], str(path)))
        assert module.model is not None
        module.model.load_state_dict(parameters_of(checkpoint))
    except (KeyError, TypeError, RuntimeError) as error:
        raise BundleError(
            "E305",
            f"the checkpoint does not fit this framefill ({error}).",
            where=str(path),
            remedy="Train again with this version.",
        ) from error
    module.eval()
    return module, made
