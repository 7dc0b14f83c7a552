"""The low-resource protocol of Chen et al. 2020 (section 4): train on source domains, fine-tune on a few rows of another.

Every training is a ``framefill fit`` in a process of its own, whose record marks it as done, so a killed curve is taken
up where it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data.topv2.errors import UsageError
from data.topv2.files import write_bytes, write_json
from data.topv2.reader import data_root, split_files


def low_resource(
    config: Path, fine_tuning: Path, root: str | None, targets: Sequence[str], spis: Sequence[int], extra: Sequence[str]
) -> Path:
    """Trains the source parser, fine-tunes it for every target domain and number of samples, writes curve and plot.

    Args:
        config: of the parser.
        fine_tuning: laid over it for the target domains.
        root: corpus folder; None reads ``TOPV2_DIR``.
        targets: low-resource domains; all others in the folder are sources.
        spis: samples per intent and slot.
        extra: words for every ``framefill fit``.

    Returns:
        Folder under ``results/`` with ``curve.json``, ``curve.png`` and the record of every training.

    Raises:
        UsageError: the config cannot be read or names no run, or a training failed.
    """
    try:
        run = f"low_resource/{yaml.safe_load(config.read_text(encoding='utf-8'))['run']}"
    except (OSError, TypeError, KeyError, yaml.YAMLError) as error:
        raise UsageError(
            "E404", f"not a config with a run's name ({error!r}).", where=str(config), remedy="See configs/."
        ) from error
    folder = data_root(root)
    known = [path.name.removesuffix("_train.tsv") for path in split_files(folder, "train")]
    sources = [domain for domain in known if domain not in targets]
    common = ("--config", str(config))
    source = _fit(
        f"{run}/source", [*common, "--data.root", str(folder), f"--data.domains={json.dumps(sources)}", *extra]
    )
    curve: dict[str, dict[str, Any]] = {}
    for target in targets:
        for samples in spis:
            words = [
                *common, "--config", str(fine_tuning), "--data.root", str(folder), f"--data.domains=[{target}]",
                f"--data.train_split=train_{samples}spis", f"--data.eval_split=valid_{samples}spis",
                "--data.report_split=eval", f"--data.start={source}", *extra,
            ]  # fmt: skip
            name = f"{run}/{target}_{samples}"
            _fit(name, words)
            curve.setdefault(target, {})[str(samples)] = _record(name)["exact_match"]
    out = Path("results") / run
    write_json(out / "curve.json", {"exact_match_by_spis": curve, "source": _record(f"{run}/source")["exact_match"]})
    write_bytes(out / "curve.png", plot(curve))
    return out


def plot(curve: dict[str, dict[str, Any]]) -> bytes:
    """Exact match against samples per intent and slot, a line for each domain, as PNG."""
    from io import BytesIO

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for domain, points in curve.items():
        axes.plot([int(spis) for spis in points], list(points.values()), marker="o", label=domain)
    axes.set(xscale="log", xlabel="samples per intent and slot", ylabel="exact match on eval, %")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = BytesIO()
    figure.savefig(buffer, dpi=120)
    return buffer.getvalue()


def _fit(run: str, words: Sequence[str]) -> Path:
    """The best checkpoint of a training, which is done or continued unless its record is there."""
    if not _path(run).exists():
        print(f"\n{run}", flush=True)
        command = [sys.executable, "-m", "scripts.cli", "fit", *words, "--run", run, "--resume", "true"]
        if status := subprocess.run(command).returncode:
            raise UsageError(
                "E405",
                f"the training {run} ended with status {status}.",
                remedy="Mend what it says above and run the command again; what is done is kept.",
            )
    return Path("runs") / run / "best.ckpt"


def _record(run: str) -> dict[str, Any]:
    return json.loads(_path(run).read_text(encoding="utf-8"))


def _path(run: str) -> Path:
    return Path("results") / run / "metrics.json"
