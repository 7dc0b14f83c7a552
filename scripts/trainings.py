"""Trainings that an experiment consists of: each a ``framefill fit`` in a process of its own, done once.

The record of a training marks it as done, and a training without one continues from its last checkpoint, so a killed
experiment is taken up where it stopped.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frames.errors import FramefillError, UsageError, located
from frames.folders import run_folder
from frames.yaml_files import parse_yaml


def name_of(config: Path) -> str:
    """The run that a config names.

    Raises:
        UsageError: the config cannot be read or names no run.
    """
    try:
        run = parse_yaml(config.read_text(encoding="utf-8"))["run"]
        if not isinstance(run, str):
            raise TypeError(f"run is {run!r}")
        with located(str(config)):
            run_folder(Path("runs"), run)
        return run
    except FramefillError:
        raise
    except (OSError, TypeError, KeyError, ValueError) as error:
        raise UsageError(
            "E404", f"not a config with a run's name ({error!r}).", where=str(config), remedy="See configs/."
        ) from error


def fit(run: str, words: Sequence[str], needed: bool = False) -> Path:
    """The best checkpoint of a training, which is done or continued unless its record is there.

    Args:
        run: its name.
        words: for ``framefill fit``.
        needed: whether the checkpoint must be there as well, for another training to go on from it.

    Raises:
        UsageError: the training failed.
        SystemExit: this process was asked to end, and the training was before it.
    """
    best = Path("runs") / run / "best.ckpt"
    if not done(run) or (needed and not best.exists()):
        print(f"\n{run}", flush=True)
        command = [sys.executable, "-m", "scripts.cli", "fit", *words, "--run", run, "--resume", "true"]
        if status := run_to_end(command):
            raise UsageError(
                "E405",
                f"the training {run} ended with status {status}.",
                remedy="Mend what it says above and run the command again; what is done is kept.",
            )
    return best


def run_to_end(command: Sequence[str]) -> int:
    """Runs a command to its end; a SIGTERM ends it first, and then this process.

    Returns:
        Its exit status.

    Raises:
        SystemExit: this process was asked to end.
    """
    asked = False

    def end(*_: object) -> None:
        nonlocal asked
        asked = True
        child.terminate()

    child = subprocess.Popen(command)
    before = signal.signal(signal.SIGTERM, end)
    try:
        status = child.wait()
    except BaseException:
        # After Ctrl-C, the training is given the time to write its checkpoint.
        child.terminate()
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if asked:
        sys.exit(128 + signal.SIGTERM)  # the shell's convention
    return status


def done(run: str) -> bool:
    """Whether a training has its record."""
    return _path(run).exists()


def record(run: str) -> dict[str, Any]:
    """The record of a training that is done."""
    return json.loads(_path(run).read_text(encoding="utf-8"))


def recorded(run: str, pattern: str) -> list[str]:
    """Last parts of the names ``run/...`` of trainings that are done and fit a glob pattern."""
    return [path.parent.name for path in Path().glob(str(_path(f"{run}/{pattern}")))]


def _path(run: str) -> Path:
    return Path("results") / run / "metrics.json"
