"""Transfer studies of lottery tickets: the figures, a table and plots under ``results/``."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from frames.files import write_bytes, write_json
from frames.plots import canvas, png
from lightning_modules.evaluation import environment
from lightning_modules.lottery.experiment import JOIN
from lightning_modules.lottery.stages import stage_name
from lightning_modules.lottery.strategies import STRATEGIES, TRANSFERRED
from lightning_modules.lottery.study import Plan, experiment_of, run_study
from scripts.statistics import mean_interval
from scripts.trainings import name_of

Row = dict[str, Any]
#: What makes a row of the summary one figure.
IDENTITY = ("source", "target", "strategy", "sparsity", "seed")


def lottery(plan: Plan, jobs: int, out: Path | None = None) -> Path:
    """Runs what is missing of a study; writes summary, table and plots.

    Args:
        plan: the study.
        jobs: trainings side by side.
        out: folder; None for ``results/<run of the config>``, and a folder in it for a low-resource split.

    Returns:
        The folder. ``summary.json`` lists the figures of this call and of earlier ones with the same config and corpus,
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
    folder = out or Path("results") / name_of(Path(plan.config)) / ("" if plan.split == "train" else plan.split)
    digest = stage_name(made)
    rows = merged(_earlier(folder, digest), rows)
    divergences = experiment.divergences({row["source"] for row in rows}, {row["target"] for row in rows}, plan.split)
    record = {
        "digest": digest,
        "made": made,
        "divergence": divergences,
        "points": points(rows),
        "seconds_of_last_call": round(time.perf_counter() - began),
        "jobs": jobs,
        "environment": where,
    }
    write_json(folder / "summary.json", rows)
    write_json(folder / "study.json", record)
    draw(folder)
    return folder


def draw(folder: Path) -> None:
    """Draws all plots of a folder anew from its ``summary.json`` and ``study.json``."""
    rows = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    divergence = json.loads((folder / "study.json").read_text(encoding="utf-8"))["divergence"]
    for source, target in sorted({(row["source"], row["target"]) for row in rows}):
        found = [row for row in rows if (row["source"], row["target"]) == (source, target)]
        write_bytes(folder / f"{source.replace(JOIN, '_')}_to_{target}.png", pair_plot(found))
    write_bytes(folder / "loss_against_divergence.png", divergence_plot(rows, divergence))


def merged(earlier: Iterable[Row], later: Iterable[Row]) -> list[Row]:
    """Rows of both, the later ones in place of earlier ones of the same training; sorted."""
    found = {tuple(row[name] for name in IDENTITY): row for row in (*earlier, *later)}
    return [found[identity] for identity in sorted(found)]


def points(rows: Iterable[Row]) -> list[Row]:
    """Mean exact match over seeds with the half-width of its 95% interval, for each pair, strategy and sparsity."""
    alike: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        alike.setdefault(tuple(row[name] for name in IDENTITY[:-1]), []).append(row["exact_match"])
    found = []
    for identity, values in sorted(alike.items()):
        mean, width = mean_interval(values)
        found.append(
            {
                **dict(zip(IDENTITY, identity, strict=False)),
                "seeds": len(values),
                "exact_match": round(mean, 2),
                "interval": None if width is None else round(width, 2),
            }
        )
    return found


def losses(rows: Sequence[Row]) -> list[Row]:
    """What each ticket loses against the dense parser of the same target and seed, mean and interval in points."""
    dense = {(r["source"], r["target"], r["seed"]): r["exact_match"] for r in rows if r["strategy"] == "dense"}
    lost = [
        {**row, "exact_match": row["exact_match"] - dense[key]}
        for row in rows
        if row["strategy"] != "dense" and (key := (row["source"], row["target"], row["seed"])) in dense
    ]
    return [{**{k: v for k, v in p.items() if k != "exact_match"}, "change": p["exact_match"]} for p in points(lost)]


def table(folder: Path) -> None:
    """Prints mean exact match by sparsity and strategy, a table for each pair."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    found = json.loads((folder / "study.json").read_text(encoding="utf-8"))["points"]
    for source, target in sorted({(point["source"], point["target"]) for point in found}):
        pair = [point for point in found if (point["source"], point["target"]) == (source, target)]
        known = [name for name in STRATEGIES if any(point["strategy"] == name for point in pair)]
        shown = Table("sparsity", *known, title=f"{source} to {target}: exact match, 95% interval over seeds")
        cells = {(point["sparsity"], point["strategy"]): _cell(point) for point in pair}
        for sparsity in sorted({sparsity for sparsity, _ in cells}):
            shown.add_row(f"{100 * sparsity:.1f}%", *(cells.get((sparsity, name), "") for name in known))
        console.print(shown)


def pair_plot(rows: Sequence[Row]) -> bytes:
    """Exact match against the share of weights that is left, a line and a band over seeds for each strategy, as PNG."""
    figure, axes = canvas(6.4, 4)
    found = points(rows)
    for strategy in STRATEGIES:
        line = [point for point in found if point["strategy"] == strategy]
        if not line:
            continue
        if strategy == "dense":
            axes.axhline(line[0]["exact_match"], color="black", linewidth=1, label=strategy)
            continue
        left = [100 * (1 - point["sparsity"]) for point in line]
        means, widths = [p["exact_match"] for p in line], [p["interval"] or 0.0 for p in line]
        (drawn,) = axes.plot(left, means, marker="o", markersize=3, label=strategy)
        low = [max(0.0, m - w) for m, w in zip(means, widths, strict=True)]
        high = [m + w for m, w in zip(means, widths, strict=True)]
        axes.fill_between(left, low, high, alpha=0.12, color=drawn.get_color(), linewidth=0)
    axes.set(
        xscale="log", xlabel="weights left, % (logarithmic)", ylabel="exact match on eval, %", ylim=(0, None),
        title=f"{rows[0]['source']} to {rows[0]['target']}",
    )  # fmt: skip
    axes.invert_xaxis()
    ticks = [50, 20, 10, 5, 2, 1]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return png(figure)


def divergence_plot(rows: Sequence[Row], divergence: Mapping[str, Mapping[str, float]]) -> bytes:
    """What transferred tickets lose against dense, averaged over sparsities, against the divergence of the domains."""
    figure, axes = canvas(6.4, 4)
    found = losses(rows)
    for strategy in TRANSFERRED:
        by_pair: dict[tuple[str, str], list[float]] = {}
        for point in found:
            if point["strategy"] == strategy:
                by_pair.setdefault((point["source"], point["target"]), []).append(-point["change"])
        if by_pair:
            apart = [divergence[source][target] for source, target in by_pair]
            axes.scatter(apart, [sum(lost) / len(lost) for lost in by_pair.values()], label=strategy, s=24)
    for source, target in sorted({(row["source"], row["target"]) for row in rows}):
        axes.annotate(
            f"{source} to {target}", (divergence[source][target], 0), xycoords=("data", "axes fraction"),
            rotation=90, fontsize=6, va="bottom", ha="right",
        )  # fmt: skip
    axes.set(
        xlabel="Jensen-Shannon divergence of subword unigrams, bits",
        ylabel="points lost against dense, mean over sparsities",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return png(figure)


def _cell(point: Row) -> str:
    return f"{point['exact_match']:.1f}" + ("" if point["interval"] is None else f" ± {point['interval']:.1f}")


def _earlier(folder: Path, digest: str) -> list[Row]:
    """Rows of the folder that were made with the same config and corpus."""
    try:
        if json.loads((folder / "study.json").read_text(encoding="utf-8"))["digest"] != digest:
            return []
        return json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError):
        return []


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
