"""Transfer studies of lottery tickets: the figures, a table and plots under ``results/``."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from frames.files import write_json
from lightning_modules.evaluation import environment
from lightning_modules.lottery.experiment import find_ticket
from lightning_modules.lottery.stages import stage_name
from lightning_modules.lottery.strategies import TRANSFERRED
from lightning_modules.lottery.study import Plan, experiment_of, run_study
from scripts.lottery_figures import Row, draw, merged, points


def lottery(plan: Plan, jobs: int, folder: Path) -> Path:
    """Runs what is missing of a study; writes summary, table and plots.

    Args:
        plan: the study.
        jobs: trainings side by side.
        folder: of the results.

    Returns:
        ``folder``. ``summary.json`` lists the figures of this call and of earlier ones with the same config and corpus,
        ``study.json`` what they were made with, means and divergences, beside one plot of each pair.

    Raises:
        FramefillError: the config, a domain or a stage is wrong; what is done is kept.
    """
    quiet()
    plan.check()
    where, began = environment(), time.perf_counter()
    with _progress() as show:
        rows = run_study(plan, jobs, show)
    experiment = experiment_of(plan.config, plan.root, plan.stages)
    made = {
        "parser": experiment.module.kind,
        "model": asdict(experiment.module.config),
        "decoding": asdict(experiment.module.decoding),
        "optimization": asdict(experiment.module.optimization),
        "data": experiment.data,
        "study": asdict(experiment.study),
        "corpus": experiment.checksums,
        "split": plan.split,
    }
    digest = stage_name(made)
    rows = merged(_earlier(folder, digest), rows)
    divergences = experiment.divergences({row["source"] for row in rows}, {row["target"] for row in rows}, plan.split)
    record = {
        "digest": digest,
        "made": made,
        "divergence": divergences,
        "points": points(rows),
        "bytes": experiment.stored_bytes(find_ticket(experiment, plan.sources[0], plan.seeds[0]))
        if {*TRANSFERRED} & {*plan.strategies}
        else _study(folder, digest).get("bytes", []),
        "seconds_of_last_call": round(time.perf_counter() - began),
        "jobs": jobs,
        "environment": where,
    }
    write_json(folder / "summary.json", rows)
    write_json(folder / "study.json", record)
    draw(folder)
    return folder


def _earlier(folder: Path, digest: str) -> list[Row]:
    """Rows of the folder that were made with the same config and corpus."""
    try:
        return json.loads((folder / "summary.json").read_text(encoding="utf-8")) if _study(folder, digest) else []
    except (OSError, ValueError):
        return []


def _study(folder: Path, digest: str) -> dict[str, Any]:
    """The study of the folder, if it was made with the same config and corpus."""
    try:
        study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return study if isinstance(study, dict) and study.get("digest") == digest else {}


class _progress:  # noqa: N801 (used like a function)
    """A bar with the time left; lines instead where nobody watches a terminal."""

    def __enter__(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.bar.start()
        task = self.bar.add_task("reading the corpus", total=None)
        began = time.perf_counter()

        def show(done: int, total: int, name: str) -> None:
            self.bar.update(task, completed=done, total=total, description=name)
            if not console.is_terminal:
                left = (time.perf_counter() - began) / max(1, done) * (total - done)
                print(f"{done}/{total}, about {left / 60:.0f} min left: {name}", file=sys.stderr, flush=True)

        return show

    def __exit__(self, *error: object) -> None:
        self.bar.stop()


def quiet() -> None:
    """Keeps to themselves what Lightning says at every one of hundreds of trainings."""
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
