"""From a checkpoint file to a parser."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from data.topv2.errors import BundleError
from lightning_modules.conv_nar import ConvNARModule
from lightning_modules.datamodule import Assets
from lightning_modules.nar import NARModule, OptimizationConfig
from lightning_modules.span_pointer import SpanPointerModule
from parsers.nar import DecodingConfig

#: What a checkpoint may hold.
KINDS: dict[str, type[NARModule]] = {module.kind: module for module in (ConvNARModule, SpanPointerModule)}


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Reads a checkpoint without unpickling anything but tensors and plain values.

    Raises:
        BundleError: the file is missing, truncated, or not one of framefill's.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(
            "E301", "no such checkpoint.", where=str(path), remedy="`framefill fit` prints where it saves."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(
            "E302",
            f"not a readable checkpoint ({reason}).",
            where=str(path),
            remedy="It may be truncated; use another.",
        ) from error
    except Exception as error:  # torch raises pickle.UnpicklingError for foreign content
        raise BundleError(
            "E302",
            f"not a readable checkpoint ({type(error).__name__}).",
            where=str(path),
            remedy="It may be truncated; use another.",
        ) from error
    if not isinstance(checkpoint, dict) or "framefill" not in checkpoint:
        raise BundleError(
            "E303", "not a checkpoint of framefill.", where=str(path), remedy="Train one with `framefill fit`."
        )
    return checkpoint


def load_module(path: Path | str) -> tuple[NARModule, dict[str, Any]]:
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
            DecodingConfig(**made["decoding"]),
            OptimizationConfig(**made["optimization"]),
        )
        module.build(Assets.from_dict(made["assets"], str(path)))
        assert module.model is not None
        parameters = {name[6:]: value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")}
        module.model.load_state_dict(parameters)
    except (KeyError, TypeError, RuntimeError) as error:
        raise BundleError(
            "E305",
            f"the checkpoint does not fit this framefill ({error}).",
            where=str(path),
            remedy="Train again with this version.",
        ) from error
    module.eval()
    return module, made
