"""Checkpoint files, as ``framefill fit`` writes them or as ``framefill weights`` packs them: reading without trusting."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from frames.errors import BundleError, UsageError
from frames.files import write_bytes
from parsers.aliases import RENAMED_PARAMETERS
from parsers.pretrained import load_transformer

#: Suffix of packed weights, and where a pretrained encoder's parameters stand among the model's.
WEIGHTS, ENCODER = ".safetensors", "encoder.transformer."
#: What every checkpoint tells of its making.
SECTIONS = ("assets", "model", "decoding", "optimization", "data")
#: End of the name of a weight's mask (:class:`lightning_modules.lottery.masks.Masked`).
MASK = ".0.kept"


def check_suffix(out: Path | str) -> None:
    """Whether a file of tensors will be found again by its name.

    Raises:
        UsageError: ``out`` does not end in :data:`WEIGHTS`.
    """
    if Path(out).suffix != WEIGHTS:
        raise UsageError(
            "E433", f"{out} does not end in {WEIGHTS}.", remedy=f"Name it so, e.g. {Path(out).stem}{WEIGHTS}."
        )


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Reads a checkpoint without unpickling anything but tensors and plain values.

    Raises:
        BundleError: the file is missing, truncated, or not one of framefill's.
        UsageError: packed weights lack what their pretrained encoder brings, and it cannot be had here.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder, not a checkpoint" if path.is_dir() else "no such checkpoint"
        remedy = "`framefill fit` prints where it saves; what `framefill export` wrote is a bundle."
        raise BundleError("E301", f"{what}.", where=str(path), remedy=remedy)
    if path.suffix == WEIGHTS:
        return _read_weights(path)
    try:
        # torch does not compare the checksums that it writes.
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{damaged} is not what was written")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for foreign content, pickle.UnpicklingError among them
        # What torch says of foreign pickles is advice to load them without a check, which nobody should follow.
        lines = [] if isinstance(error, UnpicklingError) else str(error).splitlines()
        reason = lines[0][:200] if lines else type(error).__name__
        raise BundleError(
            "E302",
            f"not a readable checkpoint ({reason}).",
            where=str(path),
            remedy="It may be truncated; use another.",
        ) from error
    return _checked(checkpoint, path)


def _checked(checkpoint: Any, path: Path) -> dict[str, Any]:
    """The content of a file, if it has the parts of a checkpoint.

    Raises:
        BundleError: it has not.
    """
    parts = [checkpoint.get(part) for part in ("framefill", "state_dict")] if isinstance(checkpoint, dict) else [None]
    sections = [part.get(name) for part in parts[:1] if isinstance(part, dict) for name in SECTIONS]
    if not all(isinstance(part, dict) for part in (*parts, *sections)):
        raise BundleError(
            "E303", "not a checkpoint of framefill.", where=str(path), remedy="Train one with `framefill fit`."
        )
    return checkpoint


def parameters_of(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The model's parameters by the model's present names; those of a training under a mask with their zeros."""
    found = {name[6:]: value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")}
    for name in [name for name in found if name.endswith(MASK)]:
        # As torch.nn.utils.parametrize names a weight and what is applied to it.
        original = name.removesuffix(MASK) + ".original"
        path, _, parameter = name.removesuffix(MASK).rpartition("parametrizations.")
        found[path + parameter] = torch.where(found.pop(name), found.pop(original), 0.0)
    return under_present_names(found)


def under_present_names(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters that an earlier version saved, by the names that they have now."""
    present = {}
    for name, value in parameters.items():
        module, dot, own = name.rpartition(".")
        present[f"{module}{dot}{RENAMED_PARAMETERS.get(own, own)}"] = value
    return present


def encoder_config_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture of a checkpoint's encoder; earlier versions kept it among the options of the model."""
    found = metadata.get("encoder_config") or metadata["model"].get("encoder_config")
    return dict(found or {})


def packed_weights(packed: dict[str, Tensor], metadata: Mapping[str, Any], left_out: Sequence[str]) -> bytes:
    """The content of a file of packed weights.

    Args:
        packed: parameters by the model's own names.
        metadata: what the checkpoint holds besides parameters.
        left_out: names of parameters that the pretrained encoder brings.
    """
    header = {
        "framefill": json.dumps(metadata, default=str),
        "left_out": json.dumps(left_out),
        "sha256": digest_of(packed),
    }
    return save(packed, header)


def write_decoding(path: Path | str, decoding: Mapping[str, Any]) -> None:
    """Writes options of decoding into a checkpoint or packed weights, in place of those that it has.

    Args:
        path: the file; replaced whole or not at all.
        decoding: all options of its kind of parser.

    Raises:
        BundleError: see :func:`read_checkpoint`.
        MachineError: the disk is full; the file is left as it was.
    """
    path = Path(path)
    if path.suffix == WEIGHTS:
        packed, metadata, left_out = _unpacked(path)
        content = packed_weights(packed, {**metadata, "decoding": dict(decoding)}, left_out)
    else:
        checkpoint = read_checkpoint(path)
        checkpoint["framefill"]["decoding"] = dict(decoding)
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getvalue()
    write_bytes(path, content)


def _read_weights(path: Path) -> dict[str, Any]:
    """Packed weights as a checkpoint, complete with what was left out of them."""
    packed, metadata, left_out = _unpacked(path)
    _checked({"framefill": metadata, "state_dict": packed}, path)
    parameters = {name: value.float() if value.is_floating_point() else value for name, value in packed.items()}
    if left_out:
        pretrained = load_transformer(metadata["model"]["encoder"]).state_dict()
        parameters |= {name: pretrained[name.removeprefix(ENCODER)] for name in left_out}
    return {"framefill": metadata, "state_dict": {f"model.{name}": value for name, value in parameters.items()}}


def _unpacked(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """The arguments of :func:`packed_weights`, verified."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        metadata, left_out = json.loads(header["framefill"]), list(json.loads(header["left_out"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            "E307",
            f"not readable weights ({error!r}).",
            where=str(path),
            remedy="The file may be truncated; copy it again.",
        ) from error
    if digest_of(packed) != header.get("sha256"):
        raise BundleError(
            "E306", "the weights are not what their checksum says.", where=str(path), remedy="Copy the file again."
        )
    return packed, metadata, left_out


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and contents."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
