"""Results of trainings, each in a folder whose name is the hash of all that made it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from frames.errors import BundleError
from frames.files import machine_error, sha256, write_bytes, write_json
from lightning_modules.lottery.masks import Mask

#: The file that makes a folder a stage; it is written last and holds the checksums of the others.
RECORD = "stage.json"


def stage_name(key: Mapping[str, Any]) -> str:
    """Hex SHA-256 of what makes a stage."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


class StageStore:
    """A folder of stages. A stage is written beside its place and renamed, so it is there whole or not at all.

    Args:
        root: the folder, which need not exist.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def read(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a stage, None if it has not been made.

        Raises:
            BundleError: the stage is there, but not whole.
        """
        folder = self.folder(key)
        if not folder.exists():
            return None
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            damaged = [name for name, digest in record["files"].items() if sha256(folder / name) != digest]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _half_written(folder, repr(error)) from error
        if damaged or record.get("key") != json.loads(json.dumps(key)):
            raise _half_written(folder, f"{', '.join(damaged) or RECORD} is not what was written")
        return record

    def write(
        self, key: Mapping[str, Any], record: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """Writes a stage; if another process has made it meanwhile, that one stays.

        Args:
            key: all that made it.
            record: figures.
            tensors: files of tensors by their names without suffix.

        Raises:
            MachineError: the disk is full or the folder cannot be written.
        """
        folder = self.folder(key)
        temporary: Path | None = None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self.root))
            # mkdtemp makes folders private to the user; a stage is meant to be shared like any other folder.
            temporary.chmod(0o755)
            for name, values in tensors.items():
                save_file(
                    {part: value.contiguous() for part, value in values.items()}, temporary / f"{name}.safetensors"
                )
            files = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
            write_json(temporary / RECORD, {"key": key, **record, "files": files})
            try:
                os.rename(temporary, folder)
            except OSError:
                if not folder.exists():
                    raise
        except OSError as error:
            raise machine_error(folder, error) from error
        finally:
            if temporary is not None and temporary.exists():
                shutil.rmtree(temporary, ignore_errors=True)

    def tensors(self, key: Mapping[str, Any], name: str) -> dict[str, Tensor]:
        """A file of tensors of a stage that :meth:`read` found whole."""
        return load_file(self.folder(key) / f"{name}.safetensors")

    def folder(self, key: Mapping[str, Any]) -> Path:
        """Where a stage is or will be."""
        return self.root / stage_name(key)[:24]


def write_mask(path: Path | str, mask: Mask, made: Mapping[str, Any]) -> None:
    """Writes a mask as ``path`` (safetensors, one bit a weight) and a JSON file of the same name.

    Args:
        path: ending in ``.safetensors``.
        mask: the mask.
        made: what made it: parent, round, seed, checksum of the corpus.

    Raises:
        MachineError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    write_bytes(path, save(packed(mask)))
    shapes = {name: list(kept.shape) for name, kept in mask.kept.items()}
    record = {**made, "digest": mask.digest, "sparsity": mask.sparsity, "layers": mask.layers, "shapes": shapes}
    write_json(path.with_suffix(".json"), record)


def read_mask(path: Path | str) -> tuple[Mask, dict[str, Any]]:
    """What :func:`write_mask` wrote.

    Raises:
        BundleError: a file is missing or damaged, or the two do not belong together.
    """
    path = Path(path)
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        mask = unpacked(load_file(path), record["shapes"])
        whole = mask.digest == record["digest"]
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError, RuntimeError,
    ) as error:  # fmt: skip
        raise _no_mask(path, repr(error)) from error
    if not whole:
        raise _no_mask(path, "the weights kept are not those of the JSON file")
    return mask, record


def mask_stage(path: Path | str) -> str | None:
    """Name of the stage that gave a written mask, None where no mask can be read."""
    try:
        return str(read_mask(path)[1].get("stage"))
    except BundleError:
        return None


def packed(mask: Mask) -> dict[str, Tensor]:
    """One bit a weight, as bytes."""
    return {name: torch.from_numpy(np.packbits(kept.numpy())) for name, kept in mask.kept.items()}


def unpacked(bits: Mapping[str, Tensor], shapes: Mapping[str, Any]) -> Mask:
    """The inverse of :func:`packed`."""
    kept = {}
    for name, shape in shapes.items():
        flat = np.unpackbits(bits[name].numpy(), count=int(np.prod(shape))).astype(bool)
        kept[name] = torch.from_numpy(flat.reshape(shape))
    return Mask(kept)


def _half_written(folder: Path, reason: str) -> BundleError:
    return BundleError(
        "E563",
        f"a stage that is not whole ({reason}).",
        where=str(folder),
        remedy="Delete the folder and run the command again; that training is repeated.",
    )


def _no_mask(path: Path, reason: str) -> BundleError:
    return BundleError(
        "E564", f"not a readable mask ({reason}).", where=str(path), remedy="Copy both of its files again."
    )
