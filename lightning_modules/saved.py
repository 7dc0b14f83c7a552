"""Checkpoint files: reading one without trusting it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.topv2.errors import BundleError


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


def parameters_of(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The model's parameters by the model's own names."""
    return {name[6:]: value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")}
