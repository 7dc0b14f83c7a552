"""What each option of a parser is worth: the same short training with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.topv2.reader import corpus_checksum, data_root
from frames.errors import UsageError
from frames.files import read_json, write_bytes, write_json
from frames.plots import canvas, png
from frames.yaml_files import parse_yaml
from scripts.trainings import Training, check_made_by, digest_of, fit_noted, is_made_by, name_of, record

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
        Folder under ``results/`` with ``table.json``, ``table.png`` and the record of every training. Changes of earlier calls
        stay in the table if the training that they are compared with is the same.

    Raises:
        UsageError: a config cannot be read or names no run, a training failed, or one of that name is there that other
            configs, rows or words made.
        BundleError: the table that is there cannot be read.
    """
    run = f"ablations/{name_of(config)}"
    out = Path("results") / run
    root = str(data_root(root))
    checksums = [corpus_checksum(root, split) for split in ("train", "eval")]
    plan: dict[str, Training] = {}
    for change in (None, *changes):
        name = BASE if change is None else change.stem
        laid = [config, trial]
        if change is not None:
            laid = [change, trial] if _stands_alone(change) else [config, trial, change]
        words = [*(word for path in laid for word in ("--config", str(path))), "--data.root", root]
        training = Training(f"{run}/{name.replace(' ', '_')}", words, digest_of(laid, extra, checksums))
        if any(other.run == training.run and other.digest != training.digest for other in plan.values()):
            raise UsageError(
                "E495", f"two changes are called {name}.", where=str(change), remedy="Give the file another name."
            )
        plan.setdefault(name, training)
    before = read_json(out / "table.json", "a table of ablations", "E496") if (out / "table.json").exists() else {}
    about = {"config": config.name, "trial": trial.name}
    check_made_by(list(plan.values()), before, about, extra)
    table: dict[str, dict[str, Any]] = {}
    made_by: dict[str, str] = {}
    if is_made_by(plan[BASE], before, about, extra):
        made_by |= before.get("made_by", {})
        for name, row in before["trainings"].items():
            if name not in plan or is_made_by(plan[name], before, about, extra):
                table[name] = row

    def write() -> None:
        write_json(out / "table.json", {**about, "trainings": table, "made_by": made_by})

    for name, training in plan.items():
        fit_noted(training, extra, made_by, write)
        found = record(training.run)
        table[name] = {figure: found[figure] for figure in FIGURES}
        for row in table.values():
            row["change"] = round(row["exact_match"] - table[BASE]["exact_match"], 2)
        write()
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
