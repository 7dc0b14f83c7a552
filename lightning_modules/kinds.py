"""The kinds of parser by the name that checkpoints and bundles carry; a new kind is registered here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: Module and class of each kind. Classes are imported when asked for, so that kinds can load each other's checkpoints.
KINDS = {
    "conv_nar": ("lightning_modules.conv_nar", "ConvNARModule"),
    "span_pointer": ("lightning_modules.span_pointer", "SpanPointerModule"),
    "autoregressive": ("lightning_modules.autoregressive", "AutoregressiveModule"),
    "layerskip": ("lightning_modules.layerskip", "LayerSkipModule"),
    "raf": ("lightning_modules.raf", "RAFModule"),
}


def module_class(kind: object) -> Any:
    """The LightningModule class of a kind, None if the kind is not known."""
    if kind not in KINDS:
        return None
    module, name = KINDS[str(kind)]
    return getattr(import_module(module), name)
