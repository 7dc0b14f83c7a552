"""Scoring a parser on a split, and the record that makes the figure reproducible."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from data.topv2.reader import Example
from frames.errors import FramefillError
from frames.files import write_json, write_text
from frames.outputs import PREDICTIONS_HEADER
from lightning_modules.metrics import FrameExactMatch, rounded
from parsers.interface import Hypothesis, Parser

#: Utterances parsed together.
CHUNK = 512


def evaluate(
    parser: Parser,
    examples: Sequence[Example],
    is_valid: Callable[[Any], bool] | None = None,
    trained_on: set[tuple[str, str]] | None = None,
    predictions: Path | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Parses the utterances of ``examples`` and scores the frames; gold frames are read only afterwards.

    Args:
        parser: any parser.
        examples: rows of a split.
        is_valid: an ontology's check, for the well-formed share.
        trained_on: (domain, utterance) pairs of the training data, for the figure on unseen utterances.
        predictions: file for ``domain, utterance, gold, predicted, exact`` rows, decoupled frames.
        progress: called with the number of utterances done in each step.

    Returns:
        What :class:`lightning_modules.metrics.FrameExactMatch` computes, rounded, and ``latency_ms``, the mean
        time an utterance took in batches of :data:`CHUNK`.

    Raises:
        FramefillError: an utterance cannot be read; the error names its file and line.
    """
    # One process sees all examples, even where others wait for it (the end of a training on several).
    metric = FrameExactMatch(sorted({example.domain for example in examples}), is_valid, sync_on_compute=False)
    rows = [PREDICTIONS_HEADER]
    spent = 0.0
    for begin in range(0, len(examples), CHUNK):
        chunk = examples[begin : begin + CHUNK]
        clock = time.perf_counter()
        parsed = _parse(parser, chunk)
        spent += time.perf_counter() - clock
        frames = [hypotheses[0].frame for hypotheses in parsed]
        gold = [example.frame for example in chunk]
        seen = None if trained_on is None else [(example.domain, example.utterance) in trained_on for example in chunk]
        metric.update(frames, gold, [example.domain for example in chunk], seen)
        if predictions is not None:
            for example, frame in zip(chunk, frames, strict=True):
                target = example.frame.decoupled()
                exact = int(frame == target)
                rows.append(f"{example.domain}\t{example.utterance}\t{target}\t{frame or ''}\t{exact}\n")
        if progress is not None:
            progress(len(chunk))
    if predictions is not None:
        write_text(predictions, "".join(rows))
    figures = rounded(metric.compute())
    if trained_on is None:
        # What the parser was trained on is not known here, so which utterances are new to it is not either.
        del figures["unseen_exact_match"], figures["unseen_count"]
    return {**figures, "latency_ms": round(1000 * spent / max(1, len(examples)), 3)}


def _parse(parser: Parser, examples: Sequence[Example]) -> list[list[Hypothesis]]:
    """Hypotheses of the utterances; an error names the row that it is about."""
    try:
        return parser.parse([example.utterance for example in examples])
    except FramefillError:
        for example in examples:
            try:
                parser.parse([example.utterance])
            except FramefillError as error:
                raise error.at(example.where) from error
        raise


def spread(examples: Sequence[Example], rows: int | None) -> list[Example]:
    """About ``rows`` of the examples, evenly spread over their order; None for all."""
    return list(examples[:: max(1, len(examples) // rows)] if rows else examples)


def table(metrics: dict[str, Any]) -> None:
    """Prints the figures as people read them."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    summary = Table(title=f"{metrics['count']} utterances, decoupled frames", show_header=False)
    for name in (
        "exact_match", "macro_exact_match", "unseen_exact_match", "unordered_exact_match", "well_formed",
        "scenario_accuracy", "frame_length_accuracy", "bracket_f1", "latency_ms",
    ):  # fmt: skip
        if name in metrics:
            summary.add_row(name.replace("_", " "), f"{metrics[name]:.2f}")
    console.print(summary)
    for part in ("by_domain", "by_depth", "by_slots"):
        breakdown = Table(part.replace("_", " "), "exact match", "utterances")
        for key, entry in metrics[part].items():
            breakdown.add_row(key, f"{entry['exact_match']:.2f}", str(entry["count"]))
        console.print(breakdown)


def environment() -> dict[str, Any]:
    """Commit, versions and hardware, for the record beside a figure."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {name: version(name) for name in ("torch", "pytorch-lightning", "transformers", "onnxruntime")},
        "python": platform.python_version(),
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            **({"accelerator": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        },
    }


def write_record(
    path: Path | str, metrics: dict[str, Any], metadata: dict[str, Any], where: dict[str, Any] | None = None
) -> None:
    """Writes ``metrics.json``: the figures, how the parser was made, and the environment.

    Args:
        path: file to write.
        metrics: as :func:`evaluate` returns.
        metadata: how the parser was made: kind, options, seed and checksums.
        where: :func:`environment` of the time the work began; None takes it now.
    """
    made = {key: value for key, value in metadata.items() if key != "assets"}
    write_json(
        path, {**metrics, "made": json.loads(json.dumps(made, default=str)), "environment": where or environment()}
    )


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
