"""The scenario bank of a bundle: read, written, and changed without training. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from assistants.bundle import Bundle, changeable, made_by_anyone, rewritten
from assistants.rounding import rounded
from frames.errors import BundleError
from frames.files import write_bytes
from frames.locks import locked
from retrieval.bank import ScenarioBank
from retrieval.index import ScenarioIndex
from retrieval.table import ScenarioTable

#: Files of a bundle that hold the bank.
SCENARIOS, INDEX, LEAVES = "scenarios.json", "scenarios.faiss", "leaves.safetensors"


def read(bundle: Bundle) -> ScenarioTable:
    """The bank as the bundle's encoder read it.

    Raises:
        BundleError: the bundle has no bank, a file is damaged, or the index was made for another bank.
    """
    made = bundle.manifest.get("scenarios")
    if made is None:
        raise BundleError(
            "E328",
            f"a bundle of kind {bundle.manifest.get('parser')!r} has no scenario bank.",
            where=str(bundle.path),
            remedy="Export a raf checkpoint.",
        )
    with made_by_anyone(bundle.path):
        bank = ScenarioBank.from_dict(json.loads(bundle.read(SCENARIOS)), str(bundle.path))
        index = ScenarioIndex.from_bytes(bundle.read(INDEX), made, bank.digest, str(bundle.path))
        states = load(bundle.read(LEAVES))
        table = ScenarioTable(bank, index, made["scale"], states["leaves"] * states["scales"])
    if (len(index), len(table.leaves)) != (len(bank), table.leaf_rows.total):
        raise BundleError(
            "E395",
            f"{len(bank)} scenarios with {table.leaf_rows.total} leaves, but {len(index)} vectors and {len(table.leaves)} "
            "states of leaves.",
            where=str(bundle.path),
            remedy="Export the bundle again.",
        )
    return table


def write(table: ScenarioTable, gloss: str, folder: Path) -> dict[str, Any]:
    """Writes the files of a bank.

    Args:
        table: the bank as an encoder read it.
        gloss: how its scenarios were put into words.
        folder: of the bundle.

    Returns:
        What the manifest says of it.
    """
    table.bank.save(folder / SCENARIOS)
    write_bytes(folder / INDEX, table.index.to_bytes())
    write_bytes(folder / LEAVES, save(quantize_leaves(table.leaves)))
    return {"gloss": gloss, "scale": table.scale, **table.index.to_dict()}


def quantize_leaves(leaves: np.ndarray) -> dict[str, np.ndarray]:
    """States ``[leaves, W]`` as bytes and a scale for each leaf, which is finer than the int8 graph that reads them."""
    values, scales = rounded(leaves, axis=1)
    return {"leaves": values, "scales": scales}


def change(path: Path | str, edit: Callable[[ScenarioTable], ScenarioTable]) -> None:
    """Changes the bank of a bundle folder, whole or not at all, and one change after another.

    Args:
        path: the folder.
        edit: the present table to the new one; runs while no other process changes the bundle.

    Raises:
        BundleError: see :func:`read`; or the bundle is a zip.
        UsageError: the folder holds anything that is not the bundle's, or was exported anew meanwhile.
        MachineError: the disk is full; the bundle is left as it was.
    """
    path = Path(path)
    changeable(path)  # before a lock is left beside what is no bundle
    with locked(path):
        bundle = changeable(path)
        table = edit(read(bundle))
        with rewritten(bundle, {SCENARIOS, INDEX, LEAVES}) as (staging, manifest):
            manifest["scenarios"] = write(table, manifest["scenarios"]["gloss"], staging)
