"""Means, tables and plots of lottery tickets from the files of ``results/lottery``; nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from frames.files import write_bytes
from frames.plots import canvas, png
from lightning_modules.lottery.strategies import STRATEGIES, TRANSFERRED
from scripts.statistics import mean_interval

Row = dict[str, Any]
#: What makes a row of the summary one figure.
IDENTITY = ("source", "target", "strategy", "sparsity", "seed")


def draw(folder: Path) -> None:
    """Draws all plots of a folder anew from its ``summary.json`` and ``study.json``."""
    rows = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    divergence = json.loads((folder / "study.json").read_text(encoding="utf-8"))["divergence"]
    for source, target in sorted({(row["source"], row["target"]) for row in rows}):
        found = [row for row in rows if (row["source"], row["target"]) == (source, target)]
        write_bytes(folder / f"{source.replace('+', '_')}_to_{target}.png", pair_plot(found))
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


def structured_plot(rows: Sequence[Row]) -> bytes:
    """Exact match of tickets and of parsers from nothing against the share kept, for each parser and domain, as PNG."""
    groups = sorted({(row["parser"], row["domain"]) for row in rows})
    figure, axes = canvas(4.6 * len(groups), 3.6, len(groups))
    for axis, group in zip([axes] if len(groups) == 1 else axes, groups, strict=True):
        found = sorted((row for row in rows if (row["parser"], row["domain"]) == group), key=lambda row: row["kept"])
        kept = [row["kept"] for row in found]
        axis.axhline(found[0]["dense_exact_match"], color="black", linewidth=1, label="dense")
        for name, label in (
            ("exact_match", "ticket, trained values"),
            ("reset_exact_match", "ticket, initial values"),
            ("from_nothing_exact_match", "from nothing"),
        ):
            axis.plot(kept, [row[name] for row in found], marker="o", label=label)
        axis.set(xlabel="share of heads and channels kept", ylabel="exact match on eval, %", title=", ".join(group))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return png(figure)


def _cell(point: Row) -> str:
    return f"{point['exact_match']:.1f}" + ("" if point["interval"] is None else f" ± {point['interval']:.1f}")
