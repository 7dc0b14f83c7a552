"""What each option of a parser is worth: the same short training with one thing changed at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.topv2.reader import data_root
from frames.errors import UsageError
from frames.files import read_json, write_bytes, write_json
from frames.plots import canvas, png
from frames.yaml_files import parse_yaml
from scripts.trainings import done, fit, name_of, record

#: The training that the others are compared with.
BASE = "as it is"
FIGURES = ("exact_match", "unseen_exact_match", "scenario_accuracy", "frame_length_accuracy")


def ablations(config: Path, trial: Path, changes: Sequence[Path], root: str | None, extra: Sequence[str]) -> Path:
    """Trains a parser as it is and once for every change, writes table and plot.

    Args:
        config: of the parser.
        trial: laid over the parser's, to make the trainings short.
        changes: configs laid over both; one that names a class of its own stands in place of the parser's instead.
        root: corpus folder; None reads ``TOPV2_DIR``.
        extra: words for every ``framefill fit``.

    Returns:
        Folder under ``results/`` with ``table.json``, ``table.png`` and the record of every training.

    Raises:
        UsageError: a config cannot be read or names no run, a training failed, or one of that name is there that other
            configs or words made.
        BundleError: the table that is there cannot be read.
    """
    run = f"ablations/{name_of(config)}"
    out = Path("results") / run
    root = str(data_root(root))
    plan: dict[str, tuple[str, list[Path], str]] = {}
    for change in (None, *changes):
        name = BASE if change is None else change.stem
        laid = [config, trial]
        if change is not None:
            laid = [change, trial] if _stands_alone(change) else [config, trial, change]
        training = (name, laid, _digest(laid, extra))
        if plan.setdefault(f"{run}/{name.replace(' ', '_')}", training)[2] != training[2]:
            raise UsageError(
                "E495", f"two changes are called {name}.", where=str(change), remedy="Give the file another name."
            )
    before = read_json(out / "table.json", "a table of ablations", "E496") if (out / "table.json").exists() else {}
    for where, (name, _, digest) in plan.items():
        if done(where) and not _same(before, name, digest, config, trial):
            raise UsageError(
                "E494",
                f"the training {name!r} is there, made by other configs or other words after --fit.",
                where=f"results/{where}",
                remedy=f"Move {out} and runs/{run} away, or give what it was made by.",
            )
    table: dict[str, dict[str, Any]] = {}
    made_by = dict(before.get("made_by", {}))
    for where, (name, laid, digest) in plan.items():
        words = [word for path in laid for word in ("--config", str(path))]
        fit(where, [*words, "--data.root", root, *extra])
        found = record(where)
        table[name] = {figure: found[figure] for figure in FIGURES}
        table[name]["change"] = round(found["exact_match"] - table[BASE]["exact_match"], 2)
        made_by[name] = digest
        written = {"config": config.name, "trial": trial.name, "trainings": table, "made_by": made_by}
        write_json(out / "table.json", written)
        write_bytes(out / "table.png", plot(table))
    return out


def plot(table: dict[str, dict[str, Any]]) -> bytes:
    """What each change does to exact match, as PNG."""
    changes = {name: row["change"] for name, row in table.items() if name != BASE}
    figure, axes = canvas(6, 1.2 + 0.3 * len(changes))
    axes.barh(list(changes), list(changes.values()))
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel=f"change of exact match on eval, points ({table[BASE]['exact_match']:.2f} {BASE})")
    axes.grid(alpha=0.3, axis="x")
    return png(figure)


def _digest(laid: Sequence[Path], extra: Sequence[str]) -> str:
    """SHA-256 of all that makes a training beside the corpus."""
    configs = [parse_yaml(path.read_text(encoding="utf-8")) for path in laid]
    return hashlib.sha256(json.dumps([configs, *extra], sort_keys=True, default=str).encode()).hexdigest()


def _same(before: Mapping[str, Any], name: str, digest: str, config: Path, trial: Path) -> bool:
    """Whether the training that is there is the one that is wanted; tables of earlier versions tell only two names."""
    if name in before.get("made_by", {}):
        return before["made_by"][name] == digest
    return not before or (before.get("config"), before.get("trial")) == (config.name, trial.name)


def _stands_alone(config: Path) -> bool:
    name_of(config)
    return "class_path" in (parse_yaml(config.read_text(encoding="utf-8")).get("model") or {})
