"""What each option of a parser is worth: the same short training with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.topv2.reader import data_root
from frames.files import write_bytes, write_json
from frames.plots import canvas, png
from frames.yaml_files import parse_yaml
from scripts.trainings import fit, name_of, record

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
        UsageError: a config cannot be read or names no run, or a training failed.
    """
    run = f"ablations/{name_of(config)}"
    table: dict[str, dict[str, Any]] = {}
    for change in (None, *changes):
        name = BASE if change is None else change.stem
        whole = change is not None and _stands_alone(change)
        laid = [change, trial] if whole else [config, trial, *([] if change is None else [change])]
        words = [word for path in laid for word in ("--config", str(path))]
        fit(f"{run}/{name.replace(' ', '_')}", [*words, "--data.root", str(data_root(root)), *extra])
        found = record(f"{run}/{name.replace(' ', '_')}")
        table[name] = {figure: found[figure] for figure in FIGURES}
        table[name]["change"] = round(found["exact_match"] - table[BASE]["exact_match"], 2)
        out = Path("results") / run
        write_json(out / "table.json", {"config": config.name, "trial": trial.name, "trainings": table})
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


def _stands_alone(config: Path) -> bool:
    name_of(config)
    return "class_path" in (parse_yaml(config.read_text(encoding="utf-8")).get("model") or {})
